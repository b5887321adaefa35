"""Evaluation of a state on a split that lies on the host."""

import functools

import jax
import numpy as np
from jax import Array

from iterand_jax.training import parallel
from iterand_jax.training.setup import Setup
from iterand_jax.training.step import Images, State, Totals, eval_step


def means(totals: Totals) -> tuple[float, float]:
    """(mean loss, accuracy in %) of totals."""
    loss, correct, examples = (float(x) for x in totals)
    return loss / examples, 100 * correct / examples


class Evaluator:
    """Evaluates states on splits of any size; every example counts exactly once."""

    def __init__(self, run: Setup):
        """Compiles the evaluation of a run, once for all its splits."""
        self._batch_size = run.config.eval_batch_size
        self._sharding = parallel.batch_sharded(run.mesh)
        replicated = parallel.replicated(run.mesh)
        step = jax.jit(
            functools.partial(eval_step, task=run.task),
            compiler_options=parallel.compiler_options(run.config.dtype),
        )
        params = jax.jit(run.task.method.params, out_shardings=replicated)
        state = _placed(run.abstract, replicated)
        self._params = params.lower(state.trainable, state.frozen).compile()
        images = np.zeros((self._batch_size, *run.source.image_shape), np.uint8)
        labels = np.zeros(self._batch_size, np.int32)
        batch, weights = self._batch(Images(images, labels), 0)
        self._step = step.lower(
            _placed(run.weights, replicated), state.batch_stats, batch, weights
        ).compile()

    def __call__(self, state: State, data: Images) -> tuple[float, float]:
        """(mean loss, accuracy in %) of a state on a split that lies on the host."""
        params = self._params(state.trainable, state.frozen)
        totals: list[Totals] = []
        for start in range(0, len(data.labels), self._batch_size):
            batch, weights = self._batch(data, start)
            totals.append(self._step(params, state.batch_stats, batch, weights))
        return means(jax.tree.map(lambda *t: np.sum(np.stack(t)), *totals))

    def _batch(self, data: Images, start: int) -> tuple[Images, Array]:
        """A batch padded with its last example, and weights that leave that out."""
        indices = np.arange(start, start + self._batch_size)
        weights = (indices < len(data.labels)).astype(np.float32)
        indices = np.minimum(indices, len(data.labels) - 1)
        batch = jax.tree.map(lambda x: x[indices], data)
        return jax.device_put((batch, weights), self._sharding)


def _placed(tree, sharding):
    """Shapes and dtypes with a sharding, to compile for."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree
    )
