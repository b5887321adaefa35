"""Configs with fields of any type and size: refused in one line, or trained."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.measurements.faults.mutators import STRANGE
from experiments.measurements.faults.trial import REFUSED, Trial
from iterand_jax.configs import default, load, names
from iterand_jax.training import building, fields
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json

PROMISE = (
    "A config with any values in any fields is refused in one line that names the "
    "field, or is complete, within all ranges, and describes a run"
)
_LARGE = (10**9, 2**32, 2**64, 10**400, -(10**400), 1e300, 1e-300, 1 << 20_000)
_TUPLES = ((), (1,), (0.5,) * 3, ("one",), (None,), (float("nan"),) * 3, (10**22,))
_OTHER = ("one", "a,b", "a\nb", b"bytes", 1j, "json:loads", "no_module:x", "None")
VALUES = (*STRANGE, *_LARGE, *_TUPLES, *_OTHER)
DESCRIBED = 20  # one in so many of those that resolve also becomes a run: it is slow


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many configs, with one to three fields changed in each."""
    del folder
    draw = random.Random(seed)
    resolved = 0
    for _ in range(count):
        name, config, changed = changed_config(draw)
        shown = [f"{field}={fields.shown(value)}" for field, value in changed.items()]
        trial = tried(", ".join([name, *shown]), config, describe=not resolved)
        resolved = (resolved + (trial.outcome != REFUSED)) % DESCRIBED
        yield trial


def changed_config(draw: random.Random) -> tuple[str, ConfigDict, dict[str, Any]]:
    """(name, config, changes): a config of the package with fields of any values.

    Most numbers become others near them, so that some of the configs resolve.
    ConfigDict does not check the types, as a config file can circumvent that.
    """
    name = draw.choice(names())
    config = load(name)
    flat = fields.flattened(config)
    changed = {}
    for field in draw.sample(list(default.FIELDS), draw.choice((1, 1, 2, 3))):
        value = draw.choice(VALUES)
        if draw.random() < 0.8 and isinstance(flat[field], int | float):
            value = flat[field] * draw.choice((1, 2, 3, 0.5, -1, 10, 1000, 10**6))
        changed[field] = value
    if draw.random() < 0.5:
        changed.setdefault("method", draw.choice(list(config.recipe)))
    plain = config.to_dict()
    for field, value in changed.items():
        holder, _, last = field.rpartition(".")
        (plain[holder] if holder else plain)[last] = value
    return name, ConfigDict(plain), changed


def tried(what: str, config: ConfigDict, *, describe: bool) -> Trial:
    """What becomes of a config; with `describe`, also as the shapes of a run."""
    try:
        resolved = resolve(config)
        to_json(resolved)
        if describe:
            building.describe(resolved)
    except ValueError as error:
        one = "\n" not in str(error) and len(str(error)) < 3000
        outcome = REFUSED if one else "refused in several lines"
        return Trial("fields", outcome, one, what)
    except Exception as error:
        text = f"{what}: {error!r}"[:500]
        return Trial("fields", type(error).__name__, False, text)
    return Trial("fields", "described" if describe else "resolved", True, what)
