"""Evaluation of a state on a split of its run's feed."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax

from iterand_jax.data.feeds import with_sharding
from iterand_jax.runtime import hosts
from iterand_jax.training import parallel
from iterand_jax.training.run import DataRun
from iterand_jax.training.step import State, Totals, eval_step

PyTree = Any


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
    """Evaluates states on splits of any size; every example counts exactly once.

    On accelerators, many batches that are on the devices are one dispatch. On CPU a
    convolution in a loop is slow, and every batch is dispatched separately.
    """

    def __init__(self, run: DataRun):
        """Compiles the evaluation of a run, once for all its splits."""
        self._feed = run.feed
        replicated = parallel.replicated(run.mesh)
        options = run.compiler_options
        jit = functools.partial(jax.jit, compiler_options=options)
        step = functools.partial(eval_step, task=run)
        state = with_sharding(run.abstract, replicated)
        trees = state.trainable, state.frozen, state.step
        looped = parallel.steps_per_dispatch(run.config.steps_per_dispatch) > 1
        stacked = run.feed.stack_shapes() if looped else None
        self._stacked, self._steps = stacked is not None, {}
        with jax.default_matmul_precision(run.config.matmul_precision):
            if stacked is not None:
                whole = jit(functools.partial(_whole, run.method.params, step))
                shapes = *trees, state.batch_stats, stacked
                self._whole = whole.lower(*shapes).compile()
                return
            params = jit(run.method.params, out_shardings=replicated)
            weights = with_sharding(jax.eval_shape(params, *trees), replicated)
            self._params = params.lower(*trees).compile()
            for shapes in run.feed.eval_shapes():
                lowered = jit(step).lower(weights, state.batch_stats, shapes)
                self._steps[parallel.form(shapes)] = lowered.compile()

    def compiled(self) -> Iterable[jax.stages.Compiled]:
        """The programs that evaluate one batch or many."""
        return [self._whole] if self._stacked else self._steps.values()

    def __call__(self, state: State, split: str) -> Evaluation:
        """Evaluates a state on "validation" or "test".

        Raises:
          ValueError: no example of the split could be read.
        """
        of_batches = self._by_stack if self._stacked else self._by_batch
        totals = [jax.tree.map(np.atleast_1d, t) for t in of_batches(state, split)]
        total = jax.tree.map(lambda *t: np.sum(np.concatenate(t)), *totals)
        if total.examples == 0:
            raise ValueError(f"no example of the {split} split can be read")
        return Evaluation(*means(total), int(total.examples))

    def _by_stack(self, state: State, split: str) -> list[Totals]:
        trees = state.trainable, state.frozen, state.step, state.batch_stats
        stacks = _known_to_all(self._feed.stacks(split))
        return jax.device_get([self._whole(*trees, stack) for stack in stacks])

    def _by_batch(self, state: State, split: str) -> list[Totals]:
        params = self._params(state.trainable, state.frozen, state.step)
        totals: list[Totals] = []
        for arguments in _known_to_all(self._feed.split(split)):
            step = self._steps[parallel.form(arguments)]
            totals.append(step(params, state.batch_stats, arguments))
            # Reading stays one batch ahead, so that a large split is not all in memory.
            jax.block_until_ready(totals[-2:-1])
        return totals


def _whole(
    params_of: Callable[..., PyTree],
    step: Callable[[PyTree, PyTree, PyTree], Totals],
    trainable: PyTree,
    frozen: PyTree,
    number: Array,
    batch_stats: PyTree,
    stack: PyTree,
) -> Totals:
    """Totals by batch of a stack of batches."""
    params = params_of(trainable, frozen, number)
    return lax.map(lambda batch: step(params, batch_stats, batch), stack)


def _known_to_all(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; if one process fails to make one, all processes stop."""
    while True:
        with hosts.together():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
