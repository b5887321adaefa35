"""The registry of datasets: what is known of each before its data is read."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from iterand_jax.data import augment, imagenet, sources
from iterand_jax.data.feeds import Feed
from iterand_jax.data.imagenet_feed import StreamedImages
from iterand_jax.data.resident_feed import ResidentArrays, ResidentImages
from iterand_jax.data.reviews import BucketedReviews
from iterand_jax.data.sources import Source
from iterand_jax.runtime.registry import Registry


class Dataset(NamedTuple):
    """A dataset that a config can name.

    Attributes:
      open: data directory -> source.
      feed: (source, placement, *, batch_size, eval_batch_size, dtype, and the options)
        -> feed.
      options: the fields of `config.dataset` that its feed takes.
      augmentations: the possible values of `config.augmentation`; if there are none, it
        must be None.
      inputs: the arguments of a network for it, as shapes with a batch size of 1.
      outputs: the number of logits; with one, it is the logit of class 1 of two.
      optional: further fields of `config.dataset`, which its feed takes if they are not
        None.
    """

    open: Callable[[str], Source]
    feed: Callable[..., Feed]
    options: tuple[str, ...]
    augmentations: tuple[str, ...]
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    outputs: int
    optional: tuple[str, ...] = ()

    @property
    def resident(self) -> bool:
        """Whether its data is replicated on every device."""
        return isinstance(self.feed, type) and issubclass(self.feed, ResidentArrays)

    @property
    def is_text(self) -> bool:
        """Whether networks are called with token ids and lengths, not with images."""
        return jnp.issubdtype(self.inputs[0].dtype, jnp.integer)


def resident_images(
    open_: Callable[[str], Source], shape: tuple[int, ...], outputs: int
) -> Dataset:
    """A dataset of uint8 images (H, W, C), small enough to be replicated."""
    return Dataset(
        open=open_,
        feed=ResidentImages,
        options=("mean", "std", "validation_fraction", "split_seed"),
        augmentations=tuple(augment.AUGMENTATIONS),
        inputs=(jax.ShapeDtypeStruct((1, *shape), jnp.float32),),
        outputs=outputs,
        optional=("partial_batches",),
    )


def resident_arrays(
    open_: Callable[[str], Source], shape: tuple[int, ...], outputs: int
) -> Dataset:
    """A dataset of float32 arrays of one shape, small enough to be replicated."""
    return Dataset(
        open=open_,
        feed=ResidentArrays,
        options=("validation_fraction", "split_seed"),
        augmentations=("none",),
        inputs=(jax.ShapeDtypeStruct((1, *shape), jnp.float32),),
        outputs=outputs,
        optional=("partial_batches",),
    )


def _streamed_images(
    open_: Callable[[str], Source], size: int, outputs: int
) -> Dataset:
    return Dataset(
        open=open_,
        feed=functools.partial(StreamedImages, size=size),
        options=("mean", "std", "workers", "on_bad_image"),
        augmentations=(),
        inputs=(jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),),
        outputs=outputs,
        optional=("validation_fraction", "split_seed", "partial_batches"),
    )


def _as_dataset(value: Any) -> Dataset:
    if not isinstance(value, Dataset):
        raise ValueError(f"{value!r} is not an iterand_jax.data.datasets.Dataset")
    return value


DATASETS: Registry[Dataset] = Registry(
    "dataset",
    {
        "digits": resident_images(sources.open_digits, (8, 8, 1), 10),
        "cifar10": resident_images(sources.open_cifar10, (32, 32, 3), 10),
        "imdb_reviews": Dataset(
            open=sources.open_imdb_reviews,
            feed=BucketedReviews,
            options=("validation_fraction", "split_seed"),
            augmentations=(),
            inputs=(
                jax.ShapeDtypeStruct((1, 1), jnp.int32),
                jax.ShapeDtypeStruct((1,), jnp.int32),
            ),
            outputs=1,
        ),
        imagenet.NAME: _streamed_images(imagenet.open_imagenet, 224, 1000),
    },
    as_entry=_as_dataset,
)


def register_dataset(name: str, dataset: Dataset) -> None:
    """Registers a dataset, so that a config can name it.

    Args:
      name: for `config.dataset.name`.
      dataset: its description, for example from `iterand_jax.data.own`.

    Raises:
      ValueError: the name is registered for another dataset, or the value is not a
        `Dataset`.
    """
    DATASETS.register(name, dataset)


def get_dataset(name: str) -> Dataset:
    """The dataset of a name.

    Args:
      name: a name in `DATASETS`, or "module:Name" of a module that is imported already.

    Raises:
      ValueError: an unknown name.

    >>> get_dataset("cifar10").outputs
    10
    """
    return DATASETS.get(name)


def open_source(name: str, data_dir: str | None = None) -> Source:
    """Opens the source of a dataset, without reading its examples.

    Args:
      name: as `get_dataset` takes it.
      data_dir: as in `sources.resolve_data_dir`.

    Raises:
      DataNotFoundError: the data is absent.
      ValueError: an unknown name, or data that is damaged or in another format.
    """
    source = get_dataset(name).open(sources.resolve_data_dir(data_dir))
    return dataclasses.replace(source, name=name)
