"""A config as JSON: its text, older ones completed, and in what two of them differ."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from iterand_jax.configs import default

MOST_LISTED = 20  # fields in which two configs differ


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON, the same text for the same config."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config, with the defaults of fields that are newer than it."""
    whole = {
        field: {**value} if isinstance(value, dict) else value
        for field, value in _defaults().items()
    }
    for field, value in saved.items():
        nested = isinstance(value, Mapping) and isinstance(whole.get(field), dict)
        whole[field] = {**whole[field], **value} if nested else value
    return whole


@functools.cache
def _defaults() -> Mapping[str, Any]:
    """The default of each field; reports ask for them once for each line and cell."""
    whole = default.get_config().to_dict()
    del whole["recipe"]
    return whole


def check_same(there: Any, config: Mapping[str, Any], of_what: str) -> None:
    """Raises ValueError for a saved config that is not this one.

    Args:
      there: the saved config, of this or an earlier version.
      config: complete.
      of_what: the head of the message, what was saved and what this is.
    """
    if not isinstance(there, dict):
        raise ValueError(f"{of_what}: {_short(there)}")
    found = differences(completed(there), config)
    if found:
        more = f"; {len(found)} in all" if len(found) > MOST_LISTED else ""
        raise ValueError(f"{of_what}: {'; '.join(found[:MOST_LISTED])}{more}")


def differences(config: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Lines "field: value / other value" for the fields in which two configs differ."""
    flat, other_flat = _flatten(config), _flatten(other)
    return [
        f"{field}: {_short(flat.get(field, '(none)'))} / "
        f"{_short(other_flat.get(field, '(none)'))}"
        for field in sorted(flat.keys() | other_flat.keys())
        if flat.get(field, "(none)") != other_flat.get(field, "(none)")
    ]


def _short(value: Any) -> str:
    """A value of a config in at most 100 printable characters."""
    text = str(value)
    return text if len(text) <= 100 and text.isprintable() else f"{text!r:.100}"


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(config)).items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
