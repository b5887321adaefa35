"""Replay: finding the draw that each weight comes from, and rebuilding the weights.

Every draw is keyed by the root key, the step and the leaf's path, so all draws that a
run could have used can be reproduced. A refresh overwrites the pruned weights that it
selects and leaves kept weights unchanged; so a weight comes from the last draw at its
position that equals it, bit for bit.

This needs a distribution with many values. A signed constant has two: half of all draws
equal the weight whether they were used or not, and only the masks of the whole run,
which are not stored, could distinguish them.

`last_redraws` counts all refreshes, for analysis. `draw_numbers` counts only those that
selected the weight, since no other can have set it: after K refreshes a weight was
selected r * K times on average, so these numbers are smaller, and `drawn` rebuilds the
weights from them.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from iterand_jax.distributions import (
    Distribution,
    first_uniform,
    get_distribution,
    redrawn_uniform,
    word_bound,
)
from iterand_jax.keys import is_threefry, keyed, leaf_key, leaf_number
from iterand_jax.trees import map_paths

__all__ = ["last_redraws"]

PyTree = Any
NO_DRAW = -1
SMALL, LARGE = 2**13, 2**17
"""Weights in the parts of leaves that are rebuilt at once.

Large parts are for leaves of four of them: several cores share one, and what compiling
its program takes, 10 MB, is little beside such a leaf.
"""


class Drawn(Protocol):
    """How weights are sampled: a `Subnetwork`, or a ticket's record of it."""

    @property
    def distribution(self) -> str | Distribution | None:
        """The distribution or its name."""

    def fan_in(self, path: str, leaf: Any) -> float | None:
        """The fan-in of a leaf, None for one that is not drawn."""


def initial_key(root: Array) -> Array:
    """The key that a run samples its initial weights with, from its root key.

    >>> import jax
    >>> bool(initial_key(jax.random.key(0)) == keyed(jax.random.key(0), "method"))
    True
    """
    return keyed(root, "method")


def last_redraws(
    key: Array,
    step: int,
    weights: PyTree,
    subnetwork: Drawn,
    *,
    k_per: int,
    sampling_rate: float,
    init_key: Array | None = None,
) -> PyTree:
    """The index of the refresh that last resampled each weight.

    Args:
      key: the key that the refreshes folded their steps into (a run's root key).
      step: the number of training steps; refresh n was after step n * k_per.
      weights: after these steps, kept and pruned ones.
      subnetwork: how they were sampled; its sparsity is not used.
      k_per: the randomization period in steps.
      sampling_rate: r, as in the run.
      init_key: the key that the initial weights were sampled with.

    Returns:
      int32 arrays in the shapes of the pruned leaves, None for the others: n from 1 to
      step // k_per, 0 for the initial weight if its key is given, or -1 if no draw
      equals the weight. (With probability about 2**-24 per later refresh, n is that of
      an unused draw that has the same bits by chance.)

    Raises:
      ValueError: signed constants, whose draws cannot be distinguished.

    >>> import jax
    >>> from iterand_jax import Subnetwork, iterand
    >>> subnetwork = Subnetwork(sparsity=0.5, distribution="kaiming_uniform")
    >>> key, options = jax.random.key(0), {"k_per": 10, "sampling_rate": 1.0}
    >>> method = iterand(subnetwork, **options)
    >>> scores, weights = method.init(key, {"kernel": jax.numpy.zeros((2, 2))})
    >>> subnetwork.masks(scores)["kernel"].tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    >>> weights, _ = method.refresh(key, 10, scores, weights)
    >>> last_redraws(key, 10, weights, subnetwork, **options)["kernel"].tolist()
    [[-1, -1], [1, 1]]
    >>> last = last_redraws(key, 10, weights, subnetwork, init_key=key, **options)
    >>> last["kernel"].tolist()
    [[0, 0], [1, 1]]
    """
    distribution = _distribution(subnetwork)
    if distribution.name == "signed_constant":
        raise ValueError(
            "the last resampling of a signed constant cannot be found from its value; "
            "possible: kaiming_uniform, kaiming_normal"
        )

    def one_leaf(path, leaf, draws):
        keys = _redraw_keys(key, path, step, k_per)
        last, _ = _last_match(keys, leaf, draws, float(sampling_rate))
        if init_key is None:
            return last
        return jnp.where(last > 0, last, _first_number(init_key, path, leaf, draws))

    return _map_drawn(one_leaf, weights, subnetwork)


def draw_numbers(
    init_key: Array,
    key: Array,
    step: int,
    weights: PyTree,
    subnetwork: Drawn,
    *,
    k_per: int,
    sampling_rate: float,
) -> PyTree:
    """The draw number of each weight, from which `drawn` rebuilds it.

    Args:
      init_key: the key that the initial weights were sampled with.
      key: as in `last_redraws`, like the arguments below.
      step: the number of training steps.
      weights: after these steps; of any distribution.
      subnetwork: how they were sampled; its sparsity is not used.
      k_per: the randomization period in steps, 0 for a run without refreshes.
      sampling_rate: r, as in the run.

    Returns:
      int32 arrays in the shapes of the pruned leaves, None for the others: 0 for the
      initial weight, j for the j-th refresh that selected the weight, `NO_DRAW` if no
      draw equals it.
    """

    def one_leaf(path, leaf, draws):
        number = _first_number(init_key, path, leaf, draws)
        if k_per == 0:
            return number
        keys = _redraw_keys(key, path, step, k_per)
        last, chosen = _last_match(keys, leaf, draws, float(sampling_rate))
        return jnp.where(last > 0, chosen, number)

    return _map_drawn(one_leaf, weights, subnetwork)


def drawn(
    init_key: Array,
    key: Array,
    step: int,
    numbers: PyTree,
    subnetwork: Drawn,
    *,
    k_per: int,
    sampling_rate: float,
) -> PyTree:
    """The float32 weights, rebuilt bit for bit from `draw_numbers`.

    Leaves are rebuilt in parts of two sizes, by programs whose arguments are all that
    differs between leaves and tickets: two are compiled in a process, for all of them,
    and a part's arrays stay in a core's cache.

    Returns:
      NumPy arrays in the shapes of the numbers, None for leaves that are not sampled.
    """

    def one_leaf(path, leaf, draws):
        first = leaf_key(init_key, path, "weights")
        refreshes = _Refreshes.of(key, path, step, k_per, sampling_rate)
        whole = np.asarray(leaf).reshape(-1)
        weights = np.empty(whole.shape, np.float32)
        for start, size in _parts(first, whole.size):
            part = chosen = whole[start : start + size]
            if chosen.size < size:
                part = np.full(size, NO_DRAW, np.int32)
                part[: chosen.size] = chosen
            of_part = refreshes._replace(times=refreshes.times * chosen.any())
            uniform = _last_uniform(first, of_part, np.uint32(start), part)
            drawn = draws.distribution.from_uniform(uniform, draws.fan_in)
            weights[start : start + size] = np.asarray(drawn)[: chosen.size]
        return weights.reshape(leaf.shape)

    return _map_drawn(one_leaf, numbers, subnetwork)


class _Draws(NamedTuple):
    """The distribution that the weights of a leaf are sampled from."""

    distribution: Distribution
    fan_in: float


def _distribution(subnetwork: Drawn) -> Distribution:
    if subnetwork.distribution is None:
        raise ValueError("distribution=None: the weights were given and never drawn")
    return get_distribution(subnetwork.distribution)


def _map_drawn(f, tree: PyTree, subnetwork: Drawn) -> PyTree:
    """Maps f(path, leaf, draws) over the sampled leaves; the others become None."""
    distribution = _distribution(subnetwork)

    def one_leaf(path, leaf):
        fan_in = subnetwork.fan_in(path, leaf)
        return None if fan_in is None else f(path, leaf, _Draws(distribution, fan_in))

    return map_paths(one_leaf, tree)


def _redraw_keys(key: Array, path: str, step: int, k_per: int) -> Array:
    """The resampling keys of a leaf, one per refresh; none if k_per is 0."""
    steps = k_per * jnp.arange(1, (step // k_per if k_per else 0) + 1)
    return jax.vmap(
        lambda step: leaf_key(jax.random.fold_in(key, step), path, "redraw")
    )(steps)


def _first_number(init_key: Array, path: str, leaf: Array, draws: _Draws) -> Array:
    """0 where the initial draw equals the weight, else `NO_DRAW`."""
    first = _first(leaf_key(init_key, path, "weights"), leaf, draws)
    return jnp.where(first.astype(leaf.dtype) == leaf, 0, NO_DRAW)


@functools.partial(jax.jit, static_argnames="draws")
def _first(key: Array, leaf: Array, draws: _Draws) -> Array:
    return draws.distribution.sample(key, leaf.shape, draws.fan_in)


@functools.partial(jax.jit, static_argnames=("draws", "sampling_rate"))
def _last_match(
    keys: Array, weights: Array, draws: _Draws, sampling_rate: float
) -> tuple[Array, Array]:
    """(index of the last refresh whose draw equals the weight, its draw number).

    Scans over the refreshes and remembers the last match. Both count from 1: the index
    all refreshes, the draw number only those that selected the weight. -1 for no match.
    """

    def compare(carry, numbered):
        last, times_chosen, chosen_at_last = carry
        number, key = numbered
        fresh, chosen = draws.distribution.redraw(
            key, weights, draws.fan_in, sampling_rate
        )
        times_chosen += chosen
        equal = chosen & (fresh == weights)
        return (
            jnp.where(equal, number, last),
            times_chosen,
            jnp.where(equal, times_chosen, chosen_at_last),
        ), None

    never = jnp.full(weights.shape, NO_DRAW, jnp.int32)
    zeros = jnp.zeros(weights.shape, jnp.int32)
    numbers = jnp.arange(1, len(keys) + 1, dtype=jnp.int32)
    carry, _ = lax.scan(compare, (never, zeros, zeros), (numbers, keys))
    return carry[0], carry[2]


def _parts(key: Array, size: int) -> Iterator[tuple[int, int]]:
    """(start, size) of the parts of a leaf, of which the last may reach beyond it.

    The words of other generators depend on the size: one part.
    """
    if not is_threefry(key):
        yield 0, size
        return
    start = 0
    while start < size:
        part = LARGE if size >= 4 * LARGE and size - start > LARGE // 4 else SMALL
        yield start, part
        start += part


class _Refreshes(NamedTuple):
    """The refreshes of a leaf as arguments of a program, which is that of any."""

    key: Array  # the run's root key
    number: ArrayLike  # what folds the leaf into the key of a step
    k_per: ArrayLike
    times: ArrayLike
    rate: Array
    bound: ArrayLike  # `word_bound` of the rate

    @classmethod
    def of(
        cls, key: Array, path: str, step: int, k_per: int, sampling_rate: float
    ) -> "_Refreshes":
        times = step // k_per if k_per else 0
        return cls(
            key,
            np.uint32(leaf_number(path, "redraw")),
            np.uint32(k_per if times else 0),
            np.int32(times),
            jnp.float32(sampling_rate),
            word_bound(float(sampling_rate)),
        )


@jax.jit
def _last_uniform(
    first: Array, refreshes: _Refreshes, start: Array, numbers: Array
) -> Array:
    """The uniform numbers that weights come from, of the draws with their numbers.

    Args:
      first: the key of the first draw of the leaf.
      refreshes: of the leaf.
      start: index in the leaf of the first weight.
      numbers: of draws, as `draw_numbers` counts them.
    """

    def redraw(index, carry):
        uniform, times_chosen = carry
        step = (index + 1).astype(jnp.uint32) * refreshes.k_per
        key = jax.random.fold_in(refreshes.key, step)
        key = jax.random.fold_in(key, refreshes.number)
        fresh, chosen = redrawn_uniform(
            key, len(numbers), refreshes.rate, refreshes.bound, start
        )
        times_chosen += chosen
        last = chosen & (times_chosen == numbers)
        return jnp.where(last, fresh, uniform), times_chosen

    initial = first_uniform(first, len(numbers), start), jnp.zeros_like(numbers)
    return lax.fori_loop(np.int32(0), refreshes.times, redraw, initial)[0]
