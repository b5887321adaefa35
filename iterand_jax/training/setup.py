"""From a resolved config to all that a run is made of, before anything compiles."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iterand_jax.data import augment
from iterand_jax.data.sources import Source
from iterand_jax.methods import get_method
from iterand_jax.networks import build_network
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.training import parallel
from iterand_jax.training.schedules import get_schedule
from iterand_jax.training.step import Images, State, Task, init_state, sgd_optimizer

PyTree = Any


class Setup(NamedTuple):
    """A run, ready to be compiled.

    Attributes:
      config: the resolved config.
      source: the dataset.
      mesh: the devices.
      task: the static part of the steps.
      subnetwork: how the network is drawn and pruned.
      schedule: step -> learning rate.
      root: the root key, from the seed, replicated over the mesh.
      train_size: examples trained on; the rest of the training part validates.
      steps_per_epoch: whole batches in an epoch.
      abstract: the state's structure, with shapes and dtypes for leaves.
    """

    config: ConfigDict
    source: Source
    mesh: Mesh
    task: Task
    subnetwork: Subnetwork
    schedule: optax.Schedule
    root: Array
    train_size: int
    steps_per_epoch: int
    abstract: State

    @property
    def total_steps(self) -> int:
        """Steps in the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def weights(self) -> PyTree:
        """The network's parameters, as shapes and dtypes."""
        sgd = self.config.method == "sgd"
        return self.abstract.trainable if sgd else self.abstract.frozen


def build(config: ConfigDict, source: Source) -> Setup:
    """Makes the run of a resolved config on a dataset.

    Raises:
      ValueError: in one line, a size that the data, the devices or the network forbid.
    """
    mesh = parallel.device_mesh()
    train_size = source.sizes["train"] - _validation_size(config, source)
    for field in ("batch_size", "eval_batch_size"):
        parallel.check_batch_size(config[field], mesh)
    if config.batch_size > train_size:
        raise ValueError(
            f"batch_size {config.batch_size} is larger than the training split of "
            f"{train_size} examples"
        )
    channels = source.image_shape[-1]
    if not len(config.dataset.mean) == len(config.dataset.std) == channels:
        raise ValueError(
            f"dataset.mean and dataset.std need {channels} numbers each for images of "
            f"{channels} channels; got {config.dataset.mean} and {config.dataset.std}"
        )
    steps_per_epoch = train_size // config.batch_size
    schedule = get_schedule(
        config.schedule,
        config.learning_rate,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    subnetwork = Subnetwork(config.sparsity or 0.0, config.distribution)
    task = _task(config, source, subnetwork, schedule)
    root = jax.random.key(config.seed)
    return Setup(
        config=config,
        source=source,
        mesh=mesh,
        task=task,
        subnetwork=subnetwork,
        schedule=schedule,
        root=jax.device_put(root, parallel.replicated(mesh)),
        train_size=train_size,
        steps_per_epoch=steps_per_epoch,
        abstract=jax.eval_shape(
            lambda key: init_state(key, task, source.image_shape), root
        ),
    )


def read_training(setup: Setup) -> tuple[Images, Images]:
    """The training split, whole on every device, and the validation split on the host.

    Which examples validate depends on `dataset.split_seed` alone.
    """
    images, labels = setup.source.read("train")
    generator = np.random.Generator(np.random.PCG64(setup.config.dataset.split_seed))
    order = generator.permutation(len(labels))
    train, held_out = np.split(order, [setup.train_size])
    replicated = parallel.replicated(setup.mesh)
    return (
        jax.device_put(Images(images[train], labels[train]), replicated),
        Images(images[held_out], labels[held_out]),
    )


def _validation_size(config: ConfigDict, source: Source) -> int:
    size = source.sizes["train"]
    return max(1, min(math.floor(size * config.dataset.validation_fraction), size - 1))


def _task(
    config: ConfigDict, source: Source, subnetwork: Subnetwork, schedule: optax.Schedule
) -> Task:
    mean, std = tuple(config.dataset.mean), tuple(config.dataset.std)
    dtype = jnp.dtype(config.dtype)
    return Task(
        network=build_network(
            config.network.name,
            num_classes=source.num_classes,
            width=config.network.width,
            affine=config.method == "sgd",
            dtype=dtype,
        ),
        method=get_method(
            config.method,
            subnetwork,
            k_per=config.k_per,
            sampling_rate=config.sampling_rate,
        ),
        optimizer=sgd_optimizer(
            schedule, momentum=config.momentum, weight_decay=config.weight_decay
        ),
        augment=augment.get_augmentation(config.augmentation),
        normalize=lambda images: augment.normalize(images, mean, std, dtype),
    )
