"""Evaluation of a state on a split of its run's feed."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from iterand_jax.data.feeds import with_sharding
from iterand_jax.runtime import compilation, hosts
from iterand_jax.training import parallel
from iterand_jax.training.run import DataRun
from iterand_jax.training.step import State, Totals, eval_step


class Evaluation(NamedTuple):
    """The metrics of a state on a split.

    Attributes:
      loss: the mean loss.
      accuracy: in %.
      examples: the number evaluated: the split without undecodable images.
    """

    loss: float
    accuracy: float
    examples: int


def means(totals: Totals) -> tuple[float, float]:
    """(mean loss, accuracy in %) of totals."""
    loss, correct, examples = (float(x) for x in totals)
    return loss / examples, 100 * correct / examples


class Evaluator:
    """Evaluates states on splits of any size; every example counts exactly once."""

    def __init__(self, run: DataRun):
        """Compiles the evaluation of a run, once for all its splits."""
        self._feed = run.feed
        replicated = parallel.replicated(run.mesh)
        step = jax.jit(
            functools.partial(eval_step, task=run),
            compiler_options=compilation.compiler_options(run.config.dtype),
        )
        params = jax.jit(run.method.params, out_shardings=replicated)
        state = with_sharding(run.abstract, replicated)
        weights = jax.eval_shape(
            run.method.params, state.trainable, state.frozen, state.step
        )
        weights = with_sharding(weights, replicated)
        self._params = params.lower(state.trainable, state.frozen, state.step).compile()
        with jax.default_matmul_precision(run.config.matmul_precision):
            self._steps = {
                parallel.form(shapes): step.lower(
                    weights, state.batch_stats, shapes
                ).compile()
                for shapes in run.feed.eval_shapes()
            }

    def compiled(self) -> Iterable[jax.stages.Compiled]:
        """The programs that evaluate a batch."""
        return self._steps.values()

    def __call__(self, state: State, split: str) -> Evaluation:
        """Evaluates a state on "validation" or "test".

        Raises:
          ValueError: no example of the split could be read.
        """
        params = self._params(state.trainable, state.frozen, state.step)
        totals: list[Totals] = []
        for arguments in _known_to_all(self._feed.split(split)):
            step = self._steps[parallel.form(arguments)]
            totals.append(step(params, state.batch_stats, arguments))
            # Reading stays one batch ahead, so that a large split is not all in memory.
            jax.block_until_ready(totals[-2:-1])
        total = jax.tree.map(lambda *t: np.sum(np.stack(t)), *totals)
        if total.examples == 0:
            raise ValueError(f"no example of the {split} split can be read")
        return Evaluation(*means(total), int(total.examples))


def _known_to_all(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; if one process fails to make one, all processes stop."""
    while True:
        with hosts.together():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
