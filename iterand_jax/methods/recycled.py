"""A method that copies its best weights over its worst."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from iterand_jax.methods.method import Method, check_subnetwork
from iterand_jax.methods.scores import edge_popup
from iterand_jax.runtime.checks import check_at_least, check_fraction
from iterand_jax.selection import sharded_axes
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import leaves_of, map_pair

__all__ = ["recycling"]


def recycling(subnetwork: Subnetwork, *, k_per: int, recycled_share: float) -> Method:
    """edge-popup, with the worst pruned weights turned into copies of the best kept.

    Every K_per steps, of each leaf of n weights the round(share * n) with the lowest
    scores take the values of as many with the highest, the lowest that of the highest
    and so on (iterative weight recycling, Gorbett and Whitley 2023, whose abstract is
    followed; in which order weights are copied is not said there). Only pruned weights
    are replaced, and only kept ones copied, so that a refresh leaves what the network
    sees as it is.

    Raises:
      ValueError: k_per below 1, or a share outside [0, 1].

    >>> method = recycling(Subnetwork(sparsity=0.5), k_per=10, recycled_share=0.25)
    >>> scores = {"kernel": jnp.array([0.4, 0.1, 0.3, 0.2])}
    >>> weights = {"kernel": jnp.array([1.0, 2.0, 3.0, 4.0])}
    >>> new, copied = method.refresh(jax.random.key(0), 10, scores, weights)
    >>> new["kernel"].tolist(), int(copied)
    ([1.0, 1.0, 3.0, 4.0], 1)
    """
    check_subnetwork(subnetwork)
    check_at_least(1, k_per, "k_per is the period in steps")
    meaning = "recycled_share is a fraction of the weights of a leaf"
    check_fraction(recycled_share, meaning, or_one=True)

    def refresh(key, step, scores, weights):
        del key
        ranked, counts = leaves_of(subnetwork.ranked(scores)), []

        def one_leaf(path, mask, leaf):
            stack = subnetwork.axes(path, leaf).stack
            copy = functools.partial(_recycled, recycled_share)
            for axis in sorted(stack):
                copy = jax.vmap(copy, in_axes=axis, out_axes=(axis, 0))
            new, copied = copy(*map(_whole, (mask, ranked[path], leaf)))
            counts.append(jnp.sum(copied, dtype=jnp.int32))
            if sharded_axes(leaf):
                return jax.sharding.reshard(new, jax.typeof(leaf).sharding)
            if isinstance(leaf, jax.core.Tracer):
                return new
            in_shards = isinstance(leaf.sharding, NamedSharding)
            return jax.device_put(new, leaf.sharding) if in_shards else new

        new = map_pair(one_leaf, subnetwork.at(step).masks(scores), weights)
        return new, sum(counts, start=jnp.int32(0))

    return dataclasses.replace(
        edge_popup(subnetwork), refresh=refresh, refresh_every=k_per, resampling=None
    )


def _whole(leaf: Array) -> Array:
    """A leaf without Explicit shards: which weights are copied where is of all."""
    if not sharded_axes(leaf):
        return leaf
    mesh = jax.typeof(leaf).sharding.mesh
    return jax.sharding.reshard(leaf, NamedSharding(mesh, PartitionSpec()))


def _recycled(
    share: float, mask: Array, scores: Array, weights: Array
) -> tuple[Array, Array]:
    """A leaf whose worst pruned weights are copies of its best kept, and how many."""
    order, number = jnp.argsort(scores.ravel()), round(share * scores.size)
    low, high = order[:number], order[::-1][:number]
    flat, kept = weights.ravel(), mask.ravel() != 0
    copied = kept[high] & ~kept[low]
    new = flat.at[low].set(jnp.where(copied, flat[high], flat[low]))
    return new.reshape(weights.shape), jnp.sum(copied, dtype=jnp.int32)
