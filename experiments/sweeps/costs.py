"""Cost estimates of runs: steps, and hours extrapolated from timed steps.

A step's time is scaled by multiply-adds from the timed step of the most similar
network, which is accurate to a factor of about two for other widths.
"""

import functools
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from experiments.measurements import synthetic
from experiments.paper.experiment import Cell
from experiments.paper.names import hours_text
from experiments.sweeps import ledger
from experiments.sweeps.ledger import Line, full_config
from experiments.sweeps.runs import Run
from iterand_jax.data.datasets import get_dataset
from iterand_jax.networks import build_network
from iterand_jax.training import provenance
from iterand_jax.training.programs import compile_steps

WORDS = 270  # per review, padding included: the work of a step is per word


class Reference(NamedTuple):
    """A timed step.

    Attributes:
      network: its name.
      work: multiply-adds of a forward pass of its batch.
      seconds: per step.
      origin: where it was measured.
    """

    network: str
    work: float
    seconds: float
    origin: str


def steps(cell: Cell) -> int:
    """The steps of a run; without its data, computed from the official sizes."""
    config = cell.config(seed=0)
    trainings = 1 + (config.retrainings or 0)
    return trainings * config.epochs * _steps_per_epoch(cell.base)


@functools.cache
def _steps_per_epoch(base: str) -> int:
    """The steps of an epoch: cells have the data and batch size of their config."""
    return synthetic.build(base).feed.steps_per_epoch


def work(config: ConfigDict) -> float:
    """Multiply-adds of a forward pass on a batch."""
    one = _multiply_adds(config.dataset.name, config.network.name, config.network.width)
    words = WORDS if get_dataset(config.dataset.name).is_text else 1
    return one * words * config.batch_size


@functools.cache
def _multiply_adds(dataset: str, name: str, width: float) -> float:
    """Multiply-adds per image, or per word of a text."""
    inputs, outputs = get_dataset(dataset).inputs, get_dataset(dataset).outputs
    network = build_network(name, num_classes=outputs, width=width)
    variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    return count_multiply_adds(jax.make_jaxpr(network.apply)(variables, *inputs).jaxpr)


def count_multiply_adds(program: Any) -> float:
    """Counts the multiply-adds of the convolutions and matrix products in a jaxpr.

    >>> import jax.numpy as jnp
    >>> product = jax.make_jaxpr(jnp.dot)(jnp.zeros((2, 3)), jnp.zeros((3, 5)))
    >>> count_multiply_adds(product.jaxpr)
    30.0
    """
    total = 0.0
    for equation in program.eqns:
        sizes = [np.prod(v.aval.shape) for v in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "conv_general_dilated":
            shape = equation.params["dimension_numbers"].rhs_spec
            outputs = equation.invars[1].aval.shape[shape[0]]
            total += sizes[-1] * sizes[1] / outputs
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += sizes[-1] * np.prod(inner)
        else:
            times = equation.params.get("length", 1)
            total += times * sum(map(count_multiply_adds, _inner(equation.params)))
    return float(total)


def _inner(params: dict[str, Any]) -> Iterable[Any]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            program = getattr(one, "jaxpr", one)
            if hasattr(program, "eqns"):
                yield program


def references(
    lines: Iterable[Line], device: str, precision: str = "float32"
) -> list[Reference]:
    """The ledger's timed steps on a device, in one precision."""
    found = []
    for line in lines:
        if (line["device"], ledger.precision(line)) == (device, precision):
            config = ConfigDict(unflatten_dict(full_config(line["config"]), sep="."))
            seconds = line["seconds"]["training"] / line["steps"] / line["together"]
            origin = f"the ledger's {line['cell']}"
            found.append(Reference(config.network.name, work(config), seconds, origin))
    return found


def timed_here(width: float, **fields: Any) -> Reference:
    """Times steps of Conv6 on this device, in about 15 seconds on two cores.

    Args:
      width: of the network.
      **fields: of the config, such as dtype.
    """
    fields |= {"network.width": width}
    run = synthetic.build("cifar_conv6", **fields)
    (shapes,) = run.feed.train_shapes()
    state = jax.jit(run.init_state)(run.root)
    step, batch = compile_steps(run, [state], shapes), synthetic.batch(shapes)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        (state,) = jax.block_until_ready(step((state,), (batch,), (run.root,), 1))
        seconds.append(time.perf_counter() - start)
    origin = f"a step of Conv6 at width {width:g} timed now ({min(seconds):.3f} s)"
    return Reference("conv6", work(run.config), min(seconds), origin)


def work_of(cell: Cell) -> float:
    """Multiply-adds of all forward passes of a run."""
    return steps(cell) * work(cell.config(seed=0))


def hours(cell: Cell, known: Sequence[Reference]) -> tuple[float, str]:
    """The estimated hours of a run, and the timed step that they are based on.

    Needs at least one timed step; of equally similar ones it takes the median.
    """
    config = cell.config(seed=0)
    wanted = work(config)

    def unlike(reference: Reference) -> tuple[bool, float]:
        ratio = math.log(reference.work / wanted)
        return reference.network != config.network.name, abs(ratio)

    least = min(map(unlike, known))
    nearest = [reference for reference in known if unlike(reference) == least]
    seconds = statistics.median(r.seconds * wanted / r.work for r in nearest)
    others = f" (median of {len(nearest)})" if len(nearest) > 1 else ""
    return steps(cell) * seconds / 3600, nearest[0].origin + others


def table(runs: Sequence[Run], known: Sequence[Reference]) -> str:
    """A table of cells, steps and estimated hours, the totals, and their basis."""
    lines = [f"{'cell':<52}{'seeds':>6}{'steps':>14}{'time':>12}"]
    total_steps, total_hours = 0, 0.0
    origins: dict[str, None] = {}  # in order
    for name, group in itertools.groupby(runs, key=lambda run: run.cell.name):
        of_cell = list(group)
        took, origin = hours(of_cell[0].cell, known)
        took, number = took * len(of_cell), steps(of_cell[0].cell) * len(of_cell)
        total_steps, total_hours = total_steps + number, total_hours + took
        origins[origin] = None
        lines.append(f"{name:<52}{len(of_cell):>6}{number:>14,}{hours_text(took):>12}")
    lines.append(
        f"{'total':<52}{len(runs):>6}{total_steps:>14,}{hours_text(total_hours):>12}"
    )
    lines.append(
        f"estimated on {provenance.device()}, in proportion to multiply-adds, from "
        + "; ".join(origins)
    )
    return "\n".join(lines)
