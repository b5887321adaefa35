"""The compiled programs of a run, shared by all runs that train together."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array, lax

from iterand_jax.runtime import compilation
from iterand_jax.training import parallel
from iterand_jax.training.churn import mask_churn
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.run import DataRun
from iterand_jax.training.step import State, train_step

PyTree = Any


class Programs(NamedTuple):
    """The compiled functions that the training loop calls.

    Attributes:
      steps: the results of `compile_steps` by the shapes of a feed's arguments.
      steps_per_dispatch: the maximum number of steps per call.
      evaluate: (state, split) -> `Evaluation`.
      refresh: (root, step, trainable, frozen) -> (frozen, redrawn); None without one.
      churn: state -> (packed masks, changed entries of each); None for masks that do
        not change.
      check: (state) -> None, which raises DifferingDevicesError; None for one device.
    """

    steps: Mapping[Any, jax.stages.Compiled]
    steps_per_dispatch: int
    evaluate: Evaluator
    refresh: Callable[[Array, int, PyTree, PyTree], tuple[PyTree, Array]] | None
    churn: Callable[[State], tuple[PyTree, PyTree]] | None
    check: Callable[[State], None] | None


def compile_programs(run: DataRun, states: Sequence[State]) -> Programs:
    """Compiles the programs of runs like this one, for states on the devices."""
    limit = run.config.steps_per_dispatch or parallel.steps_per_dispatch()
    state, refresh, churn = states[0], None, None
    if run.method.refresh_every:
        refresh = parallel.compile_refresh(run.method, run.mesh, run.root, state)
    if state.masks:
        churn = _compile_churn(run, state)
    return Programs(
        steps={
            parallel.form(shapes): compile_steps(run, states, shapes, looped=limit > 1)
            for shapes in run.feed.train_shapes()
        },
        steps_per_dispatch=limit,
        evaluate=Evaluator(run),
        refresh=refresh,
        churn=churn,
        check=parallel.compile_check(run.mesh, state) if run.mesh.size > 1 else None,
    )


def _compile_churn(
    run: DataRun, state: State
) -> Callable[[State], tuple[PyTree, PyTree]]:
    masks = run.method.masks
    assert masks is not None

    def churn(before, trainable, frozen, step):
        return mask_churn(before, masks(trainable, frozen, step))

    def arguments(state):
        return state.masks, state.trainable, state.frozen, state.step

    jitted = jax.jit(churn, out_shardings=parallel.replicated(run.mesh))
    compiled = jitted.lower(*arguments(state)).compile()
    return lambda state: compiled(*arguments(state))


def compile_steps(
    run: DataRun, states: Sequence[State], shapes: PyTree, *, looped: bool = False
) -> jax.stages.Compiled:
    """(states, arguments, roots, count) -> states, each `count` steps further.

    The runs that train together are unrolled in one program, one after another: under
    vmap their convolutions would become grouped ones, which are slower.

    Args:
      run: any of the runs; they differ in their seeds.
      states: one for each run, which every call donates.
      shapes: the shapes of one run's arguments, one of the feed's `train_shapes`.
      looped: whether count may be more than 1, with the same arguments for all these
        steps. On CPU the gradient of a convolution is 30 times slower in a loop.
    """
    step = functools.partial(
        train_step,
        task=run,
        steps_per_epoch=run.feed.steps_per_epoch,
        log_every=run.config.log_every_steps,
        accumulate_steps=run.config.accumulate_steps,
    )

    def train(states, arguments, roots, count):
        def advanced(states):
            return tuple(map(step, states, arguments, roots))

        if not looped:
            return advanced(states)
        return lax.fori_loop(0, count, lambda _, s: advanced(s), states)

    jitted = jax.jit(
        train,
        donate_argnums=0,
        out_shardings=parallel.replicated(run.mesh),
        compiler_options=compilation.compiler_options(run.config.dtype),
    )
    size = len(states)
    roots = (run.root,) * size
    with jax.default_matmul_precision(run.config.matmul_precision):
        return jitted.lower(tuple(states), (shapes,) * size, roots, 1).compile()
