"""The compiled programs of a run, shared by all runs that train together."""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from iterand_jax.runtime import hosts, modes
from iterand_jax.training import parallel
from iterand_jax.training.churn import mask_churn
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.numbers import pack
from iterand_jax.training.run import DataRun
from iterand_jax.training.startup import Startup
from iterand_jax.training.step import State, train_step

PyTree = Any


class Programs:
    """The compiled functions that the training loop calls.

    They compile in threads: a caller waits only for the program that it requests.

    Attributes:
      steps_per_dispatch: the maximum number of steps per call.
    """

    def __init__(self, made: Mapping[str, Future], steps_per_dispatch: int):
        """Takes what is being compiled, by the names below."""
        self._made = made
        self.steps_per_dispatch = steps_per_dispatch

    def wait(self) -> None:
        """Returns when all are compiled."""
        for future in self._made.values():
            future.result()

    def cancel(self) -> None:
        """Begins to compile nothing more: a process ends when its threads have."""
        for future in self._made.values():
            future.cancel()

    @property
    def steps(self) -> Mapping[Any, jax.stages.Compiled]:
        """The results of `compile_steps` by the shapes of a feed's arguments."""
        return self._made["step"].result()

    @property
    def evaluate(self) -> Evaluator:
        """(state, split) -> `Evaluation`."""
        return self._made["evaluation"].result()

    @property
    def refresh(self) -> Callable[[Array, int, PyTree, PyTree], tuple[PyTree, Array]]:
        """(root, step, trainable, frozen) -> (frozen, redrawn), of such a method."""
        return self._made["refresh"].result()

    @property
    def numbers(self) -> Callable[[tuple[State, ...]], Array]:
        """States -> int32 (len(states), n), the rows that `numbers.pack` gives."""
        return self._made["numbers"].result()

    @property
    def log(self) -> Callable[[tuple[State, ...]], tuple[PyTree, Array]]:
        """States -> (packed masks of each, rows with the changed entries of each mask).

        The masks are those of the states where they do not change.
        """
        return self._made["log"].result()

    @property
    def copy(self) -> Callable[[tuple[State, ...]], tuple[State, ...]]:
        """States -> copies of them, which no step donates."""
        return self._made["copy"].result()

    @property
    def check(self) -> Callable[[State], None] | None:
        """State -> None, which raises DifferingDevicesError; None for one device."""
        return self._made["check"].result() if "check" in self._made else None


def compile_programs(
    run: DataRun, states: Sequence[State], startup: Startup | None = None
) -> Programs:
    """Begins to compile the programs of runs like this one.

    Those come first that the first step needs. With several processes all are compiled
    when this returns.

    Args:
      run: any of the runs.
      states: theirs, or their shapes on the devices.
      startup: gets the seconds of each program.
    """
    startup = startup or Startup()
    limit = parallel.steps_per_dispatch(run.config.steps_per_dispatch)
    state = states[0]

    def steps() -> Mapping[Any, jax.stages.Compiled]:
        return {
            parallel.form(shapes): compile_steps(run, states, shapes, looped=limit > 1)
            for shapes in run.feed.train_shapes()
        }

    jobs: dict[str, Callable[[], Any]] = {"step": steps}
    if run.method.refresh_every:
        jobs["refresh"] = lambda: parallel.compile_refresh(
            run.method, run.mesh, run.root, state, run.compiler_options
        )
    for name, function in (("numbers", _numbers), ("log", _log), ("copy", _copy)):
        jobs[name] = functools.partial(_compile, run, states, function)
    jobs["evaluation"] = lambda: Evaluator(run)
    if run.mesh.size > 1:
        jobs["check"] = lambda: parallel.compile_check(run.mesh, state)
    # A core is left to the state and the data: on two cores, two threads of programs
    # made the first step later. Several processes must compile in one order.
    threads = max(1, hosts.cores() - 1) if hosts.are_alone() else 1
    pool = ThreadPoolExecutor(threads, "compilation")
    compiled = modes.fixed()(startup.program)  # each thread has modes of its own
    made = {
        name: pool.submit(compiled, f"program {name}", job)
        for name, job in jobs.items()
    }
    pool.shutdown(wait=False)
    programs = Programs(made, limit)
    if not hosts.are_alone():
        programs.wait()
    return programs


def _compile(
    run: DataRun, states: Sequence[State], function: Callable[..., Any]
) -> jax.stages.Compiled:
    """(run, states) -> arrays on every device, compiled for the states."""
    jitted = jax.jit(
        functools.partial(function, run),
        out_shardings=parallel.replicated(run.mesh),
        compiler_options=run.compiler_options,
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
    """`steps` of runs like this one, compiled.

    Args:
      run: any of the runs; they differ in their seeds.
      states: one for each run, which every call donates.
      shapes: the shapes of one run's arguments, one of the feed's `train_shapes`.
      looped: as in `steps`.
    """
    size = len(states)
    arguments = tuple(states), (shapes,) * size, (run.root,) * size, 1
    with jax.default_matmul_precision(run.config.matmul_precision):
        return steps(run, looped=looped).lower(*arguments).compile()


def steps(run: DataRun, *, looped: bool) -> jax.stages.Wrapped:
    """(states, arguments, roots, count) -> states, each `count` steps further.

    The runs that train together are unrolled in one program, one after another: under
    vmap their convolutions would become grouped ones, which are slower.

    Args:
      run: any of the runs.
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
        together, apart = scalars_together(states)
        return apart(
            lax.fori_loop(
                0, count, lambda _, s: together(advanced(apart(s))), together(states)
            )
        )

    return jax.jit(
        train,
        donate_argnums=0,
        out_shardings=parallel.replicated(run.mesh),
        compiler_options=run.compiler_options,
    )


def scalars_together(
    tree: PyTree,
) -> tuple[Callable[[PyTree], PyTree], Callable[[PyTree], PyTree]]:
    """(together, apart): trees like this one with their scalars stacked, and back.

    A scalar that a loop carries is a kernel of each step on a GPU, or two; a stack of
    all of a dtype is one and a copy: of Conv6 five kernels less in a step.

    >>> together, apart = scalars_together({"a": jnp.int32(1), "b": jnp.ones(3)})
    >>> jax.tree.map(jnp.shape, together({"a": jnp.int32(2), "b": jnp.ones(3)}))
    ([(1,)], [(3,)])
    >>> int(apart(together({"a": jnp.int32(2), "b": jnp.ones(3)}))["a"])
    2
    """
    leaves, treedef = jax.tree.flatten(tree)
    others = [i for i, leaf in enumerate(leaves) if jnp.ndim(leaf)]
    scalars: dict[Any, list[int]] = {}
    for i in sorted({*range(len(leaves))} - {*others}):
        scalars.setdefault(leaves[i].dtype, []).append(i)

    def together(tree):
        leaves = jax.tree.leaves(tree)
        stacks = [jnp.stack([leaves[i] for i in of]) for of in scalars.values()]
        return stacks, [leaves[i] for i in others]

    def apart(carried):
        stacks, whole = carried
        found = dict(zip(others, whole, strict=True))
        for of, stack in zip(scalars.values(), stacks, strict=True):
            found |= zip(of, stack, strict=True)
        return jax.tree.unflatten(treedef, [found[i] for i in range(len(leaves))])

    return together, apart
