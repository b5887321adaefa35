"""The train and evaluation steps: pure functions of the state and the data.

The data set lies on the device as uint8. A step takes its batch by index, augments and
normalizes it, differentiates the loss of `method.params(trainable, frozen)` by the
trainable tree, and updates that with SGD. It knows nothing else of the method.

Every draw is keyed by the root key, a purpose and the step or epoch (`keyed`).
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array, lax
from jax.sharding import Sharding
from jax.typing import ArrayLike

from iterand_jax.methods import Method

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
      trainable: what the optimizer updates (scores, or weights for SGD).
      frozen: what it does not (weights, or masks).
      batch_stats: running statistics of normalization layers.
      opt_state: of the optimizer.
      window: totals since the last log step.
      epoch: totals since the epoch began.
      bad_step: the first step whose loss was not finite, -1 while there is none.
    """

    step: Array
    trainable: PyTree
    frozen: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    window: Totals
    epoch: Totals
    bad_step: Array


class Task(NamedTuple):
    """What is trained and how: the static part of a step."""

    network: nn.Module
    method: Method
    optimizer: optax.GradientTransformation
    augment: Callable[[Array, Array], Array]
    normalize: Callable[[Array], Array]


class Images(NamedTuple):
    """A split or batch: uint8 images (n, H, W, C) and int32 labels (n,).

    NumPy arrays on the host, jax arrays on the devices.
    """

    images: Any
    labels: Any


def keyed(root: Array, purpose: str, number: ArrayLike = 0) -> Array:
    """The key of a purpose and a step or epoch, folded from the root key."""
    key = jax.random.fold_in(root, zlib.crc32(purpose.encode()))
    return jax.random.fold_in(key, number)


def zero_totals() -> Totals:
    """Totals over no examples."""
    return Totals(*(jnp.zeros((), jnp.float32) for _ in Totals._fields))


def sgd_optimizer(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD with momentum; the decay is added to the gradient of everything trainable."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
    )


def init_state(root: Array, task: Task, image_shape: tuple[int, int, int]) -> State:
    """The state before the first step, for images of shape (H, W, C)."""
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = task.network.init(keyed(root, "network"), images)
    trainable, frozen = task.method.init(keyed(root, "method"), variables["params"])
    return State(
        step=jnp.int32(0),
        trainable=trainable,
        frozen=frozen,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=task.optimizer.init(trainable),
        window=zero_totals(),
        epoch=zero_totals(),
        bad_step=jnp.int32(-1),
    )


def epoch_order(root: Array, epoch: ArrayLike, *, size: int) -> Array:
    """The order of a split of `size` examples in an epoch: a permutation, int32."""
    return jax.random.permutation(keyed(root, "order", epoch), size)


def train_step(
    state: State,
    data: Images,
    order: Array,
    root: Array,
    *,
    task: Task,
    batch_size: int,
    log_every: int,
    batch_sharding: Sharding,
) -> State:
    """One update on the batch that the step's place in its epoch gives.

    Args:
      state: the state; donate it.
      data: the training split.
      order: the epoch's permutation of it, int32 (n,); what does not fill a batch at
        its end is left out.
      root: the root key of the run.
      task: network, method, optimizer, augmentation.
      batch_size: examples per step, over all devices.
      log_every: steps that `state.window` sums over.
      batch_sharding: how the batch lies on the devices.
    """
    place = state.step % (order.shape[0] // batch_size)
    indices = lax.dynamic_slice_in_dim(order, place * batch_size, batch_size)
    indices = lax.with_sharding_constraint(indices, batch_sharding)
    labels = data.labels[indices]
    images = task.augment(keyed(root, "augment", state.step), data.images[indices])
    images = task.normalize(images)

    def loss_of(trainable):
        logits, updated = task.network.apply(
            {
                "params": task.method.params(trainable, state.frozen),
                "batch_stats": state.batch_stats,
            },
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": keyed(root, "dropout", state.step)},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        totals = _totals(losses, logits, labels, jnp.ones_like(losses))
        return jnp.mean(losses), (totals, updated.get("batch_stats", {}))

    grad = jax.value_and_grad(loss_of, has_aux=True)
    (loss, (totals, batch_stats)), gradients = grad(state.trainable)
    updates, opt_state = task.optimizer.update(
        gradients, state.opt_state, state.trainable
    )
    first_bad = (state.bad_step < 0) & ~jnp.isfinite(loss)
    return State(
        step=state.step + 1,
        trainable=optax.apply_updates(state.trainable, updates),
        frozen=state.frozen,
        batch_stats=batch_stats,
        opt_state=opt_state,
        window=_add(state.window, totals, restart=state.step % log_every == 0),
        epoch=_add(state.epoch, totals, restart=place == 0),
        bad_step=jnp.where(first_bad, state.step, state.bad_step),
    )


def eval_step(
    params: PyTree, batch_stats: PyTree, batch: Images, weights: Array, *, task: Task
) -> Totals:
    """Totals over a batch in which examples of weight 0 (padding) do not count."""
    images = task.normalize(batch.images.astype(jnp.float32))
    variables = {"params": params, "batch_stats": batch_stats}
    logits: Any = task.network.apply(variables, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return _totals(losses, logits, batch.labels, weights)


def _add(sums: Totals, totals: Totals, *, restart: Array) -> Totals:
    return jax.tree.map(lambda s, t: jnp.where(restart, 0, s) + t, sums, totals)


def _totals(losses: Array, logits: Array, labels: Array, weights: Array) -> Totals:
    correct = (jnp.argmax(logits, axis=-1) == labels) * weights
    return Totals(jnp.sum(losses * weights), jnp.sum(correct), jnp.sum(weights))
