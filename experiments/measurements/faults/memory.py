"""The memory that loading a ticket takes, of valid ones and of forged ones.

The valid ones are of networks in their real sizes.

Each ticket is loaded twice in a child process of its own, which has loaded small
tickets before, so that what is measured is the memory of this one: the peak of the
process above what it had. What small tickets leave behind are the libraries and the
program that rebuilds draws, which is one for all tickets.

The forged ones are of a small network, with a valid checksum and something long in a
field, or with many arrays or leaves, up to what a header can have. Some hold a large
array beside, with which a file can have a longer header.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import numpy as safetensors

import iterand_jax
from experiments.measurements.faults import mutators, tickets
from experiments.measurements.faults.limited import Limited
from experiments.measurements.faults.trial import REFUSED, Trial
from iterand_jax.tickets import container
from iterand_jax.trees import leaves_of

TIMES, OF_A_LAYER, OF_ANY = 10, 0.06, 1
PARSED, WITHIN = 4, 10
PROMISE = (
    f"Loading a ticket takes at most {TIMES} times the memory of its network in "
    f"float32; of a network of fewer than 25,000 weights and 1,500 for each layer, as "
    f"much as of one of these: {OF_ANY} MB and {1000 * OF_A_LAYER:g} kB for each layer."
    f" A forged one is refused or the same arrays in {WITHIN} seconds, and takes "
    f"{PARSED} MB more at most, and twice its header's bytes"
)
MEGABYTES, SECONDS = 4096, 120  # of address space, which is more than memory


class Size(NamedTuple):
    """A network as a ticket describes it."""

    name: str
    width: float
    pixels: int = 32


SIZES = (
    Size("conv2", 0.0625),
    Size("conv6", 0.25),
    Size("resnet18", 0.0625),
    Size("resnet18", 0.125),
    Size("resnet18", 0.015625),
    Size("imagenet_resnet50", 0.0625, pixels=64),
    Size("imagenet_resnet101", 0.0625, pixels=64),
    Size("conv2", 1),
    Size("conv6", 0.625),
    Size("conv6", 1),
    Size("resnet18", 0.5),
    Size("lstm", 1),
)
FORMS: Mapping[str, tuple[str, int]] = {
    "signs": ("signed_constant", 0),
    "a seed": ("kaiming_normal", 0),
    "draws": ("kaiming_uniform", 4),
}
"""The distribution and k_per of each form."""


FORGED = 3  # one trial in so many is of a forged ticket
LAYERS = 5  # of the network of a forged one that is not a tree
COUNTS = (500, 1000, 4500, 40_000)  # of parts; a header has at most 384 KiB, and
BESIDE = (0, 0, 16, 64)  # a sixteenth of these megabytes
BOTH = ("arrays", "leaves and arrays")


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many tickets: every form of every network in turn, in a random order.

    One in `FORGED` is a forged one.
    """
    draw = random.Random(seed)
    every = [(size, form) for size in SIZES for form in FORMS]
    draw.shuffle(every)
    turns = iter(every * count)
    for number in range(count):
        if number % FORGED == FORGED - 1:
            trial = of_forged(folder / "ticket", draw)
        else:
            trial = of_valid(folder / "ticket", *next(turns))
        detail = f"number {number} of seed {seed}: {trial.detail}"
        yield trial._replace(detail=detail)


def of_valid(path: Path, size: Size, form: str) -> Trial:
    """Loads a ticket twice in a process."""
    distribution, k_per = FORMS[form]
    made = size._asdict() | {"distribution": distribution, "k_per": k_per}
    tickets.of_network(path, **made)
    with Limited(megabytes=MEGABYTES, seconds=SECONDS, ready=tickets.warm) as child:
        called, again = (child.call(loaded, path) for _ in range(2))
    network, layers = called.value or (0.0, 0)
    times = called.megabytes / network if network else math.inf
    outcome = called.ended or (
        f"{times:.1f} times {network:.1f} MB" if network else "refused"
    )
    most = max(TIMES * network, OF_ANY + OF_A_LAYER * layers)
    return Trial(
        f"{size.name} of width {size.width:g}, {form}",
        outcome,
        kept=network > 0 and max(called.megabytes, again.megabytes) <= most,
        detail=str(called),
        seconds=called.seconds,
        megabytes=called.megabytes,
    )


def of_forged(path: Path, draw: random.Random) -> Trial:
    """Loads a ticket that is long in one place, once in a process."""
    form = draw.choice([*tickets.FORMS])
    digest = tickets.FORMS[form](path)
    fields, arrays = container.read(path)
    of, count = draw.choice([*mutators.LONG, *BOTH]), draw.choice(COUNTS)
    place, beside = draw.choice(tickets.LISTED), draw.choice(BESIDE)
    if of in BOTH:
        place = of
        fields, arrays = multiplied(fields, arrays, count, leaves=of != "arrays")
    else:
        fields = tickets.listed(fields, place, mutators.LONG[of](count))
    if beside:
        arrays = {**arrays, "leaf/beside": np.zeros(beside * 2**20, np.uint8)}
    fields = tickets.signed(fields, arrays)
    header = {container.METADATA: json.dumps(fields, sort_keys=True)}
    path.write_bytes(safetensors.save(arrays, header))
    with Limited(megabytes=MEGABYTES, seconds=SECONDS, ready=tickets.warm) as child:
        called = child.call(tickets.outcome, path, digest)
    trial = called.trial(
        f"forged: long {place}{', a large file' if beside else ''}",
        (tickets.SAME, REFUSED),
        f"a {form}, {count} {of}, {path.stat().st_size} bytes: {called}",
    )
    of_header = int.from_bytes(path.read_bytes()[:8], "little") / 2**20
    layers = len(fields.get("leaves") or ()) or LAYERS
    most = PARSED + OF_ANY + OF_A_LAYER * layers + 2 * of_header
    within = called.megabytes <= most and called.seconds <= WITHIN
    return trial._replace(kept=trial.kept and within)


def multiplied(
    fields: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    count: int,
    *,
    leaves: bool,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fields and arrays with many empty arrays, or of a tree of so many leaves."""
    empty = {f"leaf/{n:x}": np.zeros(0, np.float32) for n in range(count)}
    if not leaves:
        return {**fields}, {**arrays, **empty}
    forms = {f"params/{n:x}": [[0], "float32"] for n in range(count)}
    of_tree: dict[str, Any] = {
        "network": {},
        "draws": None,
        "mean": None,
        "std": None,
        "inputs": [],
    }
    return {**fields, **of_tree, "leaves": forms}, empty


def loaded(path: Path) -> tuple[float, int]:
    """Loads a ticket; returns the megabytes of its network in float32, and layers."""
    ticket = iterand_jax.load_ticket(path)
    numbers = sum(leaf.size for leaf in leaves_of(ticket.variables).values())
    layers = sum(leaf.ndim > 1 for leaf in leaves_of(ticket.params).values())
    return 4 * numbers / 2**20, layers
