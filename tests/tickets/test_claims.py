"""What a ticket claims is compared with its network before it costs anything."""

import functools
import os
import tracemalloc
import zlib

import jax
import numpy as np
import pytest

from experiments.measurements.faults import mutators
from experiments.measurements.faults import tickets as tickets_broken
from iterand_jax import Subnetwork, load_ticket, save_ticket
from iterand_jax.tickets import claims, container, headers
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.draws import KeyDraws
from iterand_jax.tickets.metadata import Description
from tests import helpers

KEY = jax.random.key(5)
refused = functools.partial(helpers.refused, load_ticket)


def write(path, change):
    """A ticket of a small tree, changed, with a valid checksum."""
    params = {"kernel": np.zeros((30, 20), np.float32)}
    subnetwork = Subnetwork(0.5, "kaiming_uniform")
    scores, weights = subnetwork.init(KEY, params)
    save_ticket(path, weights, subnetwork.masks(scores), subnetwork=subnetwork, key=KEY)
    fields, arrays = container.read(path)
    del fields["sha256"]
    change(fields, arrays)
    container.write(path, fields, arrays)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path / "pipe")


def test_a_header_beyond_the_limit_is_neither_read_nor_written(tmp_path, monkeypatch):
    path = tmp_path / "t"
    path.write_bytes((headers.MOST + 1).to_bytes(8, "little") + b"{}")
    assert "its header has 8,388,609 bytes; at most 393,216" in refused(path)
    monkeypatch.setattr(headers, "ALWAYS", 300)
    monkeypatch.setattr(headers, "OF_SMALL", 0)
    with pytest.raises(ValueError, match=r"arrays cannot be written: .* at most 304"):
        write(path, lambda fields, arrays: None)
    monkeypatch.setattr(headers, "SHARE", 1 / 16)  # as if the arrays had more bytes
    write(path, lambda fields, arrays: None)
    load_ticket(path)
    monkeypatch.setattr(headers, "MOST", 300)
    with pytest.raises(ValueError, match=r"cannot be written: .* at most 300$"):
        write(path, lambda fields, arrays: None)


@pytest.mark.parametrize("kind", mutators.LONG)
@pytest.mark.parametrize("place", tickets_broken.LISTED)
def test_a_field_that_no_network_needs_is_neither_read_nor_written(
    place, kind, tmp_path, monkeypatch
):
    """Of any kind and in any field, by the same rule, before it is parsed."""
    path = tmp_path / "t"
    write(path, lambda fields, arrays: None)
    fields, arrays = container.read(path)
    fields = tickets_broken.listed(fields, place, mutators.LONG[kind](2000))
    del fields["sha256"]
    monkeypatch.setattr(headers, "MOST_OTHER", 1000)
    with pytest.raises(ValueError, match="besides the leaves of its network"):
        container.write(path, fields, arrays)
    monkeypatch.setattr(headers, "MOST_OTHER", 2**16)
    container.write(path, fields, arrays)
    monkeypatch.setattr(headers, "MOST_OTHER", 1000)
    monkeypatch.setattr(container.json, "loads", None)
    assert "besides the leaves of its network" in refused(path)


def test_the_leaves_of_a_network_are_not_counted_as_what_it_does_not_need(
    tmp_path, monkeypatch
):
    names = [f"läyer_{n}/attention/kernel" for n in range(50)]
    tree = {name: np.ones((3, 2), np.float32) for name in names}
    subnetwork = Subnetwork(0.5, "kaiming_uniform")
    scores, weights = subnetwork.init(KEY, tree)
    masks = subnetwork.masks(scores)
    monkeypatch.setattr(headers, "MOST_OTHER", 1000)
    path = tmp_path / "t"
    save_ticket(path, weights, masks, subnetwork=subnetwork, key=KEY)
    assert int.from_bytes(path.read_bytes()[:8], "little") > 10_000
    load_ticket(path, like=tree)


def test_a_run_that_load_refuses_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "MOST_OTHER", 1000)
    tree = {"kernel": np.ones(3, np.float32)}
    for fields, reason in (
        ({"run": {"words": ["a"] * 1000}}, "at most 1,000$"),
        ({"inputs": (((1, 3), "U10"),)}, "an input is of 'U10'; possible: bool, int8"),
        ({"inputs": (((1, 3), "float32"),) * 65}, "it has 65 inputs; at most 64"),
        ({"run": {"words": {1, 2}}}, "not JSON serializable"),
    ):
        described = Description(**{"network": {"name": "mine"}, "inputs": ()} | fields)
        ticket = tickets.Ticket.of(described, tree, {"kernel": None}, {})
        with pytest.raises(ValueError, match="cannot be written: .*" + reason):
            ticket.save(tmp_path / "t")
        assert not (tmp_path / "t").exists()


def test_what_is_said_of_other_weights_is_true(tmp_path):
    """Of stored ones no version of jax is named."""
    path = tmp_path / "t"

    def forge(fields, arrays):
        fields["rebuilt_sha256"] = "0" * 64

    def keep(fields, arrays):
        forge(fields, arrays)
        arrays["kept/kernel"] = np.ones(300, np.float32)

    write(path, forge)
    sampled = refused(path)
    assert f"other weights than jax {jax.__version__} samples here" in sampled
    assert "or its draws or that checksum were changed" in sampled
    write(path, keep)
    stored = refused(path)
    assert "does not rebuild to the weights it was written from" in stored
    assert "none of them is sampled" in stored
    assert "jax" not in stored.removeprefix(str(path))


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "\x00", "é\u2028"])
def test_a_path_with_control_characters_is_in_quotes(name, tmp_path):
    path = f"{tmp_path}/{name}"
    assert repr(path) in refused(path)
    with pytest.raises(ValueError, match="no folder") as error:
        save_ticket(f"{path}/t", {}, {})
    assert repr(path) in str(error.value)


def test_a_vocabulary_is_inflated_as_far_as_the_network_has_words(tmp_path):
    inputs = ((1, 9), "int32"), ((1,), "int32")
    described = Description(network={"name": "mine"}, inputs=inputs)
    tree = {"kernel": np.ones(3, np.float32)}
    most, limit = claims.vocabulary_limits(described, tree)
    assert (most, limit) == (25_000, 1_600_000)
    for text in (bytes(2**28), b"\n" * 25_001):
        words = np.frombuffer(zlib.compress(text, 9), np.uint8)
        path = tmp_path / "t"
        tickets.save(tickets.Ticket.of(described, tree, {"kernel": None}, {}), path)
        fields, arrays = container.read(path)
        del fields["sha256"]
        container.write(path, fields, {**arrays, "vocabulary": words})
        tracemalloc.start()
        with pytest.raises(ValueError, match="of over 25,000 words or 1,600,000 bytes"):
            load_ticket(path, like=tree)
        assert tracemalloc.get_traced_memory()[1] < 4 * limit
        tracemalloc.stop()


def test_arrays_that_the_network_has_not_are_not_read(tmp_path, monkeypatch):
    def add(name, array):
        return lambda fields, arrays: arrays.update({name: array})

    for change, reason in (
        (add("other", np.zeros(10)), "no leaf of it has the array 'other'"),
        (add("leaf/kernel", np.zeros(600, np.float32)), "mask/kernel beside leaf"),
        (add("kept/kernel", np.zeros(601, np.float32)), "where 600 are possible"),
        (add("kept/kernel", np.zeros(3)), "an array of float64 where float32 is"),
        (add("mask/kernel", np.zeros(3, np.int16)), "is of int16; possible: uint8"),
        (add("mask_code/kernel", np.zeros(10, np.uint8)), "both mask/kernel and mask_"),
        (add("gap/kernel", np.zeros(3, np.uint8)), "gap/kernel beside no other array"),
        (add("sign/kernel", np.zeros(3, np.uint8)), "sign/kernel beside no other"),
        (add("draw/kernel", np.zeros(3065, np.uint8)), "where 3064 are possible"),
        (add("vocabulary", np.zeros(3, np.uint8)), "and its inputs are no texts"),
    ):
        write(tmp_path / "t", change)
        with monkeypatch.context() as reading:
            reading.setattr(tickets, "SMALL", 0)
            reading.setattr(container, "read_arrays", None)
            assert reason in refused(tmp_path / "t")


def test_a_leaf_has_its_weights_from_one_array(tmp_path):
    """Else a file could hold, for each, several times what its network takes."""

    def add(fields, arrays):
        arrays["kept/kernel"] = np.ones(300, np.float32)
        arrays["scale/kernel"] = np.ones((), np.float32)

    write(tmp_path / "t", add)
    found = refused(tmp_path / "t")
    assert "there are both scale/kernel and kept/kernel" in found


def test_programs_beyond_the_limit_are_neither_compiled_nor_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(claims, "MOST_PROGRAMS", 2)
    subnetwork = Subnetwork(0.5, "kaiming_uniform")

    def save(number, path):
        params = {
            f"l{n}": {"kernel": np.zeros((8, 4 + n), np.float32)} for n in range(number)
        }
        scores, weights = subnetwork.init(KEY, params)
        masks = subnetwork.masks(scores)
        save_ticket(path, weights, masks, subnetwork=subnetwork, key=KEY)
        return {name.split("/")[0] for name in container.read(path)[1]}

    assert save(2, tmp_path / "few") == {"mask"}
    load_ticket(tmp_path / "few")
    assert save(3, tmp_path / "many") == {"mask", "kept"}
    load_ticket(tmp_path / "many")
    monkeypatch.setattr(claims, "MOST_PROGRAMS", 1)
    reason = "over 1 of its leaves are sampled in different ways"
    assert reason in refused(tmp_path / "few")


def key_draws(**changed):
    fields = {"distribution": "kaiming_uniform", "generator": "threefry2x32"}
    fields |= {"key": (0, 0), "refresh_key": (0, 0), "sampling_rate": 0.1}
    return KeyDraws(**fields | changed)


def test_sampling_costs_what_a_network_allows():
    """Programs of other generators by its weights, refreshes by its small leaves."""
    sizes = {f"l{n}": jax.ShapeDtypeStruct((100 + n,), np.float32) for n in range(3)}
    fan_ins = dict.fromkeys(sizes, 9.0)
    own, other = (
        key_draws(fan_ins=fan_ins, generator=name) for name in ("threefry2x32", "rbg")
    )
    assert claims.too_much(None, sizes, sizes) is None
    assert claims.too_much(own, sizes, sizes) is None
    assert "sampled in 3 sizes by another generator than threefry2x32; at most 0" in (
        claims.too_much(other, sizes, sizes)
    )
    large = sizes | {"l0": jax.ShapeDtypeStruct((12 * 2**20,), np.float32)}
    assert claims.too_much(other, large, large) is None
    assert claims.too_much(other, large, sizes) is None  # the large leaf is stored
    often = key_draws(fan_ins=fan_ins, step=5000, k_per=1)
    assert claims.too_much(often, sizes, sizes) is None
    many = {f"{n}": jax.ShapeDtypeStruct((1,), np.float32) for n in range(53)}
    of_many = key_draws(fan_ins=dict.fromkeys(many, 9.0), step=5000, k_per=1)
    assert "53 small leaves were resampled 5,000 times" in claims.too_much(
        of_many, many, many
    )
    parts = {path: jax.ShapeDtypeStruct((2**13,), np.float32) for path in many}
    assert claims.too_much(of_many, parts, parts) is None


def test_what_would_take_too_much_to_sample_is_stored(tmp_path):
    """Of a small network with a key of another generator; of Threefry nothing is."""
    tree = {f"l{n}": {"kernel": np.zeros((8, 4 + n), np.float32)} for n in range(3)}
    subnetwork = Subnetwork(0.5, "kaiming_uniform")
    for name, stored in (("threefry2x32", {"mask"}), ("rbg", {"mask", "kept"})):
        key = jax.random.key(3, impl=name)
        scores, weights = subnetwork.init(key, tree)
        masks = subnetwork.masks(scores)
        save_ticket(tmp_path / "t", weights, masks, subnetwork=subnetwork, key=key)
        arrays = container.read(tmp_path / "t")[1]
        assert {array.split("/")[0].removesuffix("_code") for array in arrays} == stored
        found = load_ticket(tmp_path / "t", like=tree).params
        pruned = jax.tree.map(lambda w, mask: np.asarray(w * mask), weights, masks)
        assert jax.tree.all(jax.tree.map(np.array_equal, found, pruned))


def test_a_vocabulary_that_load_would_refuse_is_not_saved(tmp_path):
    inputs = ((1, 9), "int32"), ((1,), "int32")
    tree = {"kernel": np.ones(3, np.float32)}
    long = [f"{n}" + "ก" * 30 for n in range(25_000)]
    for words, reason in (
        (["a"] * 25_001, "has 25,001 words in 50,002 bytes; at most 25,000"),
        (long, r"has 25,000 words in 2,388,890 bytes; at most 25,000 in 1,600,000"),
    ):
        described = Description(network={"name": "mine"}, inputs=inputs)
        ticket = tickets.Ticket.of(described, tree, {"kernel": None}, {}, words)
        with pytest.raises(ValueError, match=f"cannot be written: .*{reason}"):
            ticket.save(tmp_path / "t")
    large = {"kernel": np.ones(2**21, np.float32)}  # whose vocabulary may be, too
    ticket = tickets.Ticket.of(described, large, {"kernel": None}, {}, long)
    ticket.save(tmp_path / "t")
    assert load_ticket(tmp_path / "t", like=large).words == tuple(long)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network": {"name": "\x1b[31mred", "num_classes": 2}}, "red"),
        ({"network": {"name": "conv2", "num_classes": 0}}, "'num_classes' is 0"),
        ({"network": {"name": "conv2", "width": float("nan")}}, "'width' is nan"),
        ({"network": {"name": "conv2", "dtype": "object"}}, "possible: float16"),
        ({"network": {"depth": 3}}, "a network has no 'depth'"),
        ({"inputs": [[[1] * 33, "float32"]]}, "a shape of the file is (1, 1,"),
        ({"inputs": [[[1, 8, 8, 3], "float32"]], "mean": [0.5, 0.5]}, "of 3 channels"),
        ({"mean": [0.5], "std": [0.0]}, "not above 0"),
        ({"inputs": [[[1, 8], "O"]]}, "an input is of 'O'; possible: bool, int8"),
        ({"inputs": [[[1, 8], "complex64"]]}, "an input is of 'complex64'"),
        ({"inputs": [[[1, 8], "float32"]] * 65}, "it has 65 inputs; at most 64"),
        ({"mean": [float("inf")], "std": [1.0]}, "its mean is (inf,)"),
    ],
)
def test_a_description_that_cannot_be_is_refused(change, reason, tmp_path):
    write(tmp_path / "t", lambda fields, _: fields.update(change))
    assert reason in refused(tmp_path / "t")


def test_a_fan_in_of_no_leaf_is_refused(tmp_path):
    def add(fields, arrays):
        fields["draws"]["fan_ins"] = {"other": 3.0}

    write(tmp_path / "t", add)
    assert "a fan-in of 'other', no leaf" in refused(tmp_path / "t")
