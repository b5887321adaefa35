"""A ticket's network as an ONNX file, through the converter jax2onnx.

The weights are in the file, zeros included, and so is the normalization of pixels: it
takes what `Ticket.apply` takes. The batch size is free. What ONNX Runtime answers is
compared with the ticket before a file is written, as the converter is another
implementation of each operation. That refuses the residual networks: of them jax2onnx
0.13.0 and 0.17.1 make a file whose dimensions do not fit.
"""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from iterand_jax.networks import NETWORKS
from iterand_jax.runtime.files import write_atomically
from iterand_jax.tickets.ticket import Ticket

OPSET = 23
"""The version of ONNX's operators that is written."""

MOST = 2**31 - 2**20
"""Bytes of weights: a file of ONNX cannot have 2 GiB."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""The difference that is allowed, of the largest logit, by the network's dtype."""


def save(ticket: Ticket, path: Path) -> str:
    """Writes the network as ONNX; returns what its check showed.

    Args:
      ticket: of a network that reads one array; what it takes and gives are named
        "images" (or "inputs", where it does not read pixels) and "logits".
      path: of the file, in a folder that is there.

    Raises:
      ValueError: in one line, the extra `onnx` is not installed, the network reads
        texts, is too large or cannot be converted, or what was converted answers
        otherwise than the ticket.
    """
    description = ticket.description
    description.build()  # of a tree of arrays there is none
    check(description.network["name"])
    if len(description.inputs) != 1:
        raise ValueError(
            f"ONNX is written of networks that read one array; this one reads "
            f"{len(description.inputs)}"
        )
    if description.dtype.name not in TOLERANCE:
        raise ValueError(
            f"ONNX is written of networks in {' and '.join(TOLERANCE)}; this one is in "
            f"{description.dtype.name}"
        )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(ticket.variables))
    if size > MOST:
        raise ValueError(f"the weights have {size:,} bytes; possible in ONNX: {MOST:,}")
    to_onnx, runtime = _libraries()
    ((shape, dtype),) = description.inputs
    of_pixels = description.mean is not None
    given = jax.ShapeDtypeStruct(
        ("batch", *shape[1:]),  # a name is a free size
        np.dtype("uint8" if of_pixels else dtype),
    )
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # what the converter says of itself
            model = to_onnx(
                lambda inputs: description.logits(ticket.variables, inputs),
                [given],
                model_name=str(description.network["name"]),
                opset=OPSET,
                input_names=["images" if of_pixels else "inputs"],
                output_names=["logits"],
            )
        content = model.SerializeToString()
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is raised
        session = runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # what the converter or the runtime does not know
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the network {description.network['name']!r} cannot be converted to ONNX: "
            f"{type(error).__name__}: {said}"
        ) from error
    told = _compared(ticket, session)
    write_atomically(path, content)
    return told


def check(name: str) -> None:
    """Raises ValueError unless networks of a name can be written as ONNX here."""
    if NETWORKS.get(name).takes_texts:
        raise ValueError(
            f"ONNX is written of networks that read one array; {name!r} reads texts; "
            f"possible: --format=stablehlo"
        )
    _libraries()


def _libraries() -> tuple[Any, Any]:
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise ValueError(
            f"ONNX needs the extra: pip install 'iterand_jax[onnx]' ({error})"
        ) from error
    return to_onnx, onnxruntime


def _compared(ticket: Ticket, session: Any) -> str:
    """Compares logits of batches of two sizes; returns the largest difference.

    Raises:
      ValueError: they differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    (entry,) = session.get_inputs()
    largest = difference = 0.0
    for size in (1, 16):
        shape = (size, *ticket.description.inputs[0][0][1:])
        inputs = rng.integers(0, 256, shape).astype(np.uint8)
        if ticket.description.mean is None:
            inputs = rng.standard_normal(shape).astype(ticket.description.inputs[0][1])
        expected = np.asarray(ticket.apply(inputs))
        (logits,) = session.run(None, {entry.name: inputs})
        if logits.shape != expected.shape:
            raise ValueError(
                f"ONNX Runtime gives logits {logits.shape} where the ticket gives "
                f"{expected.shape}"
            )
        largest = max(largest, float(np.abs(expected).max()))
        difference = max(difference, float(np.abs(logits - expected).max()))
    allowed = TOLERANCE[ticket.description.dtype.name]
    if not difference <= allowed * max(largest, 1e-30):
        raise ValueError(
            f"ONNX Runtime does not answer as the ticket does: a logit differs by "
            f"{difference:g}, where the largest is {largest:g}"
        )
    return f"logits of ONNX Runtime are the ticket's, to {difference:.1e}"
