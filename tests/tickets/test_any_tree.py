"""Tickets of any tree are restored bit for bit; inconsistent files are refused."""

import contextlib
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import numpy as safetensors

from iterand_jax import (
    DISTRIBUTIONS,
    OUTPUTS_FIRST_RULES,
    Distribution,
    Rule,
    Subnetwork,
    load_ticket,
    rules_of,
    save_ticket,
)
from iterand_jax.tickets import claims, codes, container
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.draws import Draws
from iterand_jax.tickets.metadata import Description
from iterand_jax.trees import leaves_of
from tests import helpers

KEY, REFRESH_KEY = jax.random.key(5), jax.random.key(9)
REFRESHED = {"refresh_key": REFRESH_KEY, "step": 11, "k_per": 2, "sampling_rate": 0.3}
SHAPE = (100, 60)
PLAIN = {
    "kernel": np.ones(SHAPE, np.float32),
    "bias": np.arange(3, dtype=np.float32),
    "steps": np.int32(7),
}


class Classifier(nnx.Module):
    """Of NNX, with statistics and a stream of random numbers."""

    def __init__(self, rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(128, 10, rngs=rngs)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.MultiHeadDotProductAttention(num_heads=2)(x), None


class Stack(nn.Module):
    """Attention three times, whose kernels are stacked."""

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return blocks()(x, None)[0]


def trees(library):
    """(params, batch_stats, rules) of a small model."""
    rules = Subnetwork().rules
    if library == "linen":
        model = nn.Sequential([nn.Conv(8, (3, 3)), nn.BatchNorm(True), nn.Dense(30)])
        variables = model.init(KEY, jnp.ones((1, 8, 8, 4)))
        return variables["params"], variables["batch_stats"], rules
    if library == "stacked attention":
        model, x = Stack(), jnp.ones((1, 8, 16))
        return model.init(KEY, x)["params"], None, rules_of(model, x)
    if library in ("nnx", "nnx, as dicts"):
        _, params, statistics, _ = nnx.split(
            Classifier(nnx.Rngs(0)), nnx.Param, nnx.BatchStat, ...
        )
        if library == "nnx":
            return params, statistics, rules
        return nnx.to_pure_dict(params), nnx.to_pure_dict(statistics), rules
    if library == "equinox":
        equinox = pytest.importorskip("equinox")
        model = equinox.nn.MLP(64, 10, width_size=128, depth=1, key=KEY)
        return equinox.filter(model, equinox.is_array), None, OUTPUTS_FIRST_RULES
    if library == "array":
        return jnp.ones((30, 50)), None, (Rule("*", prune=True),)
    params = {"dicts": PLAIN, "bfloat16": jax.tree.map(narrow, PLAIN)}[library]
    return params, {"mean": narrow(np.ones(3))}, rules


def narrow(leaf):
    return jnp.asarray(leaf, jnp.bfloat16)


LIBRARIES = (
    "linen",
    "stacked attention",
    "nnx",
    "nnx, as dicts",
    "equinox",
    "dicts",
    "bfloat16",
    "array",
)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        assert a.tobytes() == np.where(b == 0, b.dtype.type(0), b).tobytes()


def trained(subnetwork, params, *, refreshes):
    """(scores, weights) after these refreshes, other weights being pruned at each."""
    scores, weights = subnetwork.init(KEY, params)
    for step in range(2, 2 * refreshes + 1, 2):
        scores, _ = subnetwork.init(jax.random.key(step), params)
        key = jax.random.fold_in(REFRESH_KEY, step)
        weights = subnetwork.rerandomize(key, scores, weights, 0.3)
    return scores, weights


def kinds(path):
    """The kinds of arrays that are stored, but for those of leaves without a mask."""
    names = {
        name.split("/")[0].removesuffix("_code") for name in safetensors.load_file(path)
    }
    return names - {"leaf", "batch_stats"}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, None])
def test_trees_of_every_library_come_back(library, distribution, tmp_path):
    params, statistics, rules = trees(library)
    path, subnetwork = tmp_path / "t", Subnetwork(0.5, distribution, rules=rules)
    for refreshes in (0, 5) if distribution else (0,):
        scores, weights = trained(subnetwork, params, refreshes=refreshes)
        masks = subnetwork.masks(scores)
        draws = {"subnetwork": subnetwork, "key": KEY}
        draws |= REFRESHED if refreshes else {}
        save_ticket(path, weights, masks, statistics, **draws)
        if distribution is None:
            assert kinds(path) - {"sign", "scale"} == {"mask", "kept"} - (
                {"kept"} if library in ("dicts", "bfloat16", "array") else set()
            )
        elif not refreshes:
            assert kinds(path) == {"mask"}  # the rest follows from the seed
        elif distribution == "signed_constant":
            assert kinds(path) == {"mask", "sign", "scale"}
        else:
            assert kinds(path) >= {"mask", "draw", "drawn"}
            assert "kept" not in kinds(path)
        ticket = load_ticket(path, like=params, batch_stats=statistics)
        assert_same(ticket.params, subnetwork.prune(scores, weights))
        assert_same(ticket.masks, jax.tree.map(lambda m: np.asarray(m) != 0, masks))
        assert_same(ticket.batch_stats, {} if statistics is None else statistics)
        shapes = jax.eval_shape(lambda: params)
        assert_same(load_ticket(path, like=shapes).params, ticket.params)
        flat = load_ticket(path)
        by_path = leaves_of(ticket.params)
        assert_same(flat.params, by_path.get("", by_path))
        assert_same(flat.batch_stats, leaves_of(ticket.batch_stats))


def test_the_seed_is_a_fraction_of_the_weights(tmp_path):
    subnetwork = Subnetwork(0.5, "kaiming_uniform")
    params = {"kernel": jnp.zeros((400, 500))}
    scores, weights = subnetwork.init(KEY, params)
    masks = subnetwork.masks(scores)
    save_ticket(tmp_path / "a", weights, masks, subnetwork=subnetwork, key=KEY)
    save_ticket(tmp_path / "b", weights, masks)
    seed, values = ((tmp_path / name).stat().st_size for name in "ab")
    assert seed < 200_000 / 8 + 2000
    assert values > 400_000
    again = load_ticket(tmp_path / "a", like=params).params
    assert_same(again, load_ticket(tmp_path / "b", like=params).params)


@pytest.mark.parametrize(
    "change",
    ["other key", "no refreshes", "another distribution", "trained", "older key"],
)
def test_what_the_seed_does_not_give_is_stored(change, tmp_path):
    """Never loads a network other than the saved one, whatever the file's seed."""
    subnetwork = Subnetwork(0.5, "kaiming_uniform")
    params = {"kernel": jnp.zeros(SHAPE)}
    scores, weights = trained(subnetwork, params, refreshes=5)
    draws = {"subnetwork": subnetwork, "key": KEY, **REFRESHED}
    if change == "other key":
        draws |= {"key": jax.random.key(6), "refresh_key": KEY}
    elif change == "no refreshes":
        draws = {"subnetwork": subnetwork, "key": KEY}
    elif change == "another distribution":
        own = Distribution("mine", DISTRIBUTIONS["kaiming_uniform"].from_uniform)
        draws["subnetwork"] = Subnetwork(0.5, own)
    elif change == "trained":
        weights = jax.tree.map(lambda w: w * 1.5, weights)
    else:
        draws["key"] = jax.random.key_data(KEY)  # which is the same key
        draws["refresh_key"] = jax.random.key_data(REFRESH_KEY)
    masks = subnetwork.masks(scores)
    save_ticket(tmp_path / "t", weights, masks, **draws)
    assert ("kept" in kinds(tmp_path / "t")) == (change != "older key")
    found = load_ticket(tmp_path / "t", like=params).params
    assert_same(found, subnetwork.prune(scores, weights))


def test_keys_of_another_generator_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BYTES_OF_A_PROGRAM", 1)  # as if the network were large
    key = jax.random.key(3, impl="rbg")
    subnetwork = Subnetwork(0.5, "kaiming_uniform")
    params = {"kernel": jnp.zeros(SHAPE)}
    scores, weights = subnetwork.init(key, params)
    masks = subnetwork.masks(scores)
    save_ticket(tmp_path / "t", weights, masks, subnetwork=subnetwork, key=key)
    assert kinds(tmp_path / "t") == {"mask"}
    with jax.default_prng_impl("unsafe_rbg"):  # which generator is in the file
        found = load_ticket(tmp_path / "t", like=params).params
    assert_same(found, subnetwork.prune(scores, weights))


def test_wide_weights_that_jax_would_narrow_come_back(tmp_path):
    kernel = np.random.default_rng(0).standard_normal(SHAPE)
    masks = {"kernel": kernel > 0}
    draws = {"subnetwork": Subnetwork(0.5, "kaiming_uniform"), "key": KEY}
    save_ticket(tmp_path / "t", {"kernel": kernel}, masks, **draws)
    found = load_ticket(tmp_path / "t", like={"kernel": kernel}).params
    assert_same(found, {"kernel": np.where(kernel > 0, kernel, 0)})


def test_arrays_that_are_not_contiguous_come_back(tmp_path):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((60, 100), np.float32).T
    tree = {
        "kernel": kernel,
        "bias": rng.standard_normal(20, np.float32)[::2],
        "table": np.asfortranarray(rng.standard_normal((4, 5), np.float32)),
    }
    masks = {"kernel": kernel > 0, "bias": None, "table": None}
    statistics = {"mean": rng.standard_normal((3, 7), np.float32).T}
    save_ticket(tmp_path / "t", tree, masks, batch_stats=statistics)
    found = load_ticket(tmp_path / "t", like=tree)
    assert_same(found.params, tree | {"kernel": np.where(kernel > 0, kernel, 0)})
    np.testing.assert_array_equal(found.batch_stats["mean"], statistics["mean"])


def test_a_description_of_ones_own_comes_back(tmp_path):
    described = Description(network={"name": "mine"}, inputs=())
    tree = {"kernel": np.float32([1, 2, 3]), "bias": np.zeros(2)}
    ticket = tickets.Ticket.of(
        described, tree, {"kernel": np.array([0, 1, 1]), "bias": None}, {"mean": tree}
    )
    tickets.save(ticket, tmp_path / "t")
    found = load_ticket(tmp_path / "t", like=tree, batch_stats={"mean": tree})
    assert_same(found.params, ticket.params)
    assert_same(found.batch_stats, ticket.batch_stats)
    assert found.description == described
    for read in (
        lambda: load_ticket(tmp_path / "t"),
        lambda: load_ticket(tmp_path / "t", like={"kernel": tree["kernel"]}),
        lambda: found.apply(np.zeros(3)),
    ):
        refused(read)
    assert "as the network mine: the network 'mine' is described without" in refused(
        lambda: load_ticket(tmp_path / "t")
    )


def refused(call):
    message = helpers.refused(call)
    assert len(message) < 500
    return message


@pytest.mark.smoke
def test_a_ticket_shows_itself_in_a_few_lines(tmp_path):
    params, statistics, _ = trees("nnx")
    subnetwork = Subnetwork(0.5, "kaiming_uniform")
    scores, weights = trained(subnetwork, params, refreshes=5)
    draws = {"subnetwork": subnetwork, "key": KEY, **REFRESHED}
    path = tmp_path / "t"
    save_ticket(path, weights, subnetwork.masks(scores), statistics, **draws)
    assert repr(load_ticket(path)).splitlines() == [
        "Ticket of a tree of arrays: 9,866 parameters in 6 leaves",
        "  masks keep 4,736 of 9,472 weights in 2 leaves",
        "  weights: kaiming_uniform of a key, resampled 5 times",
        "  batch_stats: 2 arrays",
    ]
    network = {"name": "lstm"}
    described = Description(network=network, inputs=(), draws=Draws(3, "x", 0))
    ticket = tickets.Ticket.of(described, {}, {}, {}, words=["good", "film"])
    assert "of lstm: 0 parameters" in repr(ticket)
    assert "seed 3" in repr(ticket)
    assert "vocabulary: 2 words" in repr(ticket)


DRAWN = {"subnetwork": Subnetwork(), "key": KEY}
MASKED = {"kernel": np.ones(SHAPE), "bias": None, "steps": None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": PLAIN | {"f": len}}, "the leaf 'f' of weights is <built-in"),
        ({"weights": PLAIN | {"f": 0.5}}, "the leaf 'f' of weights is 0.5; possible: "),
        ({"weights": PLAIN | {"k": KEY}}, r"leaf 'k' of weights is of key<fry>"),
        ({"weights": PLAIN | {"t": np.array(["a"])}}, "the leaf 't' .* is of <U1"),
        ({"masks": {}}, "masks have nothing for the leaf 'bias' of weights"),
        ({"masks": MASKED | {"x": np.ones(1)}}, "a leaf 'x', which weights have not"),
        ({"masks": MASKED | {"kernel": np.ones(3)}}, r"leaf 'kernel' is of \(3,\)"),
        ({"masks": MASKED | {"kernel": np.full(SHAPE, 0.3)}}, "has the value 0.3"),
        ({"masks": MASKED | {"steps": np.int8(1)}}, "'steps' of int32 has a mask"),
        ({"weights": {"a/b": PLAIN["bias"], "a": {"b": PLAIN["bias"]}}}, "'a/b'"),
        ({"batch_stats": {"mean": 1.0}}, "the leaf 'mean' of batch_stats is 1.0"),
        ({"key": KEY}, "no subnetwork"),
        ({"subnetwork": Subnetwork()}, "no key"),
        (
            {"subnetwork": 0.5, "key": KEY},
            "subnetwork is 0.5; possible: the Subnetwork that drew the weights, or N",
        ),
        ({"subnetwork": Subnetwork(), "key": "seed"}, "key is 'seed'; possible: a PR"),
        ({"subnetwork": Subnetwork(), "key": jax.random.split(KEY)}, "shape"),
        (
            {"subnetwork": Subnetwork(values="binary"), "key": KEY},
            "values='binary': from a key a ticket rebuilds the drawn weights, which",
        ),
        ({"step": -1}, "step is a number of steps and must be .* least 0; got -1"),
        ({"step": 1.5}, "step is a number of steps and must be .* got 1.5"),
        ({"k_per": 1.5}, "k_per is a number of steps and must be .* got 1.5"),
        ({"k_per": None}, "k_per is a number of steps and must be .* got None"),
        ({"sampling_rate": 2}, "sampling_rate is .* got 2"),
        (
            {"step": 9},
            "step is of weights that are drawn from a key; possible: with",
        ),
        (
            REFRESHED,
            "k_per is .* without k_per and sampling_rate and refresh",
        ),
        (DRAWN | {"refresh_key": KEY}, "refresh_key is of refreshes every k_per steps"),
        (DRAWN | {"sampling_rate": 0.1, "step": 9}, "sampling_rate is of refreshes ev"),
        (DRAWN | {"k_per": 3, "sampling_rate": 0.1}, "k_per=3: how often .* with step"),
        ({"path": "/nowhere/at/all"}, "there is no folder /nowhere/at"),
        ({"path": "/"}, "cannot write the file /: it is a folder"),
    ],
)
def test_what_cannot_be_a_ticket_is_refused(changes, reason, tmp_path):
    arguments = {"path": tmp_path / "t", "weights": PLAIN, "masks": MASKED} | changes
    with pytest.raises(ValueError, match=reason) as error:
        save_ticket(**arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("like", "reason"),
    [
        ({"bias": PLAIN["bias"]}, "the ticket has a leaf 'kernel', which like has not"),
        (PLAIN | {"x": np.ones(1)}, "like has a leaf 'x', which the ticket has not"),
        (PLAIN | {"bias": np.ones(3)}, r"'bias' is \(3,\) float32 in the ticket and "),
        (PLAIN | {"kernel": np.ones((60, 100), "f4")}, r"and \(60, 100\) float32 in l"),
        (PLAIN | {"f": len}, "the leaf 'f' of like is <built-in"),
    ],
)
def test_a_tree_that_differs_is_refused_by_the_leaf(like, reason, tmp_path):
    save_ticket(tmp_path / "t", PLAIN, MASKED)
    with pytest.raises(ValueError, match=reason) as error:
        load_ticket(tmp_path / "t", like=like)
    assert str(tmp_path / "t") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tree_in_the_place_of_the_network_is_refused(tmp_path):
    save_ticket(tmp_path / "t", PLAIN, MASKED)
    with pytest.raises(ValueError, match=r"network is a dict; possible: .* as like=TR"):
        load_ticket(tmp_path / "t", PLAIN)


def test_a_module_for_a_tree_that_names_no_network_is_refused(tmp_path):
    """It would not be applied: the file says no inputs."""
    save_ticket(tmp_path / "t", PLAIN, MASKED)
    with pytest.raises(ValueError, match="a tree: it is of a tree of arrays; possible"):
        load_ticket(tmp_path / "t", nn.Dense(3), like=PLAIN)


def of_tree(path):
    params, statistics, rules = trees("dicts")
    subnetwork = Subnetwork(0.5, "kaiming_uniform", rules=rules)
    scores, weights = trained(subnetwork, params, refreshes=5)
    draws = {"subnetwork": subnetwork, "key": KEY, **REFRESHED}
    save_ticket(path, weights, subnetwork.masks(scores), statistics, **draws)


def of_network(path):
    network = {"name": "conv2", "num_classes": 10, "width": 1 / 16, "affine": False}
    described = Description(
        network=network | {"dtype": "float32"},
        inputs=(((1, 8, 8, 1), "float32"),),
        mean=(0.5,),
        std=(0.2,),
        draws=Draws(3, "kaiming_uniform", 9, 2, 0.3),
    )
    shapes = described.abstract()["params"]
    numbers = jax.tree.map(
        lambda x: np.arange(x.size, dtype="i4").reshape(x.shape) % 3, shapes
    )
    numbers = jax.tree.map(
        lambda n, x: n.reshape(x.shape).astype("i4"), numbers, shapes
    )
    weights = described.draws.weights(numbers)
    masks = jax.tree.map(lambda n: n < 2, numbers)
    tickets.save(tickets.Ticket.of(described, weights, masks, {}), path)


def signed(path, fields, arrays):
    """Writes a file with a valid checksum of its contents, as anyone can."""
    fields = {name: fields[name] for name in fields if name != "sha256"}
    container.write(path, fields, arrays)


VALUES = (
    *(None, True, -1, 0, 2**31, 2**63, 10**400, 0.5, float("nan"), float("inf")),
    *("", "x\ny", "os:system", [], [[]], [-1], [2**62, 2**62], {}, {"x": 1}),
)


def places(fields, prefix=()):
    """The path of a value in nested fields."""
    inner = fields.items() if isinstance(fields, dict) else enumerate(fields)
    for name, value in inner:
        yield (*prefix, name)
        if isinstance(value, dict | list):
            yield from places(value, (*prefix, name))


def changed(fields, place, value):
    copy = json.loads(json.dumps(fields))
    *outer, last = place
    inner = copy
    for name in outer:
        inner = inner[name]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return copy


def read_or_refused(path, expected, **arguments):
    """A file is read as it was saved, or refused in one line."""
    with contextlib.suppress(ValueError):
        ticket = load_ticket(path, **arguments)
        assert_same(leaves_of(ticket.params), expected)
        return
    refused(lambda: load_ticket(path, **arguments))


@pytest.mark.parametrize(
    "make", [of_tree, pytest.param(of_network, marks=pytest.mark.slow)]
)
def test_no_value_of_a_field_does_more_than_be_refused(make, tmp_path):
    path, bad = tmp_path / "t", tmp_path / "bad"
    make(path)
    fields, arrays = container.read(path)
    expected = leaves_of(load_ticket(path).params)
    for place in [*places(fields)]:
        if place[0] == "sha256":
            continue
        for value in (*VALUES, KeyError):
            if place[0] == "run" or (place[-1] == "step" and value == 0):
                continue
            with contextlib.suppress(ValueError):  # JSON cannot represent it
                signed(bad, changed(fields, place, value), arrays)
                read_or_refused(bad, expected)


def bomb(size):
    """Zeros that are encoded in few bytes."""
    import zlib

    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    code = b"\4" + deflate.compress(bytes(size)) + deflate.flush()
    return np.frombuffer(code, np.uint8)


@pytest.mark.parametrize(
    "make", [of_tree, pytest.param(of_network, marks=pytest.mark.slow)]
)
def test_no_array_does_more_than_be_refused(make, tmp_path):
    path, bad = tmp_path / "t", tmp_path / "bad"
    make(path)
    fields, arrays = container.read(path)
    expected = leaves_of(load_ticket(path).params)
    assert {"mask", "drawn", "draw"} <= kinds(path)
    for name, array in arrays.items():
        row = array.ravel()
        for other in (
            *(None, np.zeros(0, np.uint8), np.zeros((1, 0, 1)), np.full(3, 255, "u1")),
            *(
                row[:-1],
                row.astype("f8"),
                np.full(row.shape, 255, "u1"),
                np.tile(row, 3),
            ),
            *(bomb(10), bomb(2**28), array[None]),
        ):
            arrays_of_bad = {**arrays, name: other}
            if other is None:
                del arrays_of_bad[name]
            signed(bad, fields, arrays_of_bad)
            with contextlib.suppress(ValueError):
                load_ticket(bad)
                if array.size == getattr(other, "size", None):
                    continue  # the same bytes in another shape
            if name != "vocabulary":
                read_or_refused(bad, expected)
    for extra in ("sign/kernel", "kept/kernel", "scale/kernel", "leaf/kernel", "x"):
        signed(bad, fields, {**arrays, extra: np.ones((2, 1), np.float32)})
        read_or_refused(bad, expected)


def test_a_code_that_unpacks_to_more_than_the_leaf_is_not_unpacked(tmp_path):
    import tracemalloc

    path = tmp_path / "t"
    of_tree(path)
    fields, arrays = container.read(path)
    arrays = {name: x for name, x in arrays.items() if not name.startswith("drawn")}
    one = codes.encode(np.ones(1, int))
    for name in ("gap/kernel", "draw/kernel"):
        earlier = {**arrays, "gap/kernel": one, "draw/kernel": one}
        signed(path, fields, {**earlier, name: bomb(2**24)})
        tracemalloc.start()
        assert "integers of at most 3000" in refused(lambda: load_ticket(path))
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


def test_more_refreshes_than_can_be_replayed_are_refused_at_once(tmp_path):
    path = tmp_path / "t"
    of_tree(path)
    fields, arrays = container.read(path)
    signed(path, changed(fields, ("draws", "step"), 2**31 - 1), arrays)
    assert "would have to be replayed" in refused(lambda: load_ticket(path))


def test_claimed_shapes_allocate_nothing(tmp_path):
    path = tmp_path / "t"
    of_tree(path)
    fields, arrays = container.read(path)
    place = ("leaves", "params/kernel", 0)
    for shape in ([2**40, 2**40], [2**62], [0, 2**62], [-100, -60], [True, 6000]):
        signed(path, changed(fields, place, shape), arrays)
        refused(lambda: load_ticket(path))


def test_metadata_that_nests_without_end_is_refused(tmp_path):
    text = "[" * 15_000 + "]" * 15_000
    path = tmp_path / "t"
    safetensors.save_file({"x": np.zeros(3)}, path, {container.METADATA: text})
    assert "its metadata is not JSON" in refused(lambda: load_ticket(path))


def test_no_module_is_imported_for_a_ticket(tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "t"
    of_network(path)
    fields, arrays = container.read(path)
    signed(path, changed(fields, ("network", "name"), "planted:Net"), arrays)
    assert "planted" in refused(lambda: load_ticket(path))
