"""What every test needs, also the examples in docstrings."""

import pytest

from iterand_jax.data.datasets import DATASETS
from iterand_jax.methods import METHODS
from iterand_jax.networks import NETWORKS


@pytest.fixture(autouse=True)
def _registries(monkeypatch):
    """What a test registers is gone after it: others of its worker see what is shipped.

    Examples in docstrings register, too, so this is not in tests/.
    """
    for registry in (DATASETS, METHODS, NETWORKS):
        monkeypatch.setattr(registry, "table", dict(registry.table))
