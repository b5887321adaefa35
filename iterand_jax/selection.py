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
sums the rows' counts. In `select_blocked` the rows of all arrays form one matrix, and a
pass is three kernels: each row is compared with the candidates of its array, the counts
are summed by array, and the next digit of every answer is chosen.

Several arrays may count as one: they share a threshold. They are not concatenated: each
is counted as it lies, and the counts are summed.

An array that is sharded over devices is counted locally on each shard, and only the
counts are communicated: 3 integers a pass. With Explicit axes the array's type has its
sharding, and each device makes its own rows. With Auto axes the type lacks it and the
partitioner decides; in the context of `jax.set_mesh(mesh)`, arrays keep their shape, so
that it can count every shard in place. (Without that context, rows of an array that is
sharded along its last axis are gathered first; the results are the same.) Within
`jax.shard_map` each shard is a separate array.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, PartitionSpec

__all__ = ["select_all", "select_blocked", "select_each", "select_kth"]

Scalar = float | Array
"""A number, or a scalar array that may be traced."""

Keys = Array | Sequence[Array]
"""Unsigned integers: an array, or arrays of one dtype that count as one."""

ROW = 1024  # keys; a row takes a warp or two of a GPU, and small arrays waste little
BITS = 4  # per pass of the blocked form, a divisor of 16
# Arrays up to which a GPU's passes are unrolled: with more, a loop has fewer kernels.
UNROLLED = 24
# Rows up to which counts are read by index, of all entries as if each were the largest:
# the indices are a constant of the program, of gigabytes with one embedding of 10^8.
INDEXED = 1 << 20


def select_all(keys: Sequence[Keys], ks: Sequence[int | Array]) -> list[Array]:
    """The k-th smallest (from 0) of each entry, chosen for the platform as above.

    The choice is made when a program is lowered, not when it is traced: one that is
    lowered for CPU in a process with a GPU uses the CPU implementation, and one that is
    exported for several platforms uses that of each.

    Args:
      keys: unsigned integers, each array of any non-empty shape. An entry that is a
        list of arrays of one dtype counts as one array.
      ks: one for each entry, below its size and 2**31; may be traced scalars.

    Returns:
      A scalar for each entry, of its dtype.

    >>> import jax.numpy as jnp
    >>> select_all([jnp.array([7, 1, 5], jnp.uint32), jnp.ones(2, jnp.uint16)], [1, 0])
    [Array(5, dtype=uint32), Array(1, dtype=uint16)]
    >>> select_all([[jnp.array([7, 1], jnp.uint32), jnp.ones(2, jnp.uint32)]], [3])
    [Array(7, dtype=uint32)]
    """
    gpu = functools.partial(select_blocked, unroll=len(keys) <= UNROLLED)
    return lax.platform_dependent(
        *(list(keys), list(ks)),
        cpu=select_each,
        cuda=gpu,
        rocm=gpu,
        default=select_blocked,
    )


def select_each(keys: Sequence[Keys], ks: Sequence[int | Array]) -> list[Array]:
    """`select_all`, array by array with `select_kth`.

    >>> import jax.numpy as jnp
    >>> select_each([jnp.array([7, 1, 5], jnp.uint32)], [2])
    [Array(7, dtype=uint32)]
    """
    return [select_kth(x, k) for x, k in zip(keys, ks, strict=True)]


def select_kth(keys: Keys, k: int | Array) -> Array:
    """The k-th smallest (from 0) of unsigned integers of any shape, without a sort.

    Of a list of arrays it is that of all their integers.

    Two bits of the answer per pass, from the top: a candidate with at most k keys below
    it is not above the answer. One variadic reduction counts for all three candidates;
    as separate sums, XLA's CPU backend reads the keys once per candidate, five times
    slower in all. It counts by rows, which that backend distributes over the cores; a
    reduction over all axes would run on one.

    >>> import jax.numpy as jnp
    >>> select_kth(jnp.array([7, 1, 5], jnp.uint32), 1)
    Array(5, dtype=uint32)
    """
    arrays = _as_arrays(keys)
    axes = [sharded_axes(x) for x in arrays]
    if not any(axes):
        return _kth(arrays, k, axes)
    # Every device counts in its own shards, as rows; the sums are exchanged.
    shardings = [jax.typeof(x).sharding for x in arrays]
    meshes = [s.mesh for s, own in zip(shardings, axes, strict=True) if own]
    return jax.shard_map(
        lambda shards, k: _kth(shards, k, axes),
        mesh=meshes[0],  # an array that is not placed has a mesh without axes
        in_specs=([sharding.spec for sharding in shardings], PartitionSpec()),
        out_specs=PartitionSpec(),
        axis_names={name for names in axes for name in names},
    )(arrays, jnp.asarray(k, jnp.int32))


def _as_arrays(keys: Keys) -> list[Array]:
    return list(keys) if isinstance(keys, list | tuple) else [keys]  # type: ignore


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


def _kth(
    arrays: Sequence[Array], k: int | Array, axes: Sequence[tuple[str, ...]]
) -> Array:
    """`select_kth` of arrays of which each device along these axes holds a shard."""
    dtype = arrays[0].dtype
    bits = dtype.itemsize * 8
    rows = arrays if _partitioned() else [_as_rows(x) for x in arrays]
    along = [x.ndim for x in arrays] if _partitioned() else [1] * len(arrays)

    def two_bits(i, answer):
        shift = jnp.asarray(bits - 2 - 2 * i, dtype)
        candidates = [answer | (jnp.asarray(d, dtype) << shift) for d in (1, 2, 3)]
        of_arrays = []
        for x, of_row, names in zip(rows, along, axes, strict=True):
            counts = _counts_below(x, candidates, of_row)
            sums = [jnp.sum(c, dtype=jnp.int32) for c in counts]
            of_arrays.append(lax.psum(sums, names))
        below = [
            functools.reduce(operator.add, c) for c in zip(*of_arrays, strict=True)
        ]
        digit = sum((b <= k).astype(dtype) for b in below)
        return answer | (digit << shift)

    zeros = [lax.psum(_zero(x, k), a) for x, a in zip(arrays, axes, strict=True)]
    return lax.fori_loop(0, bits // 2, two_bits, functools.reduce(operator.or_, zeros))


def is_spread(array: Array) -> bool:
    """Whether an array is, or may be, in shards that no reshape should move.

    >>> import jax.numpy as jnp
    >>> is_spread(jnp.zeros(4))
    False
    """
    return _partitioned() or bool(sharded_axes(array))


def is_explicit(array: Array) -> bool:
    """Whether an array's mesh has Explicit axes, over one of which `vmap` may be.

    >>> import jax.numpy as jnp
    >>> is_explicit(jnp.zeros(4))
    False
    """
    return AxisType.Explicit in jax.typeof(array).sharding.mesh.axis_types


def _partitioned() -> bool:
    """Whether arrays may be sharded over several devices without this in their types.

    So it is within `jax.set_mesh` of a mesh that has Auto axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return any(kind == AxisType.Auto and size > 1 for kind, size in sizes)


def select_blocked(
    keys: Sequence[Keys], ks: Sequence[int | Array], *, unroll: bool = False
) -> list[Array]:
    """`select_all`, all arrays of a dtype at once.

    Unrolled, the passes take longer to compile, and no loop keeps a step from being one
    CUDA graph; XLA adds two kernels to each trip of a loop. Masks of 10 arrays have 35
    kernels unrolled and 53 in a loop, of 60 arrays 86 and 54.

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
    entries = [_as_arrays(x) for x in keys]
    for index, (arrays, k) in enumerate(zip(entries, ks, strict=True)):
        if any(is_spread(x) for x in arrays):
            answers[index] = select_kth(arrays, k)
        else:
            together.setdefault(jax.typeof(_zero_of(arrays, k)), []).append(index)
    for indices in together.values():
        found = _select_rows(
            [entries[i] for i in indices],
            jnp.stack([jnp.asarray(ks[i], jnp.int32) for i in indices]),
            unroll,
        )
        answers |= {i: found[n] for n, i in enumerate(indices)}
    return [answers[i] for i in range(len(keys))]


def _select_rows(entries: list[list[Array]], ks: Array, unroll: bool) -> Array:
    """The answers, as one array, for keys of one dtype."""
    dtype = entries[0][0].dtype
    bits = dtype.itemsize * 8
    digits = range(1, 1 << BITS)
    numbered = [(n, x) for n, arrays in enumerate(entries) for x in arrays]
    rows = jnp.concatenate([_as_rows(_outputs_first(x)) for _, x in numbered])
    numbers = [sum(-(-x.size // ROW) for x in arrays) for arrays in entries]
    entry_of_row = jnp.array(np.repeat(np.arange(len(entries)), numbers), jnp.int32)

    def one_pass(i, answers):
        shift = jnp.asarray(bits - BITS - BITS * i, dtype)
        of_rows = answers[entry_of_row, None]
        candidates = [of_rows | (jnp.asarray(d, dtype) << shift) for d in digits]
        below = _sums_by_entry(_counts_below(rows, candidates), numbers)
        digit = sum((count <= ks).astype(dtype) for count in below)
        return answers | (digit << shift)

    zeros = jnp.stack([_zero_of(x, k) for x, k in zip(entries, ks, strict=True)])
    return lax.fori_loop(0, bits // BITS, one_pass, zeros, unroll=unroll)


def _sums_by_entry(counts: Sequence[Array], numbers: Sequence[int]) -> Sequence[Array]:
    """The counts of the rows of each entry, summed; an entry has so many rows.

    Rows lie one after another, so that no sum needs a scatter: an entry reads its own,
    and as many zeros as the largest has rows more.

    With Explicit axes `jax.vmap` may be over an axis in shards, where JAX refuses to
    read by index; each entry is then a sum of its own. So it is, too, where the
    zeros would be many.
    """
    ends = np.cumsum(numbers)
    if is_explicit(counts[0]) or max(numbers) * len(numbers) > INDEXED:
        bounds = [*zip(ends - numbers, ends, strict=True)]
        sums = functools.partial(jnp.sum, dtype=jnp.int32)
        return [jnp.stack([sums(c[a:b]) for a, b in bounds]) for c in counts]
    places = np.arange(max(numbers))
    own = places < np.array(numbers)[:, None]
    indices = np.where(own, (ends - numbers)[:, None] + places, 0)
    of_entries = tuple(jnp.where(own, c[indices], 0) for c in counts)
    return lax.reduce(of_entries, (jnp.int32(0),) * len(counts), _sums, (1,))


def _sums(a: Sequence[Array], b: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _outputs_first(keys: Array) -> Array:
    """The keys of a convolution's kernel by output channel, others as they are.

    No order changes a count, and this is the order in which XLA stores kernels for
    cuDNN: they need no transposes then, 19 kernels of a step of ResNet18.
    """
    return jnp.moveaxis(keys, -1, 0) if keys.ndim > 2 else keys


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
        _sums,
        tuple(range(rows.ndim - along, rows.ndim)),
    )


def _zero(keys: Array, k: int | Array) -> Array:
    """Zero computed from keys and k, to vary over the same axes under shard_map."""
    first = keys.reshape(-1)[0]
    return (first ^ first) & jnp.asarray(k).astype(keys.dtype)


def _zero_of(arrays: Sequence[Array], k: int | Array) -> Array:
    """`_zero` of arrays that count as one."""
    return functools.reduce(operator.or_, [_zero(x, k) for x in arrays])
