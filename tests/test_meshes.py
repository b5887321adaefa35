"""Sharded parameters: the same bits, kept placements, and only counts communicated.

Each test runs its script on four simulated devices.
"""

import textwrap

import pytest

from tests import helpers

COMMON = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from iterand_jax import Subnetwork, Rule, topk_mask, threshold
from iterand_jax.methods.magnitude import magnitude_masks

KEY, X = jax.random.key(0), jnp.ones((3, 60))
SUBNETWORK = Subnetwork(0.6, "kaiming_uniform")
KINDS = (AxisType.Explicit, AxisType.Auto)
SPECS = (P(), P("x"), P(None, "x"), P("x", "y"), P(("x", "y"),), P(None, ("y", "x")))
PARAMS = {"a": {"kernel": jnp.zeros((60, 44))}, "b": {"bias": jnp.ones(8)}}

def mesh_of(kind):
    return jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))

def put(tree, mesh, spec):
    def one(leaf):
        own = spec if leaf.ndim == 2 else P()
        return jax.device_put(leaf, NamedSharding(mesh, own))
    return jax.tree.map(one, tree)

def loss(scores, weights):
    return (SUBNETWORK.prune(scores, weights)["a"]["kernel"] ** 2).sum()

def same(found, expected, sharding=None):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for leaf in jax.tree.leaves(found):
        if leaf.ndim == 2 and sharding is not None:
            assert leaf.sharding.is_equivalent_to(sharding, 2), leaf.sharding

SCORES, WEIGHTS = SUBNETWORK.init(KEY, PARAMS)
FUNCTIONS = {
    "masks": lambda s, w: SUBNETWORK.masks(s),
    "prune": lambda s, w: SUBNETWORK.prune(s, w),
    "redraw": lambda s, w: SUBNETWORK.rerandomize(KEY, s, w, 0.5),
    "gradient": jax.grad(loss),
}
EXPECTED = {name: f(SCORES, WEIGHTS) for name, f in FUNCTIONS.items()}
COUNT = SUBNETWORK.rerandomize_and_count(KEY, SCORES, WEIGHTS, 0.5)[1]
"""


def on_four_devices(script):
    run = helpers.python(
        *("-W", "error", "-c", COMMON + textwrap.dedent(script)),
        devices=4,
        env={"JAX_PLATFORMS": "cpu"},
        timeout=240,
    )
    assert run.stdout == "all equal\n", run.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.compiles
def test_trees_in_shards_have_the_bits_and_the_place_of_whole_ones():
    """Explicit axes, the default of `jax.make_mesh`, and Auto ones."""
    on_four_devices("""
        for kind in KINDS:
            mesh = mesh_of(kind)
            for spec in SPECS:
                sharding = NamedSharding(mesh, spec)
                params = put(PARAMS, mesh, spec)
                with jax.set_mesh(mesh):
                    same(SUBNETWORK.init(KEY, params), (SCORES, WEIGHTS), sharding)
                    places = jax.tree.map(
                        lambda leaf: leaf.sharding, SUBNETWORK.init(KEY, params)
                    )
                    init = jax.jit(SUBNETWORK.init, out_shardings=places)
                    scores, weights = init(KEY, params)
                    same((scores, weights), (SCORES, WEIGHTS), sharding)
                    for name, function in FUNCTIONS.items():
                        found = jax.jit(function)(scores, weights)
                        same(found, EXPECTED[name], sharding)
                    count = jax.jit(SUBNETWORK.rerandomize_and_count)
                    assert count(KEY, scores, weights, 0.5)[1] == COUNT
                    assert SUBNETWORK.count(params, scores) == (2648, 1064)
            explicit = kind == AxisType.Explicit
            scores, weights = SUBNETWORK.init(KEY, put(PARAMS, mesh, P("x", "y")))
            same((scores, weights), (SCORES, WEIGHTS), NamedSharding(mesh, P("x", "y")))
            for name in ("masks", "prune", "redraw"):
                same(FUNCTIONS[name](scores, weights), EXPECTED[name])
            if explicit:  # the type carries its sharding also through jit
                made = jax.jit(SUBNETWORK.init)(KEY, put(PARAMS, mesh, P("x", "y")))
                same(made, (SCORES, WEIGHTS), NamedSharding(mesh, P("x", "y")))
        print("all equal")
    """)


@pytest.mark.slow
def test_a_kernel_on_four_devices_of_a_default_mesh_is_that_of_one_device():
    """One axis of four devices, Explicit by default, over the inputs or outputs."""
    on_four_devices("""
        params = {"kernel": jnp.zeros((64, 32))}
        subnetwork = Subnetwork(0.5)
        scores, weights = subnetwork.init(KEY, params)

        def loss(scores):
            return (subnetwork.prune(scores, weights)["kernel"] ** 3).sum()

        def results(scores, weights):
            redrawn = subnetwork.rerandomize(KEY, scores, weights, 0.5)
            return (
                topk_mask(scores["kernel"], 0.5), subnetwork.masks(scores),
                subnetwork.prune(scores, weights), redrawn,
            )

        expected, slope = results(scores, weights), jax.grad(loss)(scores)
        mesh = jax.make_mesh((4,), ("x",))
        assert mesh.axis_types == (AxisType.Explicit,)
        for spec in (P("x"), P(None, "x")):
            place = NamedSharding(mesh, spec)
            split = jax.device_put(params, place)
            made = subnetwork.init(KEY, split)
            same(made, (scores, weights), place)
            weights = made[1]
            for function in (results, jax.jit(results)):
                same(function(*made), expected, place)
            with jax.set_mesh(mesh):
                same(jax.grad(loss)(made[0]), slope, place)
                same(subnetwork.init(KEY, split), made, place)
                same(jax.jit(results)(*made), expected, place)
        print("all equal")
    """)


@pytest.mark.slow
def test_init_keeps_the_device_of_parameters_that_were_put_on_one():
    on_four_devices("""
        last = jax.devices()[-1]
        made = SUBNETWORK.init(KEY, jax.device_put(PARAMS, last))
        same(made, (SCORES, WEIGHTS))
        assert {leaf.device for leaf in jax.tree.leaves(made)} == {last}
        scores, weights = made
        same(SUBNETWORK.rerandomize(KEY, scores, weights, 0.5), EXPECTED["redraw"])
        assert {l.device for l in jax.tree.leaves(SUBNETWORK.masks(scores))} == {last}
        print("all equal")
    """)


@pytest.mark.slow
def test_a_stack_or_an_ensemble_may_be_sharded_along_itself():
    """As experts and replicas are, with Explicit axes beside Auto ones, too."""
    on_four_devices("""
        rules = (Rule("kernel", True, stack_axis=0),)
        experts = Subnetwork(0.6, "kaiming_uniform", rules=rules)
        params = {"kernel": jnp.zeros((4, 12, 8))}
        made = experts.init(KEY, params)

        def results(scores, weights, rate):
            return (
                experts.prune(scores, weights),
                experts.rerandomize_and_count(KEY, scores, weights, rate),
            )

        expected = results(*made, 0.25)
        for kinds in ((AxisType.Explicit,) * 2, KINDS):
            mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=kinds)
            place = NamedSharding(mesh, P("x", "y"))
            split = experts.init(KEY, jax.device_put(params, place))
            same(split, made)
            assert {leaf.sharding for leaf in jax.tree.leaves(split)} == {place}
            same(jax.jit(results)(*split, 0.25), expected)
            with jax.set_mesh(mesh):  # for arrays that are closed over
                found = jax.jit(lambda rate: results(*split, rate))(0.25)
            same(found, expected)

        def of_each(scores, weights):
            return (
                SUBNETWORK.masks(scores),
                SUBNETWORK.rerandomize_and_count(KEY, scores, weights, 0.5),
            )

        ensemble = jax.tree.map(
            lambda leaf: jnp.stack([leaf, -leaf, leaf + 1, leaf / 2]),
            ({**SCORES, "c": SCORES["a"]}, {**WEIGHTS, "c": WEIGHTS["a"]}),
        )
        alone = jax.jit(jax.vmap(of_each))(*ensemble)
        place = NamedSharding(jax.make_mesh((4,), ("x",)), P("x"))
        split = jax.device_put(ensemble, place)
        same(jax.jit(jax.vmap(of_each))(*split), alone)
        print("all equal")
    """)


@pytest.mark.slow
def test_the_selection_of_shards_exchanges_counts_only():
    """No operation between devices carries more than the counts of one pass."""
    on_four_devices(r"""
        names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
        moved = re.compile(rf"= \(?(\w+)\[([\d,]*)\].*? ({names})(?:-start)?\(")
        for kind in KINDS:
            mesh = mesh_of(kind)
            for spec in SPECS[1:]:
                with jax.set_mesh(mesh):
                    scores, weights = SUBNETWORK.init(KEY, put(PARAMS, mesh, spec))
                    for name, function in FUNCTIONS.items():
                        compiled = jax.jit(function).lower(scores, weights).compile()
                        found = moved.findall(compiled.as_text())
                        assert found or name == "init", (kind, spec, name)
                        for _, shape, operation in found:
                            size = np.prod([int(n) for n in shape.split(",") if n])
                            assert size <= 4, (kind, spec, name, operation, shape)
        print("all equal")
    """)


@pytest.mark.slow
def test_manual_axes_rank_each_shard_beside_axes_of_the_other_kinds():
    on_four_devices("""
        scores = SCORES["a"]["kernel"]
        halves = [topk_mask(half, 0.6) for half in jnp.split(scores, 2)]
        for other in KINDS:
            mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(other, other))
            with jax.set_mesh(mesh):
                rank = jax.jit(jax.shard_map(
                    lambda s: topk_mask(s, 0.6), in_specs=P("x"), out_specs=P("x"),
                    axis_names={"x"},
                ))
                for spec in (P("x"), P("x", "y")):
                    split = jax.device_put(scores, NamedSharding(mesh, spec))
                    same(rank(split), jnp.concatenate(halves))
                whole = jax.jit(jax.shard_map(
                    lambda s, w: SUBNETWORK.rerandomize(KEY, s, w, 0.5),
                    in_specs=P(), out_specs=P(),
                ))
                replicated = put((SCORES, WEIGHTS), mesh, P())
                same(whole(*replicated), EXPECTED["redraw"])
        print("all equal")
    """)


@pytest.mark.slow
@pytest.mark.compiles
def test_shards_of_stacks_and_schedules_work_under_vmap_and_a_traced_sparsity():
    on_four_devices("""
        stack = jax.random.normal(KEY, (4, 12, 8))
        sparsities = jnp.array([0.0, 0.25, 0.5, 0.9])
        expected = jax.jit(jax.vmap(topk_mask))(stack, sparsities)
        for kind in KINDS:
            mesh = mesh_of(kind)
            with jax.set_mesh(mesh):
                for spec in (P(None, "x"), P(None, None, "x"), P(None, "y", "x")):
                    split = jax.device_put(stack, NamedSharding(mesh, spec))
                    ps = jax.device_put(sparsities, NamedSharding(mesh, P()))
                    same(jax.jit(jax.vmap(topk_mask))(split, ps), expected)
                    one = jax.jit(topk_mask)(split[1], ps[1])
                    same(one, expected[1])
                    assert threshold(split, 0.5) == threshold(stack, 0.5)
        print("all equal")
    """)


@pytest.mark.slow
@pytest.mark.compiles
def test_a_threshold_of_all_leaves_is_found_in_shards_of_any_axes():
    """Leaves that are sharded differently, or not at all, count as one."""
    on_four_devices("""
        shapes = {"a": (60, 44), "b": (8, 20), "c": (12, 4)}
        params = {name: {"kernel": jnp.zeros(s)} for name, s in shapes.items()}
        options = {"scope": ("*",), "ranked_by": "magnitude", "values": "binary"}
        subnetwork = Subnetwork(0.6, "kaiming_uniform", **options)
        scores, weights = subnetwork.init(KEY, params)
        expected = subnetwork.masks(scores)
        pruned = subnetwork.prune(scores, weights)
        for kind in KINDS:
            mesh = mesh_of(kind)
            for specs in (SPECS[:3], SPECS[3:], SPECS[1:4]):
                places = [NamedSharding(mesh, spec) for spec in specs]
                def put_each(tree):
                    rows = zip(tree.items(), places)
                    return {n: jax.device_put(leaf, p) for (n, leaf), p in rows}
                with jax.set_mesh(mesh):
                    s, w = put_each(scores), put_each(weights)
                    same(jax.jit(subnetwork.masks)(s), expected)
                    found = jax.jit(subnetwork.prune)(s, w)
                    jax.tree.map(
                        lambda a, b: np.testing.assert_allclose(a, b, 1e-6),
                        jax.device_get(found), jax.device_get(pruned),
                    )
            for name in scores:  # the others are placed nowhere
                place = NamedSharding(mesh, P("x"))
                split = {**scores, name: jax.device_put(scores[name], place)}
                same(subnetwork.masks(split), expected)
        print("all equal")
    """)


@pytest.mark.slow
@pytest.mark.compiles
def test_every_method_has_the_bits_and_the_place_of_one_device():
    """Eagerly and under `jit`, within `jax.set_mesh` and without.

    The magnitude of binary values is a mean over all devices: in the last place it is
    that of another order of the sum.
    """
    on_four_devices("""
        import contextlib
        from tests.test_methods import of_every_name

        def states(method, params):
            state = method.init(KEY, params)
            masks = [method.masks(*state, 3)] if method.masks else []
            return state, method.refresh(KEY, 3, *state), masks

        def compare(found, expected, sharding, binary):
            same(found[0], expected[0], sharding)
            bound = 1e-6 if binary else 0
            for a, b in zip(*map(jax.tree.leaves, (found[1], expected[1]))):
                np.testing.assert_allclose(a, b, bound)

        for name, method in of_every_name(SUBNETWORK).items():
            binary = name.startswith("biprop")
            def results(params):
                made = states(method, params)
                return made, method.params(*made[0], 3)

            expected = results(PARAMS)
            for kind in KINDS:
                mesh = mesh_of(kind)
                for spec in (P("x", "y"), P(None, "x")):
                    place = NamedSharding(mesh, spec)
                    params = put(PARAMS, mesh, spec)
                    for context in (contextlib.nullcontext(), jax.set_mesh(mesh)):
                        with context:
                            compare(results(params), expected, place, binary)
                            traced = place if kind == AxisType.Explicit else None
                            found = jax.jit(results)(params)
                            compare(found, expected, traced, binary)
        print("all equal")
    """)
