"""Exact order statistics of unsigned integers in linear time, without sorting.

The bits of a k-th smallest key are found from the top, a few per pass, by counting how
many keys are below the candidates of the pass. The number of passes is fixed, and each
reads the keys once. `select_all` does so for many arrays, by the implementation for the
platform that the program is compiled for; the results are identical.

    select_each      one array after another, two bits per pass: the least work. On CPU.
    select_blocked   all arrays at once, four bits per pass: the fewest kernels. For
                     accelerators, where a launch costs as much as reading a megabyte.

In both, the keys of an array are reshaped to rows of one length; the last row is padded
with the largest key, which is below no candidate. A pass counts along the rows, then
sums the rows' counts. In `select_blocked` the rows of all arrays form one matrix and a
pass is one fused reduction over it: each row is compared with the candidates of its
array, and a segment sum adds up the counts by array.

An array that is sharded over devices is counted locally on each shard, and only the
counts are communicated: 3 integers a pass. With Explicit axes the array's type has its
sharding, and each device makes its own rows. With Auto axes the type lacks it and the
partitioner decides; in the context of `jax.set_mesh(mesh)`, arrays keep their shape, so
that it can count every shard in place. (Without that context, rows of an array that is
sharded along its last axis are gathered first; the results are the same.) Within
`jax.shard_map` each shard is a separate array.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, PartitionSpec

__all__ = ["select_all", "select_blocked", "select_each", "select_kth"]

ROW = 1024  # keys; a row takes a warp or two of a GPU, and small arrays waste little
BITS = 4  # per pass of the blocked form, a divisor of 16


def select_all(keys: Sequence[Array], ks: Sequence[int | Array]) -> list[Array]:
    """The k-th smallest (from 0) of each array, chosen for the platform as above.

    The choice is made when a program is lowered, not when it is traced: one that is
    lowered for CPU in a process with a GPU uses the CPU implementation, and one that is
    exported for several platforms uses that of each.

    Args:
      keys: unsigned integers, each array of any non-empty shape.
      ks: one for each array, below its size and 2**31; may be traced scalars.

    Returns:
      A scalar for each array, of its dtype.

    >>> import jax.numpy as jnp
    >>> select_all([jnp.array([7, 1, 5], jnp.uint32), jnp.ones(2, jnp.uint16)], [1, 0])
    [Array(5, dtype=uint32), Array(1, dtype=uint16)]
    """
    return lax.platform_dependent(
        list(keys), list(ks), cpu=select_each, default=select_blocked
    )


def select_each(keys: Sequence[Array], ks: Sequence[int | Array]) -> list[Array]:
    """`select_all`, array by array with `select_kth`.

    >>> import jax.numpy as jnp
    >>> select_each([jnp.array([7, 1, 5], jnp.uint32)], [2])
    [Array(7, dtype=uint32)]
    """
    return [select_kth(x, k) for x, k in zip(keys, ks, strict=True)]


def select_kth(keys: Array, k: int | Array) -> Array:
    """The k-th smallest (from 0) of unsigned integers of any shape, without a sort.

    Two bits of the answer per pass, from the top: a candidate with at most k keys below
    it is not above the answer. One variadic reduction counts for all three candidates;
    as separate sums, XLA's CPU backend reads the keys once per candidate, five times
    slower in all. It counts by rows, which that backend distributes over the cores; a
    reduction over all axes would run on one.

    >>> import jax.numpy as jnp
    >>> select_kth(jnp.array([7, 1, 5], jnp.uint32), 1)
    Array(5, dtype=uint32)
    """
    axes = sharded_axes(keys)
    if not axes:
        return _kth(keys, k, ())
    # Every device counts in its own shard, as rows; the sums are exchanged.
    return jax.shard_map(
        lambda shard, k: _kth(shard, k, axes),
        mesh=jax.typeof(keys).sharding.mesh,
        in_specs=(jax.typeof(keys).sharding.spec, PartitionSpec()),
        out_specs=PartitionSpec(),
        axis_names={*axes},
    )(keys, jnp.asarray(k, jnp.int32))


def sharded_axes(array: Array) -> tuple[str, ...]:
    """The Explicit axes of a mesh that an array's type is sharded over.

    >>> import jax.numpy as jnp
    >>> sharded_axes(jnp.zeros(4))
    ()
    """
    names = [axis for axis in jax.typeof(array).sharding.spec if axis]
    return tuple(
        n for axis in names for n in ((axis,) if isinstance(axis, str) else axis)
    )


def _kth(keys: Array, k: int | Array, axes: tuple[str, ...]) -> Array:
    """`select_kth` of keys of which each device along these axes holds a shard."""
    bits = keys.dtype.itemsize * 8
    rows, along = (keys, keys.ndim) if _partitioned() else (_as_rows(keys), 1)

    def two_bits(i, answer):
        shift = jnp.asarray(bits - 2 - 2 * i, keys.dtype)
        candidates = [answer | (jnp.asarray(d, keys.dtype) << shift) for d in (1, 2, 3)]
        counts = _counts_below(rows, candidates, along)
        below = lax.psum([jnp.sum(c, dtype=jnp.int32) for c in counts], axes)
        digit = sum((b <= k).astype(keys.dtype) for b in below)
        return answer | (digit << shift)

    return lax.fori_loop(0, bits // 2, two_bits, lax.psum(_zero(keys, k), axes))


def is_spread(array: Array) -> bool:
    """Whether an array is, or may be, in shards that no reshape should move.

    >>> import jax.numpy as jnp
    >>> is_spread(jnp.zeros(4))
    False
    """
    return _partitioned() or bool(sharded_axes(array))


def _partitioned() -> bool:
    """Whether arrays may be sharded over several devices without their types' telling.

    So it is within `jax.set_mesh` of a mesh that has Auto axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return any(kind == AxisType.Auto and size > 1 for kind, size in sizes)


def select_blocked(keys: Sequence[Array], ks: Sequence[int | Array]) -> list[Array]:
    """`select_all`, all arrays of a dtype at once.

    What does not fit in one matrix is selected separately: arrays of another dtype or,
    inside `shard_map`, that vary over other axes; a sharded array is read locally on
    each shard, by `select_kth`.

    >>> import jax.numpy as jnp
    >>> keys = [jnp.array([7, 1, 5], jnp.uint32), jnp.array([[4], [9]], jnp.uint32)]
    >>> select_blocked(keys, [1, 1])
    [Array(5, dtype=uint32), Array(9, dtype=uint32)]
    """
    answers: dict[int, Array] = {}
    together: dict[object, list[int]] = {}
    for index, (x, k) in enumerate(zip(keys, ks, strict=True)):
        if is_spread(x):
            answers[index] = select_kth(x, k)
        else:
            together.setdefault(jax.typeof(_zero(x, k)), []).append(index)
    for indices in together.values():
        found = _select_rows(
            [keys[i] for i in indices],
            jnp.stack([jnp.asarray(ks[i], jnp.int32) for i in indices]),
        )
        answers |= {i: found[n] for n, i in enumerate(indices)}
    return [answers[i] for i in range(len(keys))]


def _select_rows(keys: list[Array], ks: Array) -> Array:
    """The answers, as one array, for keys of one dtype."""
    dtype, arrays = keys[0].dtype, len(keys)
    bits = dtype.itemsize * 8
    digits = range(1, 1 << BITS)
    rows = jnp.concatenate([_as_rows(x) for x in keys])
    array_of_row = jnp.array(
        [n for n, x in enumerate(keys) for _ in range(-(-x.size // ROW))], jnp.int32
    )

    def one_pass(i, answers):
        shift = jnp.asarray(bits - BITS - BITS * i, dtype)
        of_rows = answers[array_of_row, None]
        candidates = [of_rows | (jnp.asarray(d, dtype) << shift) for d in digits]
        counts = jnp.stack(_counts_below(rows, candidates), axis=1)
        below = jax.ops.segment_sum(
            counts, array_of_row, arrays, indices_are_sorted=True
        )
        digit = jnp.sum(below <= ks[:, None], axis=1).astype(dtype)
        return answers | (digit << shift)

    zeros = jnp.stack([_zero(x, k) for x, k in zip(keys, ks, strict=True)])
    return lax.fori_loop(0, bits // BITS, one_pass, zeros)


def _as_rows(keys: Array) -> Array:
    largest = ~jnp.zeros((), keys.dtype)
    flat = jnp.pad(keys.ravel(), (0, -keys.size % ROW), constant_values=largest)
    return flat.reshape(-1, ROW)


def _counts_below(
    rows: Array, candidates: list[Array], along: int = 1
) -> tuple[Array, ...]:
    """How many keys of each row are below each candidate, in one pass over the keys.

    A row is along so many of the last axes.
    """
    return lax.reduce(
        tuple((rows < c).astype(jnp.int32) for c in candidates),
        (jnp.int32(0),) * len(candidates),
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        tuple(range(rows.ndim - along, rows.ndim)),
    )


def _zero(keys: Array, k: int | Array) -> Array:
    """Zero computed from keys and k, to vary over the same axes under shard_map."""
    first = keys.reshape(-1)[0]
    return (first ^ first) & jnp.asarray(k).astype(keys.dtype)
