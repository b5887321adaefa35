"""A ticket's network as an ONNX file, through the converter jax2onnx.

The weights are in the file, zeros included, and so is the normalization of pixels: it
takes what `Ticket.apply` takes. The sizes of batches and texts are free.

The converter is given the primitives of JAX, traced before it is called. While it
traces it replaces functions of Flax and jax.numpy by operations of ONNX, and what
0.13.0 and 0.17.1 make so of residual networks and of LSTMs cannot be loaded, or is not
made at all. What ONNX Runtime answers is compared with the ticket before a file is
written.
"""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from iterand_jax.networks.tracing import as_xla
from iterand_jax.runtime.files import write_atomically
from iterand_jax.tickets import formats
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket

OPSET = 23
"""The version of ONNX's operators that is written."""

MOST = 2**31 - 2**20
"""Bytes of weights: a file of ONNX cannot have 2 GiB."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""The difference that is allowed, of the largest logit, by the network's dtype."""

SIZES = (1, 16)  # of batches that are compared


def save(ticket: Ticket, path: Path) -> str:
    """Writes the network as ONNX; returns what its check showed.

    Args:
      ticket: of a network. Its inputs are named "images", or "tokens" and "lengths",
        or, of arrays that are neither, "inputs"; its output is named "logits".
      path: of the file, in a folder that is there.

    Raises:
      ValueError: in one line, the extra `onnx` is not installed, the network is too
        large or cannot be converted, or what was converted answers otherwise.
    """
    description = ticket.description
    description.build()  # of a tree of arrays there is none
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(ticket.variables))
    if size > MOST:
        raise ValueError(f"the weights have {size:,} bytes; possible in ONNX: {MOST:,}")
    if description.dtype.name not in TOLERANCE:
        raise ValueError(
            f"ONNX is written of networks in {' and '.join(TOLERANCE)}; this one is in "
            f"{description.dtype.name}"
        )
    to_onnx, runtime = libraries()
    given, names = formats.symbolic_inputs(description), _names(description)
    with as_xla():
        traced = jax.make_jaxpr(
            lambda *inputs: description.logits(ticket.variables, *inputs)
        )(*given)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # what the converter says of itself
            model = to_onnx(
                lambda *inputs: jaxpr_as_fun(traced)(*inputs)[0],
                given,
                model_name=str(description.network["name"]),
                opset=OPSET,
                input_names=names,
                output_names=["logits"],
            )
        content = model.SerializeToString()
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is raised
        session = runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        comparison = _compared(ticket, session, names)
    except Exception as error:  # what the converter or the runtime does not know
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the network {description.network['name']!r} cannot be converted to ONNX: "
            f"{type(error).__name__}: {said}"
        ) from error
    write_atomically(path, content)
    return comparison


def libraries() -> tuple[Any, Any]:
    """The converter's function and ONNX Runtime.

    Raises:
      ValueError: in one line, they are not installed.
    """
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


def _names(description: Description) -> list[str]:
    if description.mean is not None:
        return ["images"]
    shapes = [shape for shape, _ in description.inputs]
    if [len(shape) for shape in shapes] == [2, 1]:
        return ["tokens", "lengths"]
    return ["inputs", *(f"inputs_{number}" for number in range(1, len(shapes)))]


def _examples(description: Description, size: int) -> tuple[np.ndarray, ...]:
    """Random inputs of a batch, of texts with other lengths for each size."""
    rng = np.random.default_rng(size)
    if _names(description) == ["tokens", "lengths"]:
        tokens = rng.integers(0, 100, (size, 5 + size), np.int32)
        return tokens, rng.integers(1, 6 + size, size, np.int32)
    if description.mean is not None:
        shape = (size, *description.inputs[0][0][1:])
        return (rng.integers(0, 256, shape, np.uint8),)
    return tuple(
        rng.standard_normal((size, *shape[1:])).astype(dtype)
        for shape, dtype in description.inputs
    )


def _compared(ticket: Ticket, session: Any, names: list[str]) -> str:
    """Compares logits of batches of two sizes; returns the largest difference.

    Raises:
      ValueError: they differ by more than rounding.
    """
    largest = difference = 0.0
    for size in SIZES:
        inputs = _examples(ticket.description, size)
        expected = np.asarray(ticket.apply(*inputs))
        (logits,) = session.run(None, dict(zip(names, inputs, strict=True)))
        if logits.shape != expected.shape:
            raise ValueError(f"logits {logits.shape} instead of {expected.shape}")
        largest = max(largest, float(np.abs(expected).max()))
        difference = max(difference, float(np.abs(logits - expected).max()))
    allowed = TOLERANCE[ticket.description.dtype.name]
    if not difference <= allowed * max(largest, 1e-30):
        raise ValueError(
            f"a logit differs by {difference:g}, where the largest is {largest:g}"
        )
    return f"logits of ONNX Runtime are the ticket's, to {difference:.1e}"
