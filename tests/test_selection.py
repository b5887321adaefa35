"""Order statistics of integers against NumPy's sort; all algorithms agree."""

import functools
import re
import textwrap

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Subnetwork, masks, selection
from iterand_jax.networks import NETWORKS, build_network
from iterand_jax.selection import ROW, select_all, select_blocked, select_each
from tests import helpers

WAYS = (select_all, select_each, select_blocked)
SIZES = (1, 2, ROW - 1, ROW, ROW + 1, 3 * ROW, 5000)


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_every_order_statistic_of_integers_is_found(dtype):
    keys = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, 37, dtype)
    keys[:5] = [0, 1, np.iinfo(dtype).max, np.iinfo(dtype).max // 2, 1]
    with jax.enable_x64(dtype == "uint64"):
        for way in WAYS:
            found = jax.jit(jax.vmap(lambda x, k, way=way: way([x], [k])[0], (None, 0)))
            np.testing.assert_array_equal(found(keys, jnp.arange(37)), np.sort(keys))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_arrays_that_fill_no_row_or_many_have_their_own_answers(way, dtype):
    rng = np.random.default_rng(2)
    largest = np.iinfo(dtype).max
    with jax.enable_x64(dtype == "uint64"):
        select = jax.jit(way)
        for high in (3, largest):  # ties, and hardly any
            keys = [rng.integers(0, high, n, dtype, endpoint=True) for n in SIZES]
            keys.append(
                np.full(700, largest, dtype)
            )  # as what the rows are padded with
            for place in (0.0, 0.3, 1.0):
                ks = [int(place * (x.size - 1)) for x in keys]
                expected = [np.sort(x)[k] for x, k in zip(keys, ks, strict=True)]
                found = select(keys, ks)
                np.testing.assert_array_equal(found, expected)
                assert {x.dtype for x in found} == {np.dtype(dtype)}


@pytest.mark.parametrize("way", WAYS)
def test_arrays_that_count_as_one_have_the_answer_of_their_concatenation(way):
    rng = np.random.default_rng(4)
    arrays = [rng.integers(0, 500, n, np.uint32) for n in SIZES]
    entries = [arrays[:3], arrays[3], arrays[4:], [arrays[0]]]
    parts = [entry if isinstance(entry, list) else [entry] for entry in entries]
    flat = [np.sort(np.concatenate(part)) for part in parts]
    for place in (0.0, 0.5, 1.0):
        ks = [int(place * (x.size - 1)) for x in flat]
        found = jax.jit(way)(entries, ks)
        assert [*map(int, found)] == [x[k] for x, k in zip(flat, ks, strict=True)]


# One program for each shape, of which a network has few.
threshold_alone = jax.jit(functools.partial(masks.threshold, select=select_each))
thresholds_blocked = jax.jit(functools.partial(masks.thresholds, select=select_blocked))


def shapes_of(name, width):
    """The leaves that are pruned of a network."""
    inputs = (jnp.zeros((1, 64, 64, 3)),)
    if NETWORKS.get(name).takes_texts:
        inputs = (jnp.zeros((1, 4), int), jnp.full(1, 4))
    network = build_network(name, num_classes=10, width=width)
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    _, scores = jax.eval_shape(Subnetwork().init, jax.random.key(0), params)
    return [leaf.shape for leaf in jax.tree.leaves(scores)]


@pytest.mark.parametrize(
    "name", helpers.table(NETWORKS, helpers.ONE_OF_A_KIND.__contains__)
)
def test_the_ways_give_one_answer_for_every_network(name):
    rng = np.random.default_rng(3)
    shapes = shapes_of(name, width=1 / 16)
    scores = [rng.standard_normal(shape, np.float32) for shape in shapes]
    scores[0].flat[::2] = 0.5  # ties
    # Multiples of 1/64: as float32, as exact as in Python.
    sparsities = [i % 64 / 64 for i in range(len(scores))]
    found = thresholds_blocked(scores, sparsities)
    for leaf, p, blocked in zip(scores, sparsities, found, strict=True):
        k = masks.num_pruned(leaf.size, p)
        assert blocked == threshold_alone(leaf, p) == np.partition(leaf.ravel(), k)[k]


def test_vmap_selects_for_each_member():
    keys = [jax.random.bits(jax.random.key(i), (3, n)) for i, n in enumerate((5, 2000))]
    expected = [np.sort(x, axis=1)[:, 2] for x in keys]
    for way in WAYS:
        found = jax.jit(jax.vmap(lambda x, way=way: way(x, [2, 2])))(keys)
        np.testing.assert_array_equal(found, expected)
        one = jax.jit(jax.vmap(lambda x, way=way: way([x, keys[1][0]], [2, 2])))
        np.testing.assert_array_equal(one(keys[0])[0], expected[0])


def lowered(function, *arguments, platform):
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_of_the_program_chooses_the_way():
    """The target platform decides, not the devices of the process, here only CPUs."""
    keys = [jnp.arange(5000, dtype=jnp.uint32)] * 3
    loops = {}
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        text = lowered(lambda x: select_all(x, [7, 8, 9]), keys, platform=platform)
        loops[platform] = text.count("stablehlo.while")
    assert loops == {"cpu": 3, "cuda": 0, "rocm": 0, "tpu": 1}
    compiled = jax.jit(lambda x: select_all(x, [7, 8, 9])).lower(keys).compile()
    assert "conditional" not in compiled.as_text()


def test_without_a_loop_the_answers_are_the_same_and_nothing_is_scattered():
    """XLA launches loops outside of CUDA graphs, and a scatter as two kernels."""
    rng = np.random.default_rng(5)
    keys = [rng.integers(0, 2**16, n, np.uint16) for n in (5000, 70)]
    unrolled = functools.partial(select_blocked, unroll=True)
    for ks in ([0, 0], [2500, 35], [4999, 69]):
        found = jax.jit(unrolled)(keys, ks)
        expected = [np.sort(x)[k] for x, k in zip(keys, ks, strict=True)]
        np.testing.assert_array_equal(found, expected)
    for arrays, loops in ((2, 0), (24, 0), (25, 1)):  # of more, a loop has less kernels
        many, ks = [np.arange(70, dtype=np.uint16)] * arrays, [7] * arrays
        text = lowered(lambda x, ks=ks: select_all(x, ks), many, platform="cuda")
        assert "stablehlo.scatter" not in text
        assert text.count("stablehlo.while") == loops


def test_one_large_array_among_many_does_not_make_a_large_program(monkeypatch):
    sizes = [1024] * 59 + [1 << 25]
    keys = [jax.ShapeDtypeStruct((size,), jnp.uint32) for size in sizes]
    program = jax.jit(lambda keys: select_blocked(keys, [3] * 60)).trace(keys)
    text = program.lower(lowering_platforms=("cuda",)).as_text()
    assert len(text) < 2e6  # 20 MB with an index for every row of every entry
    small = [jnp.arange(n, dtype=jnp.uint32) for n in (3000, 1, 2048)]
    expected = select_blocked(small, [2999, 0, 77])
    monkeypatch.setattr(selection, "INDEXED", 0)
    assert select_blocked(small, [2999, 0, 77]) == expected == [2999, 0, 77]


def test_a_program_exported_for_several_platforms_has_both_ways():
    def function(keys):
        return select_all([keys, keys + 1], [7, 8])

    keys = jnp.arange(5000, dtype=jnp.uint32)
    exported = jax.export.export(jax.jit(function), platforms=["cpu", "cuda"])(keys)
    restored = jax.export.deserialize(exported.serialize())
    assert restored.mlir_module().count("stablehlo.while") == 2  # CPU's, of each array
    np.testing.assert_array_equal(restored.call(keys), [7, 9])


def test_a_tree_of_many_leaves_is_one_matrix_for_each_dtype():
    subnetwork = Subnetwork(0.6, "kaiming_uniform")
    tree = {f"{i}/kernel": jnp.ones((8, 9 + i)) for i in range(10)}
    scores, weights = jax.eval_shape(subnetwork.init, jax.random.key(0), tree)
    for i in range(3):
        half = jax.ShapeDtypeStruct((5, 6), jnp.bfloat16)
        scores[f"half_{i}/kernel"] = weights[f"half_{i}/kernel"] = half

    def redraw(scores, weights):
        return subnetwork.rerandomize(jax.random.key(1), scores, weights, 0.1)

    def masks_of(scores, weights):
        del weights
        return subnetwork.masks(scores)

    for function in (masks_of, subnetwork.prune, redraw):
        for platform, matrices in (("cuda", 2), ("cpu", 0)):
            text = lowered(function, scores, weights, platform=platform)
            joined = re.findall(rf"stablehlo.concatenate.*tensor<\d+x{ROW}xui", text)
            assert len(joined) == matrices


def test_shard_map_selects_in_each_shard_alone():
    """Arrays, or their ks, that differ between shards, beside ones that do not."""
    script = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from iterand_jax.selection import select_all, select_blocked, select_each
        mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
        keys = [jax.random.bits(jax.random.key(i), (4, 600)) for i in range(3)]
        ks = jnp.array([3, 30, 300, 599])
        for way in (select_all, select_each, select_blocked):
            def both(split, whole, also_whole, k):
                found = way([split, whole, also_whole], [7, k[0], 9])
                return found[0][None], found[1][None], found[2]
            found = jax.jit(jax.shard_map(
                both, mesh=mesh, in_specs=(P("d"), P(), P(), P("d")),
                out_specs=(P("d"), P("d"), P()),
            ))(*keys, ks)
            rows = np.sort(keys[0], axis=1)[:, 7]
            whole, also_whole = (np.sort(np.ravel(x)) for x in keys[1:])
            np.testing.assert_array_equal(found[0], rows)
            np.testing.assert_array_equal(found[1], whole[np.asarray(ks)])
            np.testing.assert_array_equal(found[2], also_whole[9])
            split = jax.device_put(keys, NamedSharding(mesh, P("d")))
            found = jax.jit(way)(split, [5, 6, 7])
            expected = [np.sort(np.ravel(x))[k] for x, k in zip(keys, (5, 6, 7))]
            np.testing.assert_array_equal(found, expected)
            found = jax.pmap(way)(keys, [ks, ks, ks])
            expected = [np.sort(x, 1)[np.arange(4), np.asarray(ks)] for x in keys]
            np.testing.assert_array_equal(found, expected)
        print("all equal")
    """
    run = helpers.python(
        *("-W", "error", "-c", textwrap.dedent(script)),
        devices=4,
        env={"JAX_PLATFORMS": "cpu"},
        timeout=120,
    )
    assert run.stdout == "all equal\n", run.stderr[-3000:]
