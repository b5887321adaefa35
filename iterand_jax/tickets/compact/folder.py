"""The folder of a compact ticket, and what is saved by it: weights, work and time."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from iterand_jax.networks.multiply_adds import count_multiply_adds
from iterand_jax.networks.resnet import ResNet
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.timing import interleaved
from iterand_jax.tickets import formats
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.compact.removal import Compact
from iterand_jax.tickets.ticket import Ticket

TICKET, TORCHVISION = "ticket.safetensors", "torchvision.safetensors"
REPORT = "compact.json"

TOLERANCE = 1e-5
"""Of the largest logit."""

ROUNDED = 5e-2
"""The same where activations are rounded to 16 bits, whatever is removed."""

ROUNDS = 7  # of the timed calls, by turns


def compare(ticket: Ticket, found: Compact, inputs: Sequence[Any]) -> dict[str, Any]:
    """What a compact ticket answers and costs, and what the ticket does.

    Args:
      ticket: that it was made from.
      found: what `compact` made of it.
      inputs: examples, as `Ticket.apply` takes them.

    Returns:
      Fields for JSON: channels by layer, the difference of the logits, and under
      "before" and "after" parameters, multiply-adds of one example and, of a call with
      all examples, by turns in this process, medians of the seconds that it took, and
      of the processor's.

    Raises:
      ValueError: the logits differ by more than rounding.
    """
    pair = {"before": ticket, "after": found.ticket}
    logits = {name: np.asarray(one.apply(*inputs)) for name, one in pair.items()}
    largest = float(np.max(np.abs(logits["before"])))
    difference = float(np.max(np.abs(logits["after"] - logits["before"])))
    is_wide = ticket.description.dtype.itemsize > 2
    if not difference <= (TOLERANCE if is_wide else ROUNDED) * largest:
        raise ValueError(
            f"the compact network does not answer as the ticket does: a logit differs "
            f"by {difference:g}, where the largest is {largest:g}"
        )
    times = interleaved(
        {name: partial(one.apply, *inputs) for name, one in pair.items()}, ROUNDS
    )
    report: dict[str, Any] = {
        name: {
            **costs(one),
            "seconds": times[name].median,
            "processor_seconds": times[name].processor,
        }
        for name, one in pair.items()
    }
    return report | {
        "channels": {path: list(sizes) for path, sizes in found.channels.items()},
        "constant_channels": dict(
            zip(("removed", "left"), found.constant, strict=True)
        ),
        "examples": len(logits["before"]),
        "logits": {"largest": largest, "difference": difference},
        "samples": times["before"].samples,
    }


def costs(ticket: Ticket) -> dict[str, int]:
    """The parameters of a network, and the multiply-adds of one example.

    An example is what the description has: of a text, so many words.
    """
    description = ticket.description
    inputs = [jax.ShapeDtypeStruct(*one) for one in description.inputs]
    program = jax.make_jaxpr(description.logits)(ticket.variables, *inputs)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(ticket.params)),
        "multiply_adds": round(count_multiply_adds(program.jaxpr)),
    }


def save(ticket: Ticket, report: dict[str, Any], folder: Path) -> None:
    """Writes a compact ticket in every form that it has, and a report of it.

    Args:
      ticket: of a network of given sizes.
      report: what `compare` returned.
      folder: for a ticket, the files of `formats.save_program`, compact.json and, of a
        ResNet, its arrays by torchvision's names; created if its parent exists.
    """
    formats.save_program(ticket, folder)
    tickets.save(ticket, folder / TICKET)
    tickets.load(folder / TICKET)  # one that cannot be read back is refused here
    if isinstance(ticket.description.build(), ResNet):
        arrays = formats.torchvision_arrays(ticket)
        formats.save_arrays(arrays, ticket.description, folder / TORCHVISION)
    about = {"description": ticket.description.to_json(), **report}
    write_atomically(folder / REPORT, json.dumps(about, indent=2) + "\n")


def rows(report: dict[str, Any]) -> dict[str, str]:
    """A report as rows of a printed table."""
    before, after = report["before"], report["after"]

    def change(name: str, unit: str, scale: float = 1, form: str = ",.0f") -> str:
        values = [format(scale * one[name], form) for one in (before, after)]
        times = before[name] / after[name] if after[name] else np.inf
        return f"{values[0]} to {values[1]}{unit}, a ratio of {times:.2f}"

    channels = report["channels"].values()
    left, there = (sum(pair[i] for pair in channels) for i in (0, 1))
    constant = report["constant_channels"]
    found = {
        "channels": f"{there:,} to {left:,}",
        "parameters": change("parameters", ""),
        "multiply-adds": change("multiply_adds", " an example"),
    }
    if any(constant.values()):
        found["constant"] = (
            f"{constant['removed']} channels are part of biases and means now, "
            f"{constant['left']} are left"
        )
    for name, key in (("time", "seconds"), ("CPU time", "processor_seconds")):
        unit = f" ms for {report['examples']} examples by turns"
        found[name] = change(key, unit, 1e3, ".2f")
    difference = report["logits"]["difference"]
    found["compact"] = f"logits are the ticket's, to {difference:.1e}"
    return found
