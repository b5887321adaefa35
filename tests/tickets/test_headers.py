"""A large header is parsed when it is known how large its network is."""

import functools
import json
import re

import jax
import numpy as np
import pytest
import safetensors

from iterand_jax import Rule, Subnetwork, load_ticket, save_ticket
from iterand_jax.tickets import container, headers
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.metadata import Description
from tests import helpers

refused = functools.partial(helpers.refused, load_ticket)
ROW = {f"params/{n:03}": [[n, 2], "float32"] for n in range(50)}
NUMBERS = 2 * sum(range(50))
MORE = headers.MORE
CONV2 = {"name": "conv2", "num_classes": 10, "width": 1 / 16, "affine": False}
OF_CONV2 = {"network": CONV2, "inputs": [[[1, 8, 8, 3], "float32"]], "leaves": None}


def header_of(fields, **top):
    """The bytes of a header with these fields and entries, as JSON is written."""
    text = json.dumps(fields, sort_keys=True)
    written = {"__metadata__": {container.METADATA: text}, **top}
    return json.dumps(written, separators=(",", ":")).encode()


def skeleton(fields, **top):
    return headers.skeleton(header_of(fields, **top), container.METADATA)


def write(path, count=400, **changed):
    """A ticket of so many empty leaves, with an array that allows a long header."""
    names = [f"{n:04}" for n in range(count)]
    arrays = {f"leaf/{name}": np.zeros(0, np.float32) for name in names}
    fields = {"version": 3, "network": {}, "inputs": [], "run": {}}
    fields |= dict.fromkeys(("mean", "std", "draws"))
    fields["leaves"] = {f"params/{name}": [[0], "float32"] for name in names}
    beside = {"leaf/beside": np.zeros(2**20, np.uint8)}
    container.write(path, {**fields, **changed}, arrays | beside)


def test_a_skeleton_has_long_rows_as_one_number():
    found = skeleton({"leaves": ROW, "network": {}, "step": 3, "run": {"a": [1]}})
    assert found == {
        "leaves": {MORE: [50, NUMBERS]},
        "network": {},
        "step": 3,
        "run": {"a": [1]},
    }
    form = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    arrays = {f"leaf/{n}": form for n in range(100)}
    assert skeleton({"leaves": ROW}, **arrays) == {"leaves": {MORE: [50, NUMBERS]}}
    fan_ins = {f"läyer_{n}/kernel": 0.5 * n for n in range(100)}
    assert skeleton({"draws": {"fan_ins": fan_ins}}) == {
        "draws": {"fan_ins": {MORE: [100, 0]}}
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"leaves": {"params/a": [[2], "int8"]}, "network": {"width": 0.5}},
        {": 1, ": [": 1, "] * 100, ", ": {": 1, ": ": 2, "}},
        {"run": {"said": '", "a": 1, "b": 2, ' * 50, "\\": "\\\\u0041", '"': 1}},
        {"run": {f'": {n}, "': f'": {n}, "' for n in range(100)}},
        {"run": {f"}}{n}": n for n in range(100)}, "leaves": {}},
        {"run": {f" {n}": n for n in range(100)}, "é\u2028": ["é\u2028", "\t\n"]},
    ],
    ids=["few", "colons", "quotes", "keys", "braces", "spaces"],
)
def test_what_is_no_long_row_is_in_a_skeleton_as_it_is(fields):
    """Also what looks like entries inside of strings, and where strings meet."""
    assert skeleton(fields) == fields


def test_a_row_in_which_a_name_is_twice_is_refused():
    header = header_of({"leaves": ROW})
    again = header.replace(b"params/030", b"params/029")
    with pytest.raises(
        ValueError, match=r"its leaf 'params/029' is after 'params/029'"
    ):
        headers.skeleton(again, container.METADATA)


@pytest.mark.parametrize(
    "fields",
    [
        {"run": [{f"{m}": m for m in range(31)} for n in range(2000)]},
        {"run": "a" * 200_000},
    ],
    ids=["short rows", "a string"],
)
def test_a_skeleton_that_is_long_itself_is_refused(fields):
    with pytest.raises(ValueError, match="not in the form in which it is written"):
        skeleton(fields)


@pytest.mark.parametrize("header", [b"{}", b"", b'{"__metadata__":{}}', b"[1"])
def test_a_skeleton_of_no_metadata_is_refused(header):
    with pytest.raises(ValueError, match="its metadata is no JSON object"):
        headers.skeleton(header, container.METADATA)
    with pytest.raises(ValueError, match="its metadata is no JSON object"):
        skeleton([1])


@pytest.mark.parametrize(
    ("changed", "like", "reason"),
    [
        ({}, None, "with a network of 0$"),
        (
            {"leaves": None},
            {"w": np.ones((3, 4), np.float32)},
            "with a network of 48$",
        ),
        ({"leaves": None}, {"w": 1.0}, "the leaf 'w' of like is 1.0"),
        (
            {"leaves": {"params/a": [[2**31 - 1], "int8"]}},
            None,
            "2,147,483,647 weights, and its arrays 1,048,576 bytes; at most 64 weights",
        ),
        (OF_CONV2, None, "with a network of 6,768$"),
        (OF_CONV2 | {"network": {"name": "mine"}}, None, "without num_classes"),
        (OF_CONV2 | {"network": {}}, None, "names no network to build"),
        (OF_CONV2 | {"network": []}, None, "its field 'network' is"),
        ({"leaves": {**ROW, "a": None, "b": [[], "int8"]}}, None, "not in the form"),
        ({"leaves": {"a": None}}, None, "it has no field 0"),
    ],
)
def test_a_large_header_is_compared_with_its_network_first(
    changed, like, reason, tmp_path, monkeypatch
):
    """Which its leaves say, or the tree, or the network that it names."""
    path = tmp_path / "t"
    write(path, **changed)
    monkeypatch.setattr(headers, "ALWAYS", 20_000)
    monkeypatch.setattr(headers, "OF_SMALL", 0)
    monkeypatch.setattr(safetensors, "safe_open", None)
    found = refused(path, like=like)
    assert re.search(reason, found), found


def test_the_widths_of_a_long_row_are_no_network(tmp_path, monkeypatch):
    """Of a name that is there fifty times JSON takes the last, and a skeleton none."""
    path = tmp_path / "t"
    write(path, **OF_CONV2)
    content = path.read_bytes()
    assert content.count(b'\\"width\\": 0.0625') == 1
    many = b", ".join([b'\\"width\\": 1000'] * 50 + [b'\\"width\\": 0.0625'])
    content = content.replace(b'\\"width\\": 0.0625', many)
    size = int.from_bytes(content[:8], "little") + len(many) - 17
    path.write_bytes(size.to_bytes(8, "little") + content[8:])
    monkeypatch.setattr(headers, "ALWAYS", 20_000)
    assert f"a network has no {MORE!r}" in refused(path)


def test_odd_names_and_statistics_are_counted(tmp_path, monkeypatch):
    """What a header that is parsed at once may have, a large one may, too."""
    monkeypatch.setattr(headers, "ALWAYS", 5_000)
    names = [f"a{n:02}" for n in range(40)] + ['a20"', "a20\\", "a20\n", "a20é\u2028"]
    small = {name: np.full(2, n, np.float32) for n, name in enumerate(names)}
    statistics = {"mean": np.zeros(50_000, np.float32)}
    ticket = tickets.Ticket.of(
        Description(
            network={},
            inputs=(),
            leaves={f"params/{name}": ((2,), "float32") for name in names}
            | {"batch_stats/mean": ((50_000,), "float32")},
        ),
        small,
        dict.fromkeys(names),
        statistics,
    )
    ticket.save(tmp_path / "t")
    for like, given in ((None, None), (small, None), (small, statistics)):
        loaded = load_ticket(tmp_path / "t", like=like, batch_stats=given).params
        assert all(np.array_equal(loaded[name], small[name]) for name in names)


@pytest.mark.parametrize(
    ("leaves", "size"),
    [(100, 159_144), (200, 228_264), (300, 252_368), (400, 296_728), (450, 311_728)],
)
def test_headers_of_small_leaves_with_long_names_are_allowed(leaves, size):
    """Of four arrays for each leaf of 64 weights, names of 260 to 80 characters."""
    headers.check_network(size, 100_000, of_network=64 * leaves, leaves=leaves)


def test_statistics_of_a_thousand_channels_are_allowed():
    fields = {"mean": [n / 3001 for n in range(1200)], "std": [0.123456789] * 1200}
    header = header_of(fields)
    assert len(header) > 2**15
    headers.check(header)


def test_a_tree_of_many_small_leaves_is_written_and_read(tmp_path, monkeypatch):
    """However few weights they have; a network of fewer leaves has no such header."""
    weights = {f"a{n:03}": np.full(2, n, np.float32) for n in range(700)}
    masks = {name: np.array([True, n % 2 == 0]) for n, name in enumerate(weights)}
    subnetwork = Subnetwork(0.5, "kaiming_uniform", rules=[Rule("*", True, fan_in=2.0)])
    _, weights = subnetwork.init(jax.random.key(0), weights)
    save = functools.partial(
        save_ticket, tmp_path / "t", weights, masks, key=jax.random.key(0)
    )
    save(subnetwork=subnetwork)
    size = int.from_bytes((tmp_path / "t").read_bytes()[:8], "little")
    assert headers.ALWAYS < size < headers.ALWAYS + 700 * headers.OF_A_SMALL_LEAF
    loaded = load_ticket(tmp_path / "t", like=weights)
    for name, mask in masks.items():
        kept = np.where(mask, weights[name], 0)
        np.testing.assert_array_equal(loaded.params[name], kept)
    monkeypatch.setattr(headers, "OF_A_SMALL_LEAF", 8)
    assert "at most 71,486 with a network of 5,600" in refused(tmp_path / "t")


def test_a_compact_network_of_many_layers_is_written_and_read(tmp_path, monkeypatch):
    """Its leaves do not depend on its sizes, a long row; its weights do."""
    monkeypatch.setattr(headers, "ALWAYS", 2_000)
    monkeypatch.setattr(headers, "WEIGHTS_OF_A_BYTE", 0)
    monkeypatch.setattr(headers, "_LONG", 3)
    sizes = {"Conv_0": 5, "Conv_1": 7, "Dense_0": 9, "Dense_1": 11}
    network = {"name": "conv2", "num_classes": 3, "width": 1 / 16, "affine": True}
    described = Description(
        network={**network, "dtype": "float32", "sizes": sizes},
        inputs=(((1, 8, 8, 3), "float32"),),
    )
    params = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, leaf.dtype), described.abstract()["params"]
    )
    masks = jax.tree.map(lambda leaf: None, params)
    tickets.Ticket.of(described, params, masks, {}).save(tmp_path / "t")
    loaded = load_ticket(tmp_path / "t")
    assert loaded.params["Conv_1"]["kernel"].shape == (3, 3, 5, 7)


def test_a_tree_of_many_leaves_is_written_and_read(tmp_path, monkeypatch):
    """With a header that its leaves allow; and not one that they do not."""
    monkeypatch.setattr(headers, "ALWAYS", 5_000)
    monkeypatch.setattr(headers, "OF_SMALL", 0)
    weights = {f"a{n:02}": np.full((60, 60), n, np.float32) for n in range(60)}
    forms = {f"params/{n}": (w.shape, "float32") for n, w in weights.items()}
    described = Description(network={}, inputs=(), leaves=forms)
    masks = dict.fromkeys(weights)
    ticket = tickets.Ticket.of(described, weights, masks, {})
    ticket.save(tmp_path / "t")
    for like in (None, weights):
        loaded = load_ticket(tmp_path / "t", like=like).params
        assert all(np.array_equal(loaded[name], weights[name]) for name in weights)
    monkeypatch.setattr(headers, "SHARE", 400)
    with pytest.raises(ValueError, match=r"cannot be written: its header .* arrays of"):
        ticket.save(tmp_path / "t")
