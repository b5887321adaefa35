"""Validation of a user's examples and labels, with one-line errors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from iterand_jax.data.feeds import Images, split_indices, validation_size

PARTS = ("train", "test")


class Names(NamedTuple):
    """The names of a split's two arrays in error messages."""

    examples: str
    labels: str


class Kind(NamedTuple):
    """What is known of a dataset before it is read.

    Attributes:
      shape: of an example.
      dtype: "uint8" for images, else "float32".
      num_classes: the number of classes.
    """

    shape: tuple[int, ...]
    dtype: str
    num_classes: int


def form_of(name: str, shape: tuple[int, ...], dtype: Any) -> tuple[tuple, str]:
    """(shape of one example, its dtype in a feed), from an array's shape and dtype.

    Raises:
      ValueError: an empty array, or an unsupported shape or dtype.
    """
    if 0 in shape:
        raise ValueError(f"{name} of shape {shape} is empty")
    if dtype == np.uint8:
        if len(shape) == 4:
            return shape[1:], "uint8"
        raise ValueError(
            f"{name} is uint8 of shape {shape}; possible: images (N, H, W, C), with "
            f"C = 1 for grayscale, or floats (N, ...)"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{name} has the dtype {dtype}; possible: uint8 for images, or floats"
        )
    if len(shape) < 2:
        raise ValueError(f"{name} has the shape {shape}; possible: (N, ...)")
    return shape[1:], "float32"


def as_examples(name: str, x: Any) -> np.ndarray:
    """Examples in the dtype of a feed.

    Raises:
      ValueError: as in `form_of`, or for numbers that are not finite.
    """
    x = np.asarray(x)
    _, dtype = form_of(name, x.shape, x.dtype)
    if dtype == "uint8":
        return x
    with np.errstate(over="ignore"):
        x = x.astype(dtype, copy=False)
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name}[{int(np.argmin(finite))}] has a NaN, an infinity, or a number "
            f"that overflows float32"
        )
    return x


def as_labels(name: str, y: Any, size: int) -> np.ndarray:
    """The labels of `size` examples, int32.

    Raises:
      ValueError: the wrong number of labels, or labels that are not integers from 0.
    """
    y = np.asarray(y)
    if y.shape != (size,):
        raise ValueError(
            f"{name} has the shape {y.shape}; possible: ({size},), one label per "
            f"example"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{name} has the dtype {y.dtype}; possible: integers from 0")
    if y.min() < 0 or y.max() >= np.iinfo(np.int32).max:
        raise ValueError(
            f"{name} has labels from {y.min()} to {y.max()}; possible: integers from 0"
        )
    return y.astype(np.int32)


def kind_of(
    names: Mapping[str, Names],
    forms: Mapping[str, tuple[tuple, str]],
    labels: Mapping[str, np.ndarray],
    num_classes: int | None,
) -> Kind:
    """The shape, dtype and classes that "train" and, if present, "test" share.

    Args:
      names: of the arrays of each split.
      forms: of the examples of each split, as `form_of` returns them.
      labels: of each split.
      num_classes: None for the largest training label plus 1.

    Raises:
      ValueError: the splits differ in shape or dtype, a class has no training example,
        or a label is not below the number of classes.
    """
    of_train = names["train"].labels
    classes = np.unique(labels["train"])
    count = int(classes[-1]) + 1 if num_classes is None else num_classes
    if num_classes is None and len(classes) < count:
        missing = np.setdiff1d(np.arange(len(classes) + 1), classes)[0]
        raise ValueError(
            f"{of_train} has labels up to {count - 1}, but no {missing}; possible: "
            f"every label from 0 on, or num_classes={count}"
        )
    if count < 2:
        raise ValueError(f"{of_train} has one class; possible: two or more")
    for part in forms:
        if labels[part].max() >= count:
            raise ValueError(
                f"{names[part].labels} has the label {labels[part].max()}; possible: 0 "
                f"to {count - 1}"
            )
        if forms[part] != forms["train"]:
            (shape, dtype), expected = forms[part], forms["train"]
            raise ValueError(
                f"{names[part].examples} holds {dtype} of shape {shape}; possible: "
                f"{expected[1]} of shape {expected[0]}, as {names['train'].examples}"
            )
    return Kind(*forms["train"], count)


def check_split(split: str) -> None:
    """Raises ValueError for a split that custom datasets do not have."""
    if split not in PARTS:
        raise ValueError(f"unknown split {split!r}; possible: {', '.join(PARTS)}")


def check_test_part(
    what: str, has_test: bool, fraction: float | None, seed: int, possible: str
) -> None:
    """Raises ValueError unless there is either a test split or a `test_fraction`.

    Or for a seed of a part that is not drawn.
    """
    if has_test and fraction is not None:
        raise ValueError(
            f"{what} has a test split, so test_fraction={fraction:g} cannot be used"
        )
    if not has_test and fraction is None:
        raise ValueError(
            f"{what} has no test split; possible: {possible}, or a test_fraction to "
            f"hold out, such as 0.2"
        )
    if fraction is None and seed:
        raise ValueError(
            f"{what} has a test split, so test_seed={seed} cannot be used; possible: 0"
        )
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"test_fraction must be in (0, 1); got {fraction:g}")


def with_test_part(
    parts: Mapping[str, Images], fraction: float | None, seed: int
) -> dict[str, Images]:
    """The splits; with a fraction, that part of "train" is held out as "test".

    Each split has at least one example; the seed determines which examples.

    Raises:
      ValueError: a single example, which cannot be split.
    """
    if fraction is None:
        return dict(parts)
    examples, labels = parts["train"]
    size = len(labels)
    if size < 2:
        raise ValueError(
            f"{size} example cannot be split by test_fraction={fraction:g}"
        )
    train, test = split_indices(size, validation_size(size, fraction), seed=seed)
    return {
        "train": Images(examples[train], labels[train]),
        "test": Images(examples[test], labels[test]),
    }
