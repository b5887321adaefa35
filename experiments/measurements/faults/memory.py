"""The memory that loading a ticket takes, of networks in their real sizes.

Each ticket is loaded twice in a child process of its own, which has loaded small
tickets before, so that what is measured is the memory of this one: the peak of the
process above what it had. What small tickets leave behind are the libraries and the
program that rebuilds draws, which is one for all tickets.
"""

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import iterand_jax
from experiments.measurements.faults import tickets
from experiments.measurements.faults.limited import Limited
from experiments.measurements.faults.trial import Trial
from iterand_jax.trees import leaves_of

TIMES, TRACE = 10, 15
PROMISE = (
    f"Loading a ticket takes at most {TIMES} times the memory of its network in "
    f"float32; of a small one, in a process that has not loaded one of this network, "
    f"up to {TRACE} MB, which tracing the network takes"
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


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many tickets: every form of every network in turn, in a random order."""
    every = [(size, form) for size in SIZES for form in FORMS]
    random.Random(seed).shuffle(every)
    for number in range(count):
        size, form = every[number % len(every)]
        distribution, k_per = FORMS[form]
        path = folder / "ticket"
        made = size._asdict() | {"distribution": distribution, "k_per": k_per}
        tickets.of_network(path, **made)
        with Limited(megabytes=MEGABYTES, seconds=SECONDS, ready=tickets.warm) as child:
            called, again = (child.call(loaded, path) for _ in range(2))
        kind = f"{size.name} of width {size.width:g}, {form}"
        network = called.value or 0.0
        times = called.megabytes / network if network else math.inf
        outcome = called.ended or (
            f"{times:.1f} times {network:.1f} MB" if network else "refused"
        )
        first = max(TIMES * network, TRACE)
        small = called.megabytes <= first and again.megabytes <= TIMES * network
        yield Trial(
            kind,
            outcome,
            kept=network > 0 and small,
            detail=f"number {number} of seed {seed}: {called}",
            seconds=called.seconds,
            megabytes=called.megabytes,
        )


def loaded(path: Path) -> float:
    """Loads a ticket; returns the megabytes of its network in float32."""
    ticket = iterand_jax.load_ticket(path)
    trees = {"masks": ticket.masks, **ticket.variables}
    numbers = sum(
        leaf.size for name, leaf in leaves_of(trees).items() if "masks" not in name
    )
    return 4 * numbers / 2**20
