"""From a resolved config to all that a run is made of, before anything compiles."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iterand_jax.data.datasets import get_dataset
from iterand_jax.data.feeds import Feed, Placement
from iterand_jax.data.sources import Source
from iterand_jax.methods import SCORED, Method, get_method
from iterand_jax.networks import build_network
from iterand_jax.rules import DEFAULT_RULES, Rule
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.training import parallel
from iterand_jax.training.churn import packed_masks
from iterand_jax.training.schedules import OPTIONS, get_schedule
from iterand_jax.training.step import State, Task, init_state, sgd_optimizer

PyTree = Any


class Model(NamedTuple):
    """What a config determines without its data.

    Attributes:
      config: the resolved config.
      subnetwork: how the network is drawn and pruned.
      network: the Flax module.
      method: the training method.
      inputs: what the network is called with, as a batch of one.
      masks_of: trainable -> packed masks; None for a method without scores.
      abstract: the state's structure, with shapes and dtypes for leaves.
    """

    config: ConfigDict
    subnetwork: Subnetwork
    network: nn.Module
    method: Method
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    masks_of: Callable[[PyTree], PyTree] | None
    abstract: State

    @property
    def weights(self) -> PyTree:
        """The network's parameters, as shapes and dtypes."""
        scored = self.config.method in SCORED
        return self.abstract.frozen if scored else self.abstract.trainable

    def masks(self, state: State) -> PyTree | None:
        """The masks of a state, 1 kept and 0 pruned; None if the method has none."""
        if self.config.method == "fixed_mask":
            return state.frozen
        if self.config.method in SCORED:
            return jax.jit(self.subnetwork.masks)(state.trainable)
        return None


class Setup(NamedTuple):
    """A run, ready to be compiled.

    Attributes:
      model: what the config determines without data.
      source: the dataset.
      feed: the dataset as batches.
      mesh: the devices.
      task: the static part of the steps.
      schedule: step -> learning rate.
      root: the root key, from the seed, replicated over the mesh.
    """

    model: Model
    source: Source
    feed: Feed
    mesh: Mesh
    task: Task
    schedule: optax.Schedule
    root: Array

    @property
    def config(self) -> ConfigDict:
        """The resolved config."""
        return self.model.config

    @property
    def total_steps(self) -> int:
        """Steps in the whole run."""
        return self.config.epochs * self.feed.steps_per_epoch

    def init_state(self, root: Array) -> State:
        """The state before the first step."""
        return init_state(
            root,
            network=self.task.network,
            method=self.task.method,
            optimizer=self.task.optimizer,
            inputs=self.model.inputs,
            masks_of=self.model.masks_of,
        )


def build_model(config: ConfigDict) -> Model:
    """Makes what a resolved config determines without its data.

    Raises:
      ValueError: in one line, a size that the network forbids.
    """
    dataset = get_dataset(config.dataset.name)
    unpruned = (Rule(pattern, prune=False) for pattern in config.unpruned or ())
    subnetwork = Subnetwork(
        config.sparsity or 0.0, config.distribution, (*unpruned, *DEFAULT_RULES)
    )
    network = build_network(
        config.network.name,
        num_classes=dataset.outputs,
        width=config.network.width,
        affine=config.method not in SCORED,
        dtype=jnp.dtype(config.dtype),
    )
    method = get_method(
        config.method,
        subnetwork,
        k_per=config.k_per,
        sampling_rate=config.sampling_rate,
    )
    scored = config.method in SCORED
    masks_of = functools.partial(packed_masks, subnetwork) if scored else None
    init = functools.partial(
        init_state,
        network=network,
        method=method,
        optimizer=_optimizer(config, optax.constant_schedule(config.learning_rate)),
        inputs=dataset.inputs,
        masks_of=masks_of,
    )
    return Model(
        config=config,
        subnetwork=subnetwork,
        network=network,
        method=method,
        inputs=dataset.inputs,
        masks_of=masks_of,
        abstract=jax.eval_shape(init, jax.random.key(config.seed)),
    )


def build(config: ConfigDict, source: Source) -> Setup:
    """Makes the run of a resolved config on a dataset.

    Raises:
      ValueError: in one line, a size that the data, the devices or the network forbid.
    """
    mesh = parallel.device_mesh()
    parallel.check_batch_size(config.batch_size, mesh, parts=config.accumulate_steps)
    parallel.check_batch_size(config.eval_batch_size, mesh)
    feed = _feed(config, source, mesh)
    schedule = get_schedule(
        config.schedule,
        config.learning_rate,
        epochs=config.epochs,
        steps_per_epoch=feed.steps_per_epoch,
        **{field: config[field] for field in OPTIONS.get(config.schedule, ())},
    )
    model = build_model(config)
    task = Task(
        network=model.network,
        method=model.method,
        optimizer=_optimizer(config, schedule),
        train_inputs=feed.train_inputs,
        eval_inputs=feed.eval_inputs,
    )
    root = jax.jit(
        lambda: jax.random.key(config.seed), out_shardings=parallel.replicated(mesh)
    )
    return Setup(
        model=model,
        source=source,
        feed=feed,
        mesh=mesh,
        task=task,
        schedule=schedule,
        root=root(),
    )


def _feed(config: ConfigDict, source: Source, mesh: Mesh) -> Feed:
    dataset = get_dataset(config.dataset.name)
    options = {field: config.dataset[field] for field in dataset.options}
    if dataset.augmentations:
        options["augmentation"] = config.augmentation
    return dataset.feed(
        source,
        Placement(parallel.replicated(mesh), parallel.batch_sharded(mesh)),
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        dtype=jnp.dtype(config.dtype),
        **options,
    )


def _optimizer(
    config: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    return sgd_optimizer(
        schedule, momentum=config.momentum, weight_decay=config.weight_decay
    )
