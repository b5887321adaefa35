"""Tickets of every network, distribution and method are restored bit for bit."""

import dataclasses
import itertools
import json
import re
import struct

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

import iterand_jax
from iterand_jax import DISTRIBUTIONS
from iterand_jax.keys import keyed
from iterand_jax.methods import METHODS
from iterand_jax.networks import NETWORKS
from iterand_jax.runtime import modes
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.tickets import container, draws, packing, writing
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.draws import Draws
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of, path_string
from tests import helpers

QUICK = {"conv2"}
WIDTH = 1 / 16
REFRESHES = 12


def describe(name, **fields):
    """A description of a tiny network of a name, for images or for sentences."""
    network = {"name": name, "num_classes": 7, "width": WIDTH, "affine": False}
    options = {
        "network": network | {"dtype": "float32"},
        "inputs": (((1, 32, 32, 3), "float32"),),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.3),
    }
    if "lstm" in name:
        options["inputs"] = (((1, 9), "int32"), ((1,), "int32"))
        options["mean"] = options["std"] = None
    return Description(**options | fields)


OF_MASKS = (
    "edge_popup",
    "partially_frozen",
    "adaptive_threshold",
    "adaptive_threshold_iterand",
    "gem_miner",
    "relaxed_bernoulli",
)
"""Of which the examples here resample nothing: a ticket has the masks alone."""

OF_CONSTANTS = (
    "biprop",
    "biprop_iterand",
    "multicoated",
    "recycling",
    "signed_supermask",
)


def example(name, *, distribution="signed_constant", method="edge_popup"):
    """A ticket whose masks, and draws of IteRand, are random."""
    rng = np.random.default_rng(0)
    trained = method in ("sgd", "fixed_mask", "random", "magnitude")
    binary = (
        method.startswith("biprop") or method in OF_CONSTANTS
    )  # what the network sees follows from no draw
    described = describe(name, run={"method": method})
    if trained:  # normalization has scale and bias, as in the runs
        network = {**described.network, "affine": True}
        described = dataclasses.replace(described, network=network)
    if not (trained or binary):
        draws = Draws(3, distribution, step=100)
        if method == "iterand":
            draws = Draws(3, distribution, 4 * REFRESHES + 1, 4, 0.25)
        described = dataclasses.replace(described, draws=draws)
    abstract = described.abstract()
    fan_in = Subnetwork().fan_in
    scored = {p for p, x in leaves_of(abstract["params"]).items() if fan_in(p, x)}

    def mapped(f, tree):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: f(path_string(path), leaf), tree
        )

    def trained_weights(path, leaf):
        return rng.standard_normal(leaf.shape).astype(leaf.dtype)

    def constants(path, leaf):
        size = np.sqrt(np.float32(2 / fan_in(path, leaf)))
        coats = 1 + (rng.random(leaf.shape) < 0.3) * (method == "multicoated")
        signs = np.where(rng.random(leaf.shape) < 0.5, -size, size)
        return signs * coats.astype(np.float32)

    def numbers(path, leaf):
        return rng.integers(0, 3, leaf.shape).astype(np.int32) * (method == "iterand")

    def mask(path, leaf):
        if path not in scored or method == "sgd":
            return None
        return rng.random(leaf.shape) < 0.4

    if trained:
        weights = mapped(trained_weights, abstract["params"])
    elif binary or distribution == "signed_constant":
        weights = mapped(constants, abstract["params"])
    else:
        weights = draws.weights(mapped(numbers, abstract["params"]))
    statistics = mapped(trained_weights, abstract.get("batch_stats", {}))
    masks = mapped(mask, abstract["params"])
    words = ["good", "naïve", "?!"] if "lstm" in name else None
    return Ticket.of(described, weights, masks, statistics, words)


def assert_same(found, expected):
    assert found.description == expected.description
    assert found.words == expected.words
    for tree in ("params", "masks", "batch_stats"):
        ours, theirs = getattr(found, tree), getattr(expected, tree)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes()


def kinds(arrays):
    names = {name.split("/")[0].removesuffix("_code") for name in arrays}
    return names - {"batch_stats", "vocabulary"}


def cells():
    """Those of quick networks, each fourth of the others: the rest is exhaustive."""
    how = [*itertools.product(DISTRIBUTIONS, (*METHODS, "fixed_mask"))]
    for (i, name), (j, (distribution, method)) in itertools.product(
        enumerate(NETWORKS), enumerate(how)
    ):
        marks = ()
        if name not in QUICK:
            if method != "iterand" and distribution != "kaiming_uniform":
                continue
            marks = helpers.slow_or_exhaustive((i + j) % 4 == 0)
        yield pytest.param(name, distribution, method, marks=marks)


@pytest.mark.parametrize(("name", "distribution", "method"), [*cells()])
def test_round_trips_are_bit_exact(name, distribution, method, tmp_path):
    ticket = example(name, distribution=distribution, method=method)
    arrays = tickets.save(ticket, tmp_path / "ticket.safetensors")
    assert_same(tickets.load(tmp_path / "ticket.safetensors"), ticket)
    few = {"sign", "scale"}  # also a leaf of which one weight is kept has one magnitude
    empty = [name for name, array in arrays.items() if not array.size]
    assert all(name.startswith("kept/") for name in empty)  # of a leaf that keeps none
    arrays = {name: array for name, array in arrays.items() if array.size}
    if method == "sgd":
        assert kinds(arrays) == {"leaf"}
    elif method in ("fixed_mask", "random", "magnitude"):
        assert kinds(arrays) - few == {"mask", "kept", "leaf"}
    elif method == "multicoated":
        assert kinds(arrays) - few == {"mask", "level", "levels"}
    elif distribution == "signed_constant" or method in OF_CONSTANTS:
        assert kinds(arrays) == {"mask", *few}
    elif method in OF_MASKS:
        assert kinds(arrays) - few == {"mask"}
    else:
        assert {"mask", "drawn", "draw"} <= kinds(arrays)


@pytest.mark.parametrize("distribution", ["kaiming_uniform", "kaiming_normal"])
@pytest.mark.parametrize(
    "name", ["conv2", pytest.param("resnet20", marks=[pytest.mark.slow])]
)
def test_weights_of_real_refreshes_come_back(name, distribution, tmp_path):
    """Sampled and resampled as in a run, independently of the replay."""
    draws = Draws(3, distribution, 4 * REFRESHES + 1, 4, 0.25)
    described = describe(name, draws=draws)
    subnetwork = Subnetwork(0.6, distribution)
    method = iterand_jax.iterand(subnetwork, k_per=4, sampling_rate=0.25)
    root, abstract = jax.random.key(3), described.abstract()
    draw = jax.jit(lambda key: method.init(key, abstract["params"]))
    _, weights = draw(keyed(root, "method"))
    refresh = jax.jit(method.refresh)
    for step in range(4, 4 * REFRESHES + 1, 4):
        scores, _ = draw(jax.random.key(step))  # so that other weights are pruned
        weights, _ = refresh(root, step, scores, weights)
    statistics = jax.tree.map(
        lambda x: np.ones(x.shape, x.dtype), abstract.get("batch_stats", {})
    )
    masks = jax.jit(subnetwork.masks)(scores)
    ticket = Ticket.of(described, weights, masks, statistics)
    arrays = tickets.save(ticket, tmp_path / "ticket")
    assert {"mask", "drawn", "draw"} <= kinds(arrays)
    assert_same(tickets.load(tmp_path / "ticket"), ticket)


@pytest.mark.parametrize("masked", [True, False])
def test_arrays_in_any_order_in_memory_come_back(masked, tmp_path):
    ticket = example("conv2", method="fixed_mask" if masked else "sgd")
    params, masks = jax.tree.map(np.asfortranarray, (ticket.params, ticket.masks))
    other = Ticket.of(ticket.description, params, masks, {})
    for name, one in {"a": ticket, "b": other}.items():
        tickets.save(one, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert_same(tickets.load(tmp_path / "b"), ticket)


def test_a_ticket_is_the_same_bytes_twice_and_reads_like_a_text(tmp_path):
    ticket = example("conv2", distribution="kaiming_uniform", method="iterand")
    for name in ("a", "b"):
        tickets.save(ticket, tmp_path / name)
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    text = json.loads(content[8 : 8 + size])["__metadata__"][container.METADATA]
    fields = json.loads(text)
    assert fields["network"]["name"] == "conv2"
    assert fields["draws"]["seed"] == 3
    arrays = container.read(tmp_path / "a")[1]
    coded = {name.split("/")[0] for name in arrays} & set(packing.OF_BITS)
    assert fields["version"] == (writing.CODED if coded else 1)


def test_too_many_refreshes_are_not_replayed(tmp_path, monkeypatch):
    ticket = example("conv2", distribution="kaiming_uniform", method="iterand")
    monkeypatch.setattr(draws, "MAX_REFRESHES", REFRESHES - 1)
    monkeypatch.setattr(Draws, "weights", None)
    arrays = tickets.save(ticket, tmp_path / "ticket")
    assert {"mask", "kept"} <= kinds(arrays)
    assert "draw" not in kinds(arrays)
    assert_same(tickets.load(tmp_path / "ticket"), ticket)


def test_weights_of_other_draws_are_stored_themselves(tmp_path):
    """As of a run on a device whose inverse error function rounds differently."""
    ticket = example("conv2", distribution="kaiming_normal", method="iterand")
    params = jax.tree.map(lambda w: np.nextafter(w, 2 * w), ticket.params)
    nudged = Ticket.of(ticket.description, params, ticket.masks, {})
    assert {"mask", "kept"} <= kinds(tickets.save(nudged, tmp_path / "ticket"))
    assert_same(tickets.load(tmp_path / "ticket"), nudged)


@pytest.mark.parametrize(
    "name", ["conv2", pytest.param("resnet20", marks=[pytest.mark.slow])]
)
def test_apply_is_the_network_of_normalized_pixels(name, tmp_path):
    ticket = example(name)
    tickets.save(ticket, tmp_path / "ticket")
    loaded = iterand_jax.load_ticket(tmp_path / "ticket")
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    normalized = (images / 255 - np.array((0.5, 0.4, 0.3))) / np.array((0.2, 0.2, 0.3))
    network = loaded.description.build()
    expected = jax.jit(network.apply)(ticket.variables, np.float32(normalized))
    logits = loaded.apply(images)
    assert logits.shape == (3, 7)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, 1e-4, 1e-5)
    np.testing.assert_array_equal(loaded.apply(images.astype(np.float32)), logits)
    with pytest.raises(ValueError, match=r"\(3, 8, 8, 3\).*\('N', 32, 32, 3\)"):
        loaded.apply(images[:, :8, :8])
    with pytest.raises(ValueError, match="inputs of shapes"):
        loaded.apply(images, images)


def test_texts_and_lengths_that_cannot_be_are_refused():
    """The network would answer them, from other texts' words or with NaN."""
    ticket = example("lstm")
    tokens, lengths = ticket.tokenize(["good ?!", "a naïve film"])
    assert tokens.tolist() == [[2, 4, 0], [1, 3, 1]]
    assert np.isfinite(ticket.apply(tokens, lengths)).all()
    with pytest.raises(ValueError, match="1 lengths for 2 texts"):
        ticket.apply(tokens, lengths[:1])
    with pytest.raises(ValueError, match=r"token ids from 1 to 25002; .*: 0 to 25001"):
        ticket.apply(np.array([[1, 25_002]]), np.array([2]))
    with pytest.raises(ValueError, match="lengths from 2 to 4; possible: 0 to 3"):
        ticket.apply(tokens, np.array([2, 4]))
    with pytest.raises(ValueError, match="texts is one text, 'good'; possible: a list"):
        ticket.tokenize("good")
    with pytest.raises(ValueError, match="network conv2 has no vocabulary"):
        example("conv2").tokenize(["good"])


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "ticket"
    tickets.save(example("conv2"), path)
    return path


def rewrite(path, change):
    """Changes the fields of a ticket's metadata."""
    arrays = safetensors.load_file(path)
    with tickets_open(path) as file:
        fields = json.loads(file.metadata()[container.METADATA])
    change(fields, arrays)
    path.write_bytes(safetensors.save(arrays, {container.METADATA: json.dumps(fields)}))


def tickets_open(path):
    from safetensors import safe_open

    return safe_open(path, framework="np")


def refused(path):
    message = helpers.refused(tickets.load, path)
    assert str(path) in message
    return message


def test_every_truncation_is_refused(written):
    content = written.read_bytes()
    for size in (0, 4, 8, 200, len(content) // 2, len(content) - 1):
        written.write_bytes(content[:size])
        assert "not a complete ticket" in refused(written)


def test_a_changed_bit_anywhere_is_refused(written):
    content = written.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(8, 40), *rng.integers(0, len(content), 300).tolist()}
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        written.write_bytes(changed)
        refused(written)


def test_other_versions_files_and_contents_are_refused(written, tmp_path):
    content = written.read_bytes()
    rewrite(written, lambda fields, _: fields.update(version=5))
    assert "of version 5; possible: 1, 2, 3, 4" in refused(written)

    written.write_bytes(content)
    rewrite(written, lambda fields, _: fields.update(version="1"))
    assert "of version '1'; possible: 1, 2" in refused(written)

    written.write_bytes(content)
    rewrite(written, lambda fields, _: fields["network"].update(width=0.5))
    assert "its checksum does not match" in refused(written)

    def other_network(fields, arrays):
        fields["network"]["name"] = "lenet"
        del fields["sha256"]
        fields["sha256"] = container.content_digest(fields, arrays)

    written.write_bytes(content)
    rewrite(written, other_network)
    assert "rebuilt as the network lenet: unknown network" in refused(written)

    safetensors.save_file({"x": np.zeros(3)}, tmp_path / "other")
    assert "safetensors file, but not a ticket" in refused(tmp_path / "other")
    assert "No such file" in refused(tmp_path / "nothing")
    assert "cannot read the ticket" in refused(tmp_path)


@pytest.mark.parametrize("text", ["3", "[]", "null", '"x"', "true", "{", ""])
def test_metadata_that_is_no_object_is_refused(text, tmp_path):
    path = tmp_path / "ticket"
    safetensors.save_file({"x": np.zeros(3)}, path, {container.METADATA: text})
    assert "is damaged: its metadata is " in refused(path)


def test_a_machine_whose_cpu_is_left_out_is_refused_with_what_to_set(
    tmp_path, monkeypatch
):
    path = tmp_path / "ticket"
    tickets.save(example("conv2", distribution="kaiming_uniform"), path)

    def of_others(*, backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", of_others)
    message = refused(path)
    assert "cannot be rebuilt as the network conv2: weights are resampled on" in message
    assert re.search("set JAX_PLATFORMS=.*,cpu$", message)


def test_other_draws_than_those_of_the_packing_are_reported(tmp_path, monkeypatch):
    path = tmp_path / "ticket"
    tickets.save(example("conv2", distribution="kaiming_uniform"), path)
    with helpers.replaced(
        modes, "root_key", lambda seed: jax.random.key(seed + 1)
    ):  # as another jax could draw
        assert "other weights than jax" in refused(path)
    with jax.default_prng_impl("rbg"):  # of the environment: no ticket depends on it
        tickets.load(path)
