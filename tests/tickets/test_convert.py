"""The command `convert`: files in, a ticket or one line out, without PyTorch."""

import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

import iterand_jax
from iterand_jax import convert as command_convert
from iterand_jax import masks
from iterand_jax.runtime import remote
from iterand_jax.subnetwork import RANKED_BY
from iterand_jax.tickets import conversion, states
from iterand_jax.tickets.conversion import Pruning
from tests.tickets.plain_states import WIDTH, converted, drawn, kernels, scored


def test_a_safetensors_file_becomes_a_file(tmp_path, command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # is not needed
    tensors = scored()
    tensors["features.0.weight"] = tensors["features.0.weight"].astype(jnp.bfloat16)
    safetensors.save_file(tensors, tmp_path / "state")
    given = [tmp_path / "state", "--network=conv2", f"--width={WIDTH}", "--kept=0.4"]
    given += ["--ranked_by=magnitude", "--mean=0.5,0.4,0.3", "--std=0.2,0.2,0.2"]
    output = tmp_path / "ticket.safetensors"
    assert command(command_convert, *map(str, given), f"--output={output}") == 0
    shown = capsys.readouterr().out
    assert re.search(r"masks keep 645 of 1,612 weights in 5 leaves", shown), shown
    assert shown.endswith(f"wrote {output}\n")
    ticket = iterand_jax.load_ticket(output)
    wanted, _ = converted(tensors, Pruning(sparsity=0.6, ranked_by="magnitude"))
    for name, kernel in kernels(wanted.params).items():
        np.testing.assert_array_equal(ticket.params[name]["kernel"], kernel)
    assert ticket.description.mean == (0.5, 0.4, 0.3)
    assert ticket.description.run["ranked_by"] == "magnitude"


def test_a_state_dict_may_lie_at_a_url(tmp_path):
    safetensors.save_file(drawn(), tmp_path / "state")
    content = (tmp_path / "state").read_bytes()
    remote.write("memory://states/state", content, "state dict")
    assert states.read("memory://states/state").keys() == drawn().keys()
    remote.write("memory://states/cut", content[:-1], "state dict")
    with pytest.raises(ValueError, match="memory://states/cut is no whole state dict"):
        states.read("memory://states/cut")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--kept=0.5", "--sparsity=0.5"], "give one of --sparsity=X and --kept=X"),
        (
            ["--mean=0.5,x", "--std=1"],
            "--mean=0.5,x; possible: numbers separated by commas",
        ),
        (["--network=conv3"], "unknown network 'conv3'"),
        (["--width=2"], "shapes differ: features.0.weight is of (4, 3, 3, 3)"),
        (["--image_size=0"], "image_size"),
        (["--output=nowhere/ticket"], "there is no folder nowhere"),
    ],
)
def test_a_wrong_flag_is_one_line(given, words, tmp_path, command, capfd):
    safetensors.save_file(drawn(), tmp_path / "state")
    output = tmp_path / "ticket"
    first = ["--network=conv2", f"--width={WIDTH}", f"--output={output}"]
    assert command(command_convert, str(tmp_path / "state"), *first, *given) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert words in said
    assert not output.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\x02\0\0\0\0\0\0\0{}", None])
def test_a_file_that_is_no_state_dict_is_one_line(
    content, tmp_path, command, capfd, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "state"
    if content is not None:
        path.write_bytes(content)
    given = [str(path), "--network=conv2", f"--output={tmp_path / 'ticket'}"]
    assert command(command_convert, *given) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert str(path) in said or "left over" in said or "convolutions" in said


def test_the_file_has_to_be_named(command, capfd, tmp_path):
    given = ["--network=conv2", f"--output={tmp_path / 'ticket'}"]
    assert command(command_convert, *given) == 2
    assert "give the state dict" in capfd.readouterr().err


def test_without_pytorch_other_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="by PyTorch, which is not installed: pip"):
        states.read(tmp_path / "state.pt")


def test_what_the_command_offers_is_what_there_is():
    assert command_convert.RANKS == conversion.RANKS
    assert tuple(masks.VALUES) == command_convert.VALUES
    assert command_convert.RANKED_BY == RANKED_BY
