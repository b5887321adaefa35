"""The compiled programs of a run, shared by all runs that train together."""

import functools
import threading
import time
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

    They compile in threads: a caller waits only for the program that it requests. Those
    that the first step does not need are begun by `begin_others`, or by a request.

    Attributes:
      steps_per_dispatch: the maximum number of steps per call.
      waited: called with the seconds of each wait of this kind.
    """

    def __init__(
        self,
        made: dict[str, Future],
        steps_per_dispatch: int,
        others: Callable[[], Mapping[str, Future]] | None = None,
    ):
        """Takes what is being compiled, by the names below, and how others begin."""
        self._made = made
        self._others, self._lock = others, threading.Lock()
        self.steps_per_dispatch = steps_per_dispatch
        self.waited: Callable[[float], Any] = lambda seconds: None

    @property
    def runs_ahead(self) -> bool:
        """Whether devices are given steps before they have done those before."""
        return self.steps_per_dispatch > 1

    def begin_others(self) -> None:
        """Begins to compile what the first step does not need, unless it has begun."""
        with self._lock:
            begin, self._others = self._others, None
            if begin is not None:
                self._made |= begin()

    def wait(self) -> None:
        """Returns when all are compiled."""
        self.begin_others()
        for future in self._made.values():
            future.result()

    def cancel(self) -> None:
        """Begins to compile nothing more: a process ends when its threads have."""
        with self._lock:
            self._others = None
        for future in self._made.values():
            future.cancel()

    def _get(self, name: str) -> Any:
        """A program once it is compiled."""
        if name not in self._made:
            self.begin_others()
        future = self._made[name]
        if future.done():
            return future.result()
        begun = time.perf_counter()
        program = future.result()
        self.waited(time.perf_counter() - begun)
        return program

    @property
    def steps(self) -> Mapping[Any, jax.stages.Compiled]:
        """The results of `compile_steps` by the shapes of a feed's arguments."""
        return self._get("step")

    @property
    def evaluate(self) -> Evaluator:
        """(state, split) -> `Evaluation`."""
        return self._get("evaluation")

    @property
    def refresh(self) -> Callable[[Array, int, PyTree, PyTree], tuple[PyTree, Array]]:
        """(root, step, trainable, frozen) -> (frozen, redrawn), of such a method."""
        return self._get("refresh")

    @property
    def numbers(self) -> Callable[[tuple[State, ...]], Array]:
        """States -> int32 (len(states), n), the rows that `numbers.pack` gives."""
        return self._get("numbers")

    @property
    def log(self) -> Callable[[tuple[State, ...]], tuple[PyTree, Array]]:
        """States -> (packed masks of each, rows with the changed entries of each mask).

        The masks are those of the states where they do not change.
        """
        return self._get("log")

    @property
    def copy(self) -> Callable[[tuple[State, ...]], tuple[State, ...]]:
        """States -> copies of them, which no step donates."""
        return self._get("copy")

    @property
    def check(self) -> Callable[[State], None] | None:
        """State -> None, which raises DifferingDevicesError; None for one device."""
        self.begin_others()
        return self._get("check") if "check" in self._made else None


def compile_programs(
    run: DataRun, states: Sequence[State], startup: Startup | None = None
) -> Programs:
    """Begins to compile the programs of runs like this one.

    The step's comes first, and the others when the first step needs nothing more of the
    cores: with one thread for programs from `begin_others` on, with more once the
    step's is traced, as XLA then works beside Python. With several processes all are
    compiled when this returns.

    Args:
      run: any of the runs.
      states: theirs, or their shapes on the devices.
      startup: gets the seconds of each program.
    """
    startup = startup or Startup()
    limit = parallel.steps_per_dispatch(run.config.steps_per_dispatch)
    state = states[0]

    # A core is left to the state and the data: on two cores, two threads of programs
    # made the first step later. Several processes must compile in one order.
    threads = max(1, hosts.cores() - 1) if hosts.are_alone() else 1

    def steps() -> Mapping[Any, jax.stages.Compiled]:
        made, (*shapes, last) = {}, run.feed.train_shapes()
        for each in shapes:
            made[parallel.form(each)] = compile_steps(
                run, states, each, looped=limit > 1
            )
        begin = programs.begin_others if threads > 1 else None
        made[parallel.form(last)] = compile_steps(
            run, states, last, looped=limit > 1, traced=begin
        )
        return made

    # In the order in which they are needed.
    jobs: dict[str, Callable[[], Any]] = {
        "numbers": functools.partial(_compile, run, states, _numbers),
        "log": functools.partial(_compile, run, states, _log),
    }
    if run.method.refresh_every:
        jobs["refresh"] = lambda: parallel.compile_refresh(
            run.method, run.mesh, run.root, state, run.compiler_options
        )
    jobs["evaluation"] = lambda: Evaluator(run)
    jobs["copy"] = functools.partial(_compile, run, states, _copy)
    if run.mesh.size > 1:
        jobs["check"] = lambda: parallel.compile_check(run.mesh, state)
    pool = ThreadPoolExecutor(threads, "compilation")
    compiled = modes.fixed()(startup.program)  # each thread has modes of its own

    def begin(jobs: Mapping[str, Callable[[], Any]]) -> Mapping[str, Future]:
        return {
            name: pool.submit(compiled, f"program {name}", job)
            for name, job in jobs.items()
        }

    def begin_others() -> Mapping[str, Future]:
        others = begin(jobs)
        pool.shutdown(wait=False)
        return others

    made: dict[str, Future] = {}
    programs = Programs(made, limit, begin_others)
    made |= begin({"step": steps})
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
    run: DataRun,
    states: Sequence[State],
    shapes: PyTree,
    *,
    looped: bool = False,
    traced: Callable[[], None] | None = None,
) -> jax.stages.Compiled:
    """`steps` of runs like this one, compiled.

    Args:
      run: any of the runs; they differ in their seeds.
      states: one for each run, which every call donates.
      shapes: the shapes of one run's arguments, one of the feed's `train_shapes`.
      looped: as in `steps`.
      traced: called when only XLA's work is left.
    """
    size = len(states)
    arguments = tuple(states), (shapes,) * size, (run.root,) * size, 1
    with jax.default_matmul_precision(run.config.matmul_precision):
        lowered = steps(run, looped=looped).lower(*arguments)
        if traced is not None:
            traced()
        return lowered.compile()


def step_of(run: DataRun) -> Callable[[State, PyTree, Array], State]:
    """(state, arguments, root) -> the state after a step of runs like this one."""
    return functools.partial(
        train_step,
        task=run,
        steps_per_epoch=run.feed.steps_per_epoch,
        log_every=run.config.log_every_steps,
        accumulate_steps=run.config.accumulate_steps,
    )


def steps(run: DataRun, *, looped: bool) -> jax.stages.Wrapped:
    """(states, arguments, roots, count) -> states, each `count` steps further.

    The runs that train together are unrolled in one program, one after another: under
    vmap their convolutions would become grouped ones, which are slower.

    Args:
      run: any of the runs.
      looped: whether count may be more than 1, with the same arguments for all these
        steps. On CPU the gradient of a convolution is 30 times slower in a loop.
    """
    step = step_of(run)

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
