"""Fields of a file's JSON, checked for their types."""

import math
from collections.abc import Mapping
from typing import Any

MOST_AXES = 32  # NumPy 2 has 64, older ones 32
LARGEST = 2**31 - 1  # axis


def of_type(fields: Any, name: Any, types: type | tuple[type, ...]) -> Any:
    """A field of a type; True and False are no numbers.

    Raises:
      ValueError: there is none, or one of another type.

    >>> of_type({"step": "3"}, "step", int)
    Traceback (most recent call last):
    ...
    ValueError: its field 'step' is '3'
    """
    try:
        value = fields[name]
    except (LookupError, TypeError):
        raise ValueError(f"it has no field {name!r:.60}") from None
    wrong = isinstance(value, bool) and types is not bool
    if wrong or not isinstance(value, types):
        raise ValueError(f"its field {name!r:.60} is {value!r:.60}")
    return value


def number(
    fields: Any, name: Any, *, above: float = -math.inf, below: float = math.inf
) -> float:
    """A number in an open interval, which is finite.

    Raises:
      ValueError: it is another value.

    >>> number({"width": -1}, "width", above=0)
    Traceback (most recent call last):
    ...
    ValueError: its field 'width' is -1
    """
    value = of_type(fields, name, (int, float))
    if not above < value < below:
        raise ValueError(f"its field {name!r:.60} is {value!r:.60}")
    return value


def row(fields: Mapping[str, Any], name: str, types: Any) -> tuple | None:
    """A list of values of a type as a tuple; None for none."""
    if fields.get(name) is None:
        return None
    values = of_type(fields, name, list)
    return tuple(of_type(values, i, types) for i in range(len(values)))


def form(pair: Any) -> tuple[tuple[int, ...], str]:
    """The shape and dtype of an array, which a file has as a pair.

    >>> form([[2, 3], "float32"])
    ((2, 3), 'float32')
    """
    sizes = of_type(pair, 0, list)
    shape = tuple(of_type(sizes, i, int) for i in range(len(sizes)))
    if len(shape) > MOST_AXES or not all(0 <= size <= LARGEST for size in shape):
        raise ValueError(f"a shape of the file is {shape!r:.60}")
    return shape, of_type(pair, 1, str)
