"""Runs of the configs on random data, on which the cost of a step does not depend."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iterand_jax.configs import load
from iterand_jax.data.datasets import get_dataset, open_source
from iterand_jax.data.sources import DataNotFoundError, Source
from iterand_jax.training import building, procedures
from iterand_jax.training.config import resolve
from iterand_jax.training.procedures import PROCEDURES

SIZES = {
    "cifar10": {"train": 50_000, "test": 10_000},
    "imagenet2012": {"train": 1_281_167, "validation": 50_000},
    "imdb_reviews": {"train": 25_000, "test": 25_000},
}


def build(
    name: str, *, sizes: Mapping[str, int] | None = None, **fields: Any
) -> building.DataRun:
    """Builds the run of a config; for magnitude pruning, the dense training.

    Args:
      name: of a file in `configs`.
      sizes: of the splits; by default those of the dataset if it is available, else
        the official ones.
      fields: of the config to set; nested ones as "network.width".
    """
    config = load(name)
    config.update_from_flattened_dict(fields)
    config = resolve(config)
    if config.method in PROCEDURES:
        config = procedures.stages(config)[0]
    dataset = config.dataset.name
    if sizes is None:
        try:
            return building.build(config, open_source(dataset))
        except DataNotFoundError:
            sizes = SIZES[dataset]
    source = Source(
        name=dataset,
        num_classes=get_dataset(dataset).outputs,
        sizes=sizes,
        encoding="none",
        fingerprint="none",
        read=_refuse,
        image_shape=get_dataset(dataset).inputs[0].shape[1:],
    )
    return building.build(config, source)


def batch(shapes: Any) -> Any:
    """Arrays for a step: pixels are random; indices, labels and tokens are 1."""
    generator = np.random.default_rng(0)

    def array(shape):
        if shape.dtype == jnp.uint8:
            value = generator.integers(0, 256, shape.shape, np.uint8)
        else:
            value = np.ones(shape.shape, shape.dtype)
        return jax.device_put(value, shape.sharding)

    return jax.tree.map(array, shapes)


def _refuse(split: str) -> None:
    raise DataNotFoundError(f"the data is needed here, for the {split} split")
