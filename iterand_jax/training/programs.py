"""The compiled programs of a run, shared by all runs that train together."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from iterand_jax.runtime import compilation
from iterand_jax.training import parallel
from iterand_jax.training.churn import mask_churn
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.numbers import pack
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
      numbers: states -> int32 (len(states), n), the rows `numbers.pack` gives.
      log: states -> (packed masks of each, such rows with the changed entries of each
        mask); the masks are those of the states where they do not change.
      copy: states -> copies of them, which no step donates.
      check: (state) -> None, which raises DifferingDevicesError; None for one device.
    """

    steps: Mapping[Any, jax.stages.Compiled]
    steps_per_dispatch: int
    evaluate: Evaluator
    refresh: Callable[[Array, int, PyTree, PyTree], tuple[PyTree, Array]] | None
    numbers: Callable[[tuple[State, ...]], Array]
    log: Callable[[tuple[State, ...]], tuple[PyTree, Array]]
    copy: Callable[[tuple[State, ...]], tuple[State, ...]]
    check: Callable[[State], None] | None


def compile_programs(run: DataRun, states: Sequence[State]) -> Programs:
    """Compiles the programs of runs like this one, for states on the devices."""
    limit = parallel.steps_per_dispatch(run.config.steps_per_dispatch)
    state, refresh = states[0], None
    if run.method.refresh_every:
        refresh = parallel.compile_refresh(run.method, run.mesh, run.root, state)
    numbers, log, copy = (
        _compile(run, states, function) for function in (_numbers, _log, _copy)
    )
    return Programs(
        steps={
            parallel.form(shapes): compile_steps(run, states, shapes, looped=limit > 1)
            for shapes in run.feed.train_shapes()
        },
        steps_per_dispatch=limit,
        evaluate=Evaluator(run),
        refresh=refresh,
        numbers=numbers,
        log=log,
        copy=copy,
        check=parallel.compile_check(run.mesh, state) if run.mesh.size > 1 else None,
    )


def _compile(
    run: DataRun, states: Sequence[State], function: Callable[..., Any]
) -> jax.stages.Compiled:
    """(run, states) -> arrays on every device, compiled for the states."""
    jitted = jax.jit(
        functools.partial(function, run), out_shardings=parallel.replicated(run.mesh)
    )
    return jitted.lower(tuple(states)).compile()


def _numbers(run: DataRun, states: tuple[State, ...]) -> Array:
    return jnp.stack([pack(state, run.schedule) for state in states])


def _log(run: DataRun, states: tuple[State, ...]) -> tuple[PyTree, Array]:
    masks, rows = [], []
    for state in states:
        after: PyTree = state.masks
        changed: PyTree = ()
        if run.has_churn:
            assert run.method.masks is not None
            now = run.method.masks(state.trainable, state.frozen, state.step)
            after, changed = mask_churn(state.masks, now)
        masks.append(after)
        rows.append(pack(state, run.schedule, changed))
    return masks, jnp.stack(rows)


def _copy(run: DataRun, states: tuple[State, ...]) -> tuple[State, ...]:
    del run
    return jax.tree.map(jnp.copy, states)


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
