"""The train and evaluation steps: pure functions of the state and a batch's arguments.

A step computes the network's inputs with the feed (crops, normalization), takes the
gradient of the loss of `method.params(trainable, frozen, step)` with respect to the
trainable tree, and updates that with SGD. It depends on nothing else of the data and
the method, but what a method may add: noise, a penalty, a projection after the update.

Every random draw has a key folded from the root key, a purpose and the step (`keyed`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array, lax

from iterand_jax.keys import keyed
from iterand_jax.methods import Method
from iterand_jax.networks import training_options
from iterand_jax.training.gradients import accumulated
from iterand_jax.trees import map_paths

PyTree = Any


class Totals(NamedTuple):
    """Sums over examples: float32 loss, correct answers and examples, float32."""

    loss: Array
    correct: Array
    examples: Array


class State(NamedTuple):
    """All that changes in training.

    Attributes:
      step: steps done, int32.
      trainable: the tree the optimizer updates (scores, or weights for SGD).
      frozen: the tree it does not update (weights, or masks).
      batch_stats: running statistics of normalization layers.
      opt_state: of the optimizer.
      window: totals since the last log step.
      epoch: totals since the epoch began.
      bad_step: the first step whose loss was not finite, -1 while there is none.
      masks: at the last log step, as packed bits; {} for methods whose masks, if any,
        do not change.
    """

    step: Array
    trainable: PyTree
    frozen: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    window: Totals
    epoch: Totals
    bad_step: Array
    masks: PyTree


class Task(Protocol):
    """The parts of a run that steps use; `run.DataRun` is one."""

    @property
    def network(self) -> nn.Module:
        """The Flax module."""

    @property
    def method(self) -> Method:
        """The training method."""

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the trainable tree."""

    @property
    def train_inputs(self) -> Callable[..., tuple[tuple[Array, ...], Array]]:
        """The feed's function that computes training inputs."""

    @property
    def eval_inputs(self) -> Callable[..., tuple[tuple[Array, ...], Array, Array]]:
        """The feed's function that computes evaluation inputs."""


def zero_totals() -> Totals:
    """Totals over no examples."""
    return Totals(*(jnp.zeros((), jnp.float32) for _ in Totals._fields))


def sgd_optimizer(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum; the decay is added to the gradient of everything trainable.

    Args:
      schedule: the learning rate by step.
      momentum: the factor of the sum of the gradients before.
      weight_decay: the factor of the weights in their gradient.
      clip_norm: the greatest norm of a gradient, before the decay; None: no limit.
    """
    clip = () if clip_norm is None else (optax.clip_by_global_norm(clip_norm),)
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(*clip, decay, optax.sgd(schedule, momentum=momentum))


def init_state(
    root: Array,
    *,
    network: nn.Module,
    method: Method,
    optimizer: optax.GradientTransformation,
    inputs: tuple[jax.ShapeDtypeStruct, ...],
    masks_of: Callable[[PyTree, PyTree, Any], PyTree] | None = None,
    given: Mapping[str, Array] | None = None,
) -> State:
    """The state before the first step, for a network with these inputs.

    masks_of: (trainable, frozen, step) -> packed masks, for methods that change them.
    given: leaves of the network by path, in place of those that it initializes.
    """
    zeros = [jnp.zeros(x.shape, x.dtype) for x in inputs]
    variables = network.init(keyed(root, "network"), *zeros)
    params = variables["params"]
    if given:
        params = map_paths(lambda path, leaf: given.get(path, leaf), params)
    trainable, frozen = method.init(keyed(root, "method"), params)
    return State(
        step=jnp.int32(0),
        trainable=trainable,
        frozen=frozen,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(trainable),
        window=zero_totals(),
        epoch=zero_totals(),
        bad_step=jnp.int32(-1),
        masks=masks_of(trainable, frozen, jnp.int32(0)) if masks_of else {},
    )


def objective(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The loss and whether the answer is right, per example.

    Args:
      logits: (N, C) for softmax cross-entropy, or (N, 1) for the logistic loss of the
        second of two classes.
      labels: int32 (N,).

    Returns:
      (losses, correct), both (N,).

    >>> objective(jnp.array([[2.0], [-2.0]]), jnp.array([1, 1]))[1]
    Array([ True, False], dtype=bool)
    """
    if logits.shape[-1] == 1:
        logits = logits[:, 0]
        losses = optax.sigmoid_binary_cross_entropy(logits, labels)
        return losses, (logits > 0) == (labels == 1)
    if jax.default_backend() == "cpu":
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        losses = jax.nn.logsumexp(logits, axis=-1) - _of_labels(logits, labels)
    return losses, jnp.argmax(logits, axis=-1) == labels


def _of_labels(logits: Array, labels: Array) -> Array:
    """The logit of each label, NaN for one that is no class.

    By comparisons, as the gradient of optax's index is a scatter: four kernels for each
    example of a GPU's deterministic mode. On a CPU it is as fast, and rounds otherwise.
    """
    classes = lax.broadcasted_iota(labels.dtype, logits.shape, 1)
    chosen = jnp.sum(jnp.where(classes == labels[:, None], logits, 0), axis=-1)
    is_class = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(is_class, chosen, jnp.nan)


def train_step(
    state: State,
    arguments: PyTree,
    root: Array,
    *,
    task: Task,
    steps_per_epoch: int,
    log_every: int,
    accumulate_steps: int = 1,
) -> State:
    """One update on a batch.

    Args:
      state: the state; donate it.
      arguments: the feed's arguments for the step.
      root: the root key of the run.
      task: network, method, optimizer, inputs.
      steps_per_epoch: the steps that `state.epoch` sums over.
      log_every: the steps that `state.window` sums over.
      accumulate_steps: the number of microbatches for gradient accumulation.
    """
    batch = task.train_inputs(arguments, state.step, root)

    def loss_of(params, batch_stats, inputs, labels):
        logits, updated = task.network.apply(
            {"params": params, "batch_stats": batch_stats},
            *inputs,
            **training_options(task.network),
            mutable=["batch_stats"],
            rngs={"dropout": keyed(root, "dropout", state.step)},
        )
        losses, correct = objective(logits, labels)
        totals = _totals(losses, correct, jnp.ones_like(losses))
        return jnp.mean(losses), (totals, updated.get("batch_stats", {}))

    # The masks are computed once, for any number of microbatches.
    method, seen = task.method, task.method.params
    if method.noisy is not None:
        seen = functools.partial(method.noisy, keyed(root, "noise", state.step))
    params, to_trainable = jax.vjp(
        lambda trainable: seen(trainable, state.frozen, state.step), state.trainable
    )
    loss, totals, batch_stats, of_params = accumulated(
        loss_of, params, state.batch_stats, batch, parts=accumulate_steps
    )
    (gradients,) = to_trainable(of_params)
    if method.penalty is not None:
        of_penalty = jax.grad(method.penalty)(state.trainable)
        gradients = jax.tree.map(jnp.add, gradients, of_penalty)
    updates, opt_state = task.optimizer.update(
        gradients, state.opt_state, state.trainable
    )
    first_bad = (state.bad_step < 0) & ~jnp.isfinite(loss)
    return State(
        step=state.step + 1,
        trainable=method.project(optax.apply_updates(state.trainable, updates)),
        frozen=state.frozen,
        batch_stats=batch_stats,
        opt_state=opt_state,
        window=_add(state.window, totals, restart=state.step % log_every == 0),
        epoch=_add(state.epoch, totals, restart=state.step % steps_per_epoch == 0),
        bad_step=jnp.where(first_bad, state.step, state.bad_step),
        masks=state.masks,
    )


def eval_step(
    params: PyTree, batch_stats: PyTree, arguments: PyTree, *, task: Task
) -> Totals:
    """Totals over a batch in which examples of weight 0 (padding) do not count."""
    inputs, labels, weights = task.eval_inputs(arguments)
    variables = {"params": params, "batch_stats": batch_stats}
    logits: Any = task.network.apply(variables, *inputs)
    losses, correct = objective(logits, labels)
    return _totals(losses, correct, weights)


def _add(sums: Totals, totals: Totals, *, restart: Array) -> Totals:
    return jax.tree.map(lambda s, t: jnp.where(restart, 0, s) + t, sums, totals)


def _totals(losses: Array, correct: Array, weights: Array) -> Totals:
    return Totals(
        jnp.sum(losses * weights), jnp.sum(correct * weights), jnp.sum(weights)
    )
