"""Exported programs and arrays give the ticket's logits, without this library."""

import dataclasses
import datetime
import importlib.metadata
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from iterand_jax.networks import NETWORKS, Network
from iterand_jax.tickets import formats
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of
from tests import helpers


def ticket_of(name, *, width=1 / 16, affine=False):
    """A ticket with random weights, masks and statistics; some are large."""
    network = {"name": name, "num_classes": 5, "width": width, "affine": affine}
    text = "lstm" in name
    description = Description(
        network={**network, "dtype": "float32"},
        inputs=(((1, 9), "int32"), ((1,), "int32"))
        if text
        else (((1, 32, 32, 3), "float32"),),
        mean=None if text else (0.5, 0.4, 0.3),
        std=None if text else (0.2, 0.2, 0.3),
    )
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, description.abstract())
    masks = jax.tree.map(
        lambda w: rng.random(w.shape) < 0.4 if w.ndim > 1 else None, variables["params"]
    )
    statistics = variables.get("batch_stats", {})
    return Ticket.of(description, variables["params"], masks, statistics)


def inputs_of(ticket, size):
    rng = np.random.default_rng(1)
    if ticket.description.mean is None:
        tokens = rng.integers(0, 100, (size, 4 + size), np.int32)
        return tokens, np.arange(1, size + 1, dtype=np.int32)
    return (rng.integers(0, 256, (size, 32, 32, 3), np.uint8),)


def test_flax_names_are_paths_and_the_weights_are_masked(tmp_path):
    ticket = ticket_of("resnet20")
    formats.save_arrays(
        formats.flax_arrays(ticket), ticket.description, tmp_path / "weights"
    )
    arrays = safetensors.load_file(tmp_path / "weights")
    assert arrays.keys() >= {
        "params/ConvNorm_0/Conv_0/kernel",
        "params/Dense_0/kernel",
        "batch_stats/BasicBlock_8/ConvNorm_1/BatchNorm_0/mean",
    }
    for path, leaf in leaves_of(ticket.variables).items():
        np.testing.assert_array_equal(arrays[path], leaf)
    assert 0.4 < np.mean(arrays["params/Dense_0/kernel"] == 0) < 0.8


def test_bcoo_holds_the_kept_weights():
    ticket = ticket_of("conv2", affine=True)
    sparse = formats.to_bcoo(ticket.params, ticket.masks)
    dense, mask = ticket.params["Dense_0"]["kernel"], ticket.masks["Dense_0"]["kernel"]
    kernel = sparse["Dense_0"]["kernel"]
    assert kernel.nse == mask.sum() < mask.size
    np.testing.assert_array_equal(kernel.todense(), dense)
    np.testing.assert_array_equal(
        sparse["Conv_1"]["kernel"].todense(), ticket.params["Conv_1"]["kernel"]
    )
    assert sparse["Dense_0"]["bias"] is ticket.params["Dense_0"]["bias"]
    x = np.random.default_rng(0).standard_normal((3, len(dense))).astype(np.float32)
    np.testing.assert_allclose(jnp.asarray(x) @ kernel, x @ dense, 1e-4, 1e-5)


def test_arrays_are_written_in_their_shape_and_order(tmp_path):
    arrays = {
        "scalar": np.asarray(7, np.int64),
        "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        "repeated": np.broadcast_to(np.float32(0.5), (3, 2)),
        "empty": np.zeros((0, 3), np.float32),
    }
    formats.save_arrays(arrays, ticket_of("conv2").description, tmp_path / "arrays")
    written = safetensors.load_file(tmp_path / "arrays")
    assert written.keys() == arrays.keys()
    for name, array in arrays.items():
        assert written[name].shape == array.shape
        assert written[name].dtype == array.dtype
        np.testing.assert_array_equal(written[name], array)


@pytest.mark.parametrize("name", [n for n in NETWORKS if "resnet" not in n])
def test_only_resnets_have_torchvision_names(name):
    with pytest.raises(ValueError, match=f"for ResNets; the network is '{name}'"):
        formats.torchvision_arrays(ticket_of(name))


def test_a_tree_has_no_torchvision_names():
    described = Description(network={}, inputs=())
    ticket = Ticket.of(described, {"kernel": np.ones(3)}, {"kernel": None}, {})
    with pytest.raises(ValueError, match="the ticket is of a tree of arrays"):
        formats.torchvision_arrays(ticket)


@pytest.mark.parametrize(
    "inputs",
    [(((1, 32, 32, 3), "uint8"),), (((1, 9), "int32"),), (((1, 9), "int32"),) * 2],
)
def test_integers_that_are_no_texts_are_refused(inputs, tmp_path):
    """A ticket may say so; it is read, and there is nothing to apply it to."""
    ticket = ticket_of("conv2")
    described = dataclasses.replace(ticket.description, inputs=inputs)
    odd = dataclasses.replace(ticket, description=described)
    with pytest.raises(ValueError, match="integers that are no texts"):
        formats.save_program(odd, tmp_path / "program")
    with pytest.raises(ValueError, match="integers that are no texts"):
        odd.apply(np.zeros((2, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("name", [n for n in NETWORKS if "resnet" in n])
def test_torchvision_arrays_are_all_weights_and_what_normalization_needs(name):
    ticket = ticket_of(name)
    arrays = formats.torchvision_arrays(ticket)
    norms = [n.removesuffix("running_var") for n in arrays if "running_var" in n]
    assert len(norms) == sum("Conv_0" in path for path in leaves_of(ticket.params))
    for norm in norms:
        assert np.all(arrays.pop(norm + "weight") == 1)
        assert np.all(arrays.pop(norm + "bias") == 0)
        assert arrays.pop(norm + "num_batches_tracked") == 0
    assert arrays["conv1.weight"].shape[1] == 3
    assert np.all(arrays.pop("fc.bias") == np.zeros(5))
    total = sum(leaf.size for leaf in leaves_of(ticket.variables).values())
    assert sum(array.size for array in arrays.values()) == total


READER = """
import sys
import jax, numpy as np, safetensors.numpy
from pathlib import Path
folder = Path(sys.argv[1])
program = jax.export.deserialize(bytearray((folder / "program.jax").read_bytes()))
weights = safetensors.numpy.load_file(folder / "weights.safetensors")
for size in (1, 3):
    inputs = np.load(folder / f"inputs_{size}.npz")
    logits = program.call(weights, *(inputs[name] for name in inputs.files))
    np.save(folder / f"logits_{size}.npy", logits)
assert program.platforms == ("cpu", "cuda", "tpu")
assert not {"flax", "iterand_jax"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", helpers.ONE_OF_A_KIND)
def test_programs_run_in_a_process_without_the_networks_code(name, tmp_path):
    ticket = ticket_of(name)
    formats.save_program(ticket, tmp_path)
    for size in (1, 3):
        np.savez(tmp_path / f"inputs_{size}.npz", *inputs_of(ticket, size))
    helpers.printed("-W", "error", "-c", READER, tmp_path, cwd=tmp_path)
    for size in (1, 3):
        logits = np.load(tmp_path / f"logits_{size}.npy")
        expected = ticket.apply(*inputs_of(ticket, size))
        assert logits.shape == (size, 5)
        np.testing.assert_allclose(logits, expected, 1e-5, 1e-6)


def test_versions_are_beside_a_program(tmp_path):
    formats.save_program(ticket_of("conv2"), tmp_path)
    versions = json.loads((tmp_path / formats.VERSIONS).read_bytes())
    program = bytearray((tmp_path / formats.PROGRAM).read_bytes())
    exported = jax.export.deserialize(program)
    written = datetime.date.fromisoformat(versions.pop("written"))
    today = datetime.datetime.now(datetime.UTC).date()
    assert 0 <= (today - written).days <= 1
    assert versions == {
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "calling_convention": exported.calling_convention_version,
        "platforms": ["cpu", "cuda", "tpu"],
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_floats_are_the_weights_rounded_and_read_by_others(dtype, tmp_path):
    flax = pytest.importorskip("safetensors.flax")
    ticket = ticket_of("conv2")
    exact, path = formats.flax_arrays(ticket), tmp_path / "weights.safetensors"
    formats.save_arrays(formats.in_dtype(exact, dtype), ticket.description, path)
    read = flax.load_file(path)
    assert read.keys() == exact.keys()
    for name, array in read.items():
        assert array.dtype == dtype
        wide, bits = (
            np.asarray(array, np.float64),
            {"float16": 11, "bfloat16": 8}[dtype],
        )
        near = np.abs(wide - exact[name]) <= 2.0**-bits * np.abs(exact[name]) + 6e-8
        assert near.all()
        assert np.all(wide[exact[name] == 0] == 0)
    assert path.stat().st_size < 0.6 * sum(a.nbytes for a in exact.values())


def test_what_a_smaller_float_cannot_hold_is_refused_by_name():
    arrays = {"batch_stats/var": np.float32([1, 7e4])}
    with pytest.raises(ValueError, match="stats/var has a value of 70000, which"):
        formats.in_dtype(arrays, "float16")
    assert formats.in_dtype(arrays, "bfloat16")["batch_stats/var"].dtype == "bfloat16"
    whole = {"a": np.int64([1]), "b": np.float16([1])}
    assert formats.in_dtype(whole, "bfloat16") == whole


def test_a_programs_size_does_not_depend_on_the_weights(tmp_path):
    sizes = []
    for width in (1 / 16, 1 / 2):
        formats.save_program(ticket_of("conv2", width=width), tmp_path)
        sizes.append((tmp_path / formats.PROGRAM).stat().st_size)
    assert max(sizes) < 20_000
    assert abs(sizes[1] - sizes[0]) < 200


class Linear(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes, use_bias=False)(x)


def test_a_program_takes_arrays_that_are_no_pixels_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS.table, "linear", Network(Linear))
    network = {"name": "linear", "num_classes": 3, "width": 1.0, "affine": False}
    description = Description(
        network={**network, "dtype": "float32"}, inputs=(((1, 5), "float32"),)
    )
    rng = np.random.default_rng(0)
    weights = {"Dense_0": {"kernel": rng.standard_normal((5, 3), np.float32)}}
    masks = {"Dense_0": {"kernel": rng.random((5, 3)) < 0.5}}
    ticket = Ticket.of(description, weights, masks, {})
    formats.save_program(ticket, tmp_path)
    serialized = bytearray((tmp_path / formats.PROGRAM).read_bytes())
    arrays = safetensors.load_file(tmp_path / formats.WEIGHTS)
    x = rng.standard_normal((4, 5), np.float32)
    logits = jax.export.deserialize(serialized).call(arrays, x)
    np.testing.assert_allclose(logits, ticket.apply(x), 1e-5)
    np.testing.assert_allclose(logits, x @ ticket.params["Dense_0"]["kernel"], 1e-4)
    with pytest.raises(ValueError, match=r"inputs of shapes \[\(4, 4\)\]; possible"):
        ticket.apply(x[:, 1:])
