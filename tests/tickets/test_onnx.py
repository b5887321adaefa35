"""Networks as ONNX answer in ONNX Runtime as their tickets do."""

import re

import numpy as np
import pytest

from iterand_jax.networks import NETWORKS, recurrence
from iterand_jax.tickets import onnx
from tests.helpers import REPEATING
from tests.tickets.test_formats import inputs_of, ticket_of

runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("jax2onnx", reason="needs the extra onnx")
pytestmark = [pytest.mark.slow, pytest.mark.compiles]


NAMES = [
    name for name in NETWORKS if not (name in REPEATING and name.startswith("imagenet"))
]
"""Those of more of ImageNet's blocks were converted by hand: 23 s."""


@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_written_and_answers_as_its_ticket(name, tmp_path, capfd):
    ticket, path = ticket_of(name), tmp_path / "network.onnx"
    comparison = onnx.save(ticket, path)
    assert re.fullmatch(r"logits of ONNX Runtime are the ticket's, to \S+", comparison)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    assert names == (["tokens", "lengths"] if "lstm" in name else ["images"])
    for size in (2, 5):  # others than those that were compared
        inputs = inputs_of(ticket, size)
        (logits,) = session.run(["logits"], dict(zip(names, inputs, strict=True)))
        np.testing.assert_allclose(logits, ticket.apply(*inputs), 1e-4, 1e-5)
    assert capfd.readouterr().out == ""


def test_what_cannot_be_converted_is_one_line(tmp_path, monkeypatch):
    """With jax2onnx 0.13.0 a scan that runs backwards, which ours leave out for it."""
    monkeypatch.setattr(recurrence, "traces_as_xla", lambda: False)
    expected = "^the network 'bilstm' cannot be converted.*Reverse scan"
    with pytest.raises(ValueError, match=expected) as no:
        onnx.save(ticket_of("bilstm"), tmp_path / "out")
    assert "\n" not in str(no.value)
    assert not (tmp_path / "out").exists()


def test_what_is_too_large_or_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    ticket, path = ticket_of("conv2"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(onnx, "MOST", 1000)
        with pytest.raises(ValueError, match=r"bytes; possible in ONNX: 1,000$"):
            onnx.save(ticket, path)
    right = type(ticket).apply
    wrong = lambda self, x: right(self, x) + np.float32(0.01)  # noqa: E731
    monkeypatch.setattr(type(ticket), "apply", wrong)
    with pytest.raises(ValueError, match=r"a logit differs by 0\.01"):
        onnx.save(ticket, path)
    assert not path.exists()
