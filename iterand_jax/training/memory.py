"""The memory that a run needs per device, printed before its first step."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from iterand_jax.runtime.terminal import table
from iterand_jax.training.step import State

PyTree = Any
PARTS = ("trainable", "frozen", "opt_state", "batch_stats", "masks")


def report(
    states: Sequence[State],
    steps: Iterable[jax.stages.Compiled],
    evaluations: Iterable[jax.stages.Compiled] = (),
) -> str:
    """The size of the states by part and of the largest compiled programs, as a table.

    The estimates are XLA's, for the devices it compiled for: the memory of a train
    step, including state and data, and of an evaluation in addition to the states.

    Args:
      states: of all runs that train together.
      steps: the compiled train steps.
      evaluations: the compiled programs of evaluation.
    """
    sizes = {part: _bytes([getattr(s, part) for s in states]) for part in PARTS}
    parts = ", ".join(f"{name} {_shown(size)}" for name, size in sizes.items() if size)
    rows = {"state": f"{_shown(sum(sizes.values()))} per device: {parts}"}
    if largest := _largest(steps):
        rows |= {
            "arguments": f"{_shown(largest.argument_size_in_bytes)} (state and data)",
            "activations": f"{_shown(largest.temp_size_in_bytes)} and other values "
            "inside the step",
            "together": f"{_shown(peak(largest))} per device (the compiler's estimate)",
        }
    if largest := _largest(evaluations):
        whole = sum(sizes.values()) + peak(largest)
        rows["evaluation"] = f"{_shown(whole)} per device, the state included"
    return table(rows)


def check_fits(
    config: ConfigDict, states: Sequence[State], inputs: Sequence[jax.ShapeDtypeStruct]
) -> None:
    """Refuses what certainly does not fit, before anything is compiled or written.

    Activations and the data come in addition, so that what passes may still not fit.

    Args:
      config: resolved.
      states: of all runs that train together, as shapes.
      inputs: the arguments of the network for one example.

    Raises:
      ValueError: the states and a batch need more memory than a device has.
    """
    has = capacity()
    held = _bytes([getattr(state, part) for state in states for part in PARTS])
    batch = _bytes(inputs) * max(
        config.batch_size // config.accumulate_steps, config.eval_batch_size
    )
    needed = held + batch // jax.device_count()
    if has is not None and needed > has:
        raise ValueError(
            f"the states of {len(states)} runs need {_shown(held)} and a batch "
            f"{_shown(batch)}, more than the {_shown(has)} of a device; possible: a "
            "smaller network.width, replicas, batch_size or eval_batch_size"
        )


def capacity() -> int | None:
    """The bytes of memory of a device, None if they are not known.

    Devices of a CPU share its memory.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return pages // len(devices)
    return (devices[0].memory_stats() or {}).get("bytes_limit")


def _largest(programs: Iterable[jax.stages.Compiled]) -> Any:
    """The memory analysis with the highest peak, None if none is available."""
    analyses = [program.memory_analysis() for program in programs]
    return max((a for a in analyses if a is not None), key=peak, default=None)


def peak(analysis: Any) -> int:
    """The peak memory of a compiled program in bytes, from its memory analysis.

    On CPU the field peak_memory_in_bytes leaves out the temporaries.
    """
    outside = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    donated = analysis.alias_size_in_bytes
    return outside - donated + analysis.temp_size_in_bytes


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _shown(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
