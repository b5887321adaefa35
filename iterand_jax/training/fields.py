"""What each field of a config may be: its type, its range, and the reason of the range.

One table, which is checked as a whole before anything is looked up, compiled or
written. The upper bounds are far beyond what is useful: a value above them is a slip
(a decimal point, a unit) that would otherwise cost hours or memory, or overflow an
integer of 32 bits long after the start.
"""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from iterand_jax.configs import default
from iterand_jax.runtime.checks import described

__all__ = ["FIELDS", "Field", "check", "check_own", "flattened", "plain"]

LARGEST_SEED = 2**32 - 1
LARGEST_INT32 = 2**31 - 1
MOST_EPOCHS = 1_000_000
MOST_PATTERNS = 1000
_LONGEST_TEXT = 1000


class Field(NamedTuple):
    """What a field may be.

    Attributes:
      accepts: whether a value is possible.
      possible: the possible values, as in "an integer from 1 to 100".
      why: the reason of the range, empty where the possible values say it.
    """

    accepts: Callable[[Any], bool]
    possible: str
    why: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError, which names the field, for a value that is not possible.

        >>> FIELDS["batch_size"].check("batch_size", 0)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: batch_size must be an integer from 1 to 65536 (...); got 0
        """
        if not self.accepts(value):
            why = f" ({self.why})" if self.why else ""
            raise ValueError(f"{name} must be {self.possible}{why}; got {shown(value)}")


def shown(value: Any) -> str:
    """A value in a line: `described`, also for integers too long to be printed."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"a text of {len(value):,} characters"
    if isinstance(value, numbers.Real) and not isinstance(value, bool | int):
        return f"{float(value):g}"
    try:
        return described(value)
    except Exception:  # a repr may fail
        return f"a {type(value).__name__}"


def _whole(low: int, high: int, why: str = "") -> Field:
    def accepts(value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and low <= value <= high

    return Field(accepts, f"an integer from {low} to {high}", why)


def _number(interval: str, why: str, least: float = 0) -> Field:
    """A number in an interval such as "(0, 1]", 0 or at least a number above it.

    It is below an open end in float32, too.
    """
    low, high = map(float, interval[1:-1].split(","))
    above_zero = f", 0 or at least {least:g}" if least else ""

    def accepts(value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        above = low <= value if interval[0] == "[" else low < value
        if not above or not value <= high or (value != 0 and abs(value) < least):
            return False
        return interval[-1] == "]" or bool(np.float32(value) < high)

    return Field(accepts, f"a number in {interval}{above_zero}", why)


def _text(why: str = "it is shown in one line") -> Field:
    def accepts(value: Any) -> bool:
        return (
            isinstance(value, str)
            and len(value) <= _LONGEST_TEXT
            and value.isprintable()
        )

    possible = f"a name of at most {_LONGEST_TEXT} printable characters"
    return Field(accepts, possible, why)


def _pattern() -> Field:
    text = _text()
    return Field(
        lambda value: text.accepts(value) and value != "" and "," not in value,
        f"a pattern of at most {_LONGEST_TEXT} printable characters without commas, as "
        "in ('*/bias', 'Dense_0/*')",
        text.why,
    )


def _several(one: Field, most: int) -> Field:
    def accepts(value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and len(value) <= most
            and all(map(one.accepts, value))
        )

    possible = f"a tuple of at most {most}, each {one.possible}"
    return Field(accepts, possible, one.why)


def _one_of(*possible: Any) -> Field:
    return Field(
        lambda value: isinstance(value, type(possible[0])) and value in possible,
        " or ".join(map(str, possible)),
    )


_STEPS = "steps are counted in 32 bits"
_EPOCHS = "a hundred times the longest training here and more"
_RATE = "far beyond any rate at which float32 weights stay of use; less is 0 in float32"
_SHARE = "a fraction of the weights"
_REMOVED = "the fraction removed"
_AT_ONCE = "its examples and their activations are in memory at once"
_PIXELS = "pixels are divided by 255 first"
_A_YEAR = 366 * 24 * 3600
_SECONDS = "no run lasts longer than a year, so a longer limit is none; 0: no limit"

FIELDS: dict[str, Field] = {
    "released": _one_of(False, True),
    "seed": _whole(0, LARGEST_SEED, "a key holds 32 bits of it"),
    "dataset.name": _text(),
    "dataset.validation_fraction": _number(
        "(0, 1)", "of the training split, whose rest trains"
    ),
    "dataset.split_seed": _whole(0, 2**63 - 1, "as readers of JSON hold it"),
    "dataset.mean": _several(_number("[-1000, 1000]", _PIXELS), 1000),
    "dataset.std": _several(_number("[1e-06, 1e+06]", _PIXELS), 1000),
    "dataset.partial_batches": _one_of(False, True),
    "dataset.workers": _whole(-1, 1024, "each is a process of this host; -1: by cores"),
    "dataset.on_bad_image": _text(),
    "augmentation": _text(),
    "network.name": _text(),
    "network.width": _number(
        "[0.0001, 1000]",
        "weights grow with its square; below it every layer has one channel",
    ),
    "network.vectors": _text(),
    "unbiased_variances": _one_of(False, True),
    "dtype": _text(),
    "matmul_precision": _text(),
    "deterministic": _one_of(False, True),
    "method": _text(),
    "distribution": _text(),
    "learning_rate": _number("[1e-30, 1e+06]", _RATE),
    "weight_decay": _number("[0, 1e+06]", _RATE, least=1e-30),
    "sparsity": _number("[0, 1)", _REMOVED),
    "k_per": _whole(1, LARGEST_INT32, _STEPS),
    "sampling_rate": _number("[0, 1]", "a probability, drawn by 23 bits", least=1e-06),
    "retrainings": _whole(1, 100, "each is a whole training"),
    "rewind_epochs": _whole(0, MOST_EPOCHS, _EPOCHS),
    "rank": _text(),
    "resample": _text(),
    "sparsity_of": _text(),
    "unpruned": _several(_pattern(), MOST_PATTERNS),
    "scope": _several(_pattern(), MOST_PATTERNS),
    "ranked_by": _text(),
    "kept_values": _text(),
    "layer_sparsities": _text(),
    "pattern": _text("groups of m weights, of which n are kept"),
    "coats": _several(_number("[0, 1)", _REMOVED), 100),
    "pruned_share": _number("[0, 1)", _SHARE),
    "locked_share": _number("[0, 1)", _SHARE),
    "frozen_by": _text(),
    "recycled_share": _number("[0, 1]", _SHARE),
    "threshold": _number(
        "[1e-30, 1e+06]",
        "far beyond any weight; below it is 0 in float32, and removes none",
    ),
    "threshold_rate": _number(
        "[0, 1e+06]", "it is a factor of learning_rate", least=1e-30
    ),
    "freezings": _whole(1, LARGEST_INT32, _STEPS),
    "gate_penalty": _number(
        "[0, 1e+06]", "it is of each gate, beside a loss of about 1", least=1e-30
    ),
    "gate_noise": _number(
        "[1e-06, 1e+06]",
        "gates are from 0 to 1; less is lost in float32, and more leaves nothing else",
    ),
    "affine": _one_of(False, True),
    "sparsity_schedule": _text(),
    "sparsity_from": _number("[0, 1)", _REMOVED),
    "sparsity_begin": _whole(0, LARGEST_INT32, _STEPS),
    "sparsity_end": _whole(1, LARGEST_INT32, _STEPS),
    "sparsity_in": _text(),
    "epochs": _whole(1, MOST_EPOCHS, _EPOCHS),
    "batch_size": _whole(1, 65536, _AT_ONCE),
    "accumulate_steps": _whole(1, 65536, "each has at least one example of a batch"),
    "eval_batch_size": _whole(1, 65536, _AT_ONCE),
    "momentum": _number("[0, 1)", "with 1 and beyond it nothing decays"),
    "clip_norm": _number(
        "[1e-30, 1e+06]",
        "a larger limit limits nothing; a smaller one is 0 in float32",
    ),
    "schedule": _text(),
    "warmup_epochs": _whole(0, MOST_EPOCHS, _EPOCHS),
    "final_epochs": _whole(0, MOST_EPOCHS, _EPOCHS),
    "final_learning_rate": _number("[1e-30, 1e+06]", _RATE),
    "milestones": _several(_whole(1, MOST_EPOCHS, _EPOCHS), 100),
    "decay_factor": _number(
        "[1e-06, 1000]", "the rate is multiplied by it at each milestone"
    ),
    "replicas": _whole(1, 64, "each makes the one program of all longer"),
    "steps_per_dispatch": _whole(0, 100_000, "a signal waits for their end"),
    "report_memory": _one_of(False, True),
    "log_every_steps": _whole(1, LARGEST_INT32, _STEPS),
    "checkpoint_every_steps": _whole(0, LARGEST_INT32, _STEPS),
    "checkpoint_every_seconds": _whole(0, _A_YEAR, _SECONDS),
    "keep_checkpoints": _whole(1, MOST_EPOCHS, "each takes disk"),
    "keep_best_checkpoints": _whole(0, MOST_EPOCHS, "each takes disk"),
    "test_best": _text(),
    "keep_checkpoint_epochs": _several(_whole(1, MOST_EPOCHS, _EPOCHS), 10_000),
}
"""What each field of `configs.default.FIELDS` may be, where it is not None."""

# Those that may be None although they have a default: only some datasets take them.
_OF_DATASETS = (
    "dataset.validation_fraction",
    "dataset.split_seed",
    "dataset.mean",
    "dataset.std",
    "augmentation",
)
_OPTIONAL = {
    *(name for name, (value, _) in default.FIELDS.items() if isinstance(value, type)),
    *_OF_DATASETS,
}


def check(config: ConfigDict) -> None:
    """Checks all fields of a config but its recipe, each by itself.

    Raises:
      ValueError: a field is missing, or is not of its type or in its range.
    """
    flat = flattened(config)
    missing = [name for name in FIELDS if name not in flat]
    if missing:
        raise ValueError(
            f"the config lacks {len(missing)} fields: {', '.join(missing)}; start "
            "from default.get_config() of iterand_jax.configs"
        )
    for name, value in flat.items():
        if name not in FIELDS:
            check_own(name, value)
        elif value is not None or name not in _OPTIONAL:
            FIELDS[name].check(name, value)


def check_own(name: str, value: Any) -> None:
    """Raises ValueError for a hyperparameter of a method that JSON cannot hold."""
    _OWN.check(name, value)


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """{name: value} of the fields but the recipe, those of groups as "network.width".

    Raises:
      ValueError: a group of fields is a value, or a name is not text.
    """
    groups = {name.split(".")[0] for name in FIELDS if "." in name}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in groups:
            if not isinstance(value, Mapping | ConfigDict):
                fields = [f for f in FIELDS if f.startswith(f"{name}.")]
                raise ValueError(
                    f"{name} is a group of fields, {', '.join(fields)}; got "
                    f"{shown(value)}"
                )
            flat |= {f"{name}.{inner}": own for inner, own in value.items()}
        elif name != "recipe":
            flat[name] = value
    return flat


def plain(value: Any) -> Any:
    """A value without NumPy's scalars, which JSON does not hold; the rest as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list) and any(
        isinstance(v, np.generic) for v in value
    ):
        return tuple(map(plain, value))
    if isinstance(value, Mapping):
        return {name: plain(own) for name, own in value.items()}
    return value


def _is_json(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) < 2**63
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return _text().accepts(value)
    if depth > 3:
        return False
    if isinstance(value, Mapping | ConfigDict):
        return all(
            _text().accepts(name) and _is_json(own, depth + 1)
            for name, own in value.items()
        )
    return (
        isinstance(value, Sequence)
        and len(value) <= _LONGEST_TEXT
        and all(_is_json(own, depth + 1) for own in value)
    )


_OWN = Field(_is_json, "a finite number, a name, True, False, None or a tuple of these")
