"""JSON that is read back from a workdir, which may come from anybody.

Each file is a regular one of a limited size, and an object of the fields that are used;
what is not is a ValueError of one line with the path. Nothing that a file names is
imported.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from iterand_jax.training import config as configs
from iterand_jax.training.config import NOTHING_GIVEN, Given
from iterand_jax.training.fields import shown

MOST_BYTES = 2**24  # a result of 64 replicas has a hundredth of it
MOST_LEVELS = 20
MOST = 2**63  # of a number; larger integers are no floats, as formats need them

_NUMBER = (int, float)
_OF_ALL = {"test_accuracy": _NUMBER, "validation_accuracy_last": _NUMBER}
_OF_A_RUN = _OF_ALL | {
    "validation_accuracy_best": _NUMBER,
    "parameters": int,
    "parameters_kept": int,
    "redrawn": int,
    "steps": int,
    "epochs": int,
    "sparsity_achieved": _NUMBER,
    "examples_per_second": _NUMBER,
    "state_sha256": str,
    "seconds": dict,
}
_OF_REPLICAS = {
    "test_accuracy_mean": _NUMBER,
    "test_accuracy_deviation": _NUMBER,
    "replicas": dict,
}
_OF_THE_BEST = {"best_epoch": int, "best_test_accuracy": _NUMBER}
_OF_A_STAGE = {"test_accuracy": _NUMBER, "sparsity_achieved": _NUMBER}


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: it cannot be read, or is no JSON object of a usual size.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no regular file")  # a pipe would be waited for
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} has over {MOST_BYTES:,} bytes")
    return object_in(content, path)


def object_in(content: bytes, path: Path) -> dict[str, Any]:
    """The object that the bytes of a JSON file hold.

    Raises:
      ValueError: as `read_object`.
    """
    try:
        value = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8, at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object: {shown(value)}")
    if not is_flat(value, MOST_LEVELS):
        raise ValueError(f"{path} nests deeper than {MOST_LEVELS} levels")
    return value


def read_config(path: Path, given: Given = NOTHING_GIVEN) -> ConfigDict:
    """The config in a config.json, checked as one that is given.

    Args:
      path: of the file.
      given: objects that replace names in it.

    Raises:
      ValueError: as `read_object`, or a field that cannot be.
    """
    fields = read_object(path)
    try:
        return configs.from_saved(fields, given)
    except Exception as error:  # of fields that another program wrote, any
        raise ValueError(f"{path} is not a config: {one_line(error)}") from error


def read_result(path: Path) -> dict[str, Any]:
    """The result in a result.json: of a run, of a procedure or of replicas.

    Raises:
      ValueError: as `read_object`, or a field that is missing or of another type.
    """
    result = read_object(path)
    replicas = "replicas" in result
    check_fields(path, "", result, _OF_REPLICAS if replicas else _OF_A_RUN)
    if replicas:
        _check_names(path, "replicas", result["replicas"])
        for name, own in result["replicas"].items():
            check_fields(path, f"replicas.{name}.", own, _OF_ALL)
        return result
    seconds, parts = result["seconds"], result.get("startup", {})
    check_fields(path, "seconds.", seconds, dict.fromkeys(seconds, _NUMBER))
    check_fields(path, "", {"startup": parts}, {"startup": dict})
    _check_names(path, "startup", parts)
    for name, part in parts.items():
        check_fields(path, f"startup.{name}.", part, {"begin": _NUMBER, "end": _NUMBER})
    if "best_epoch" in result:
        check_fields(path, "", result, _OF_THE_BEST)
    check_fields(path, "", {"stages": result.get("stages", [])}, {"stages": list})
    for number, own in enumerate(result.get("stages", [])):
        check_fields(path, f"stages.{number}.", own, _OF_A_STAGE)
    return result


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 printable characters."""
    words = "".join(c if c.isprintable() else " " for c in str(error)).split()
    text = " ".join(words) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def check_fields(path: Path, prefix: str, found: Any, types: Mapping[str, Any]) -> None:
    """Raises ValueError for a field that is missing or not of its type."""
    for name, wanted in types.items():
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"{path} is not a result: it has no {prefix}{name}")
        value = found[name]
        finite = not isinstance(value, _NUMBER) or is_usual(value)
        if isinstance(value, bool) or not isinstance(value, wanted) or not finite:
            raise ValueError(
                f"{path} is not a result: {one_line(ValueError(prefix + name))} is "
                f"{shown(value)}"
            )


def _check_names(path: Path, prefix: str, found: Mapping[str, Any]) -> None:
    """Raises ValueError for a name that would do more to a terminal than be shown."""
    for name in found:
        if not name.isprintable():
            raise ValueError(
                f"{path} is not a result: {prefix} has the name {shown(name)}"
            )


def is_usual(number: float) -> bool:
    """Whether a number is finite, and can be made a float.

    >>> is_usual(3), is_usual(10**400), is_usual(float("nan"))
    (True, False, False)
    """
    return -MOST < number < MOST if isinstance(number, int) else math.isfinite(number)


def is_flat(value: Any, levels: int) -> bool:
    """Whether objects and lists nest no deeper than so many levels.

    >>> is_flat({"a": [1]}, 2), is_flat({"a": [1]}, 1)
    (True, False)
    """
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(is_flat(own, levels - 1) for own in inner)
