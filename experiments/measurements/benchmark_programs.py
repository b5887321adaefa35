"""The programs that the benchmark times: steps, phases, masks, re-randomization.

Every function compiles programs and returns them by name, as calls without arguments
on arrays that are on the device.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.measurements import synthetic
from iterand_jax import Subnetwork, iterand, topk_masks
from iterand_jax.runtime.timing import Times
from iterand_jax.selection import select_blocked, select_each
from iterand_jax.training import parallel
from iterand_jax.training.programs import step_of
from iterand_jax.training.programs import steps as steps_of
from iterand_jax.training.run import DataRun
from iterand_jax.training.step import State, objective

PyTree = Any
Program = Callable[[], Any]
PHASES = ("augmentation", "masks", "forward", "update")  # and backward


def first_state(run: DataRun) -> State:
    """The state of a run before its first step."""
    init = jax.jit(run.init_state, out_shardings=parallel.replicated(run.mesh))
    return init(run.root)


def training(
    run: DataRun,
    state: State,
    arguments: PyTree,
    *,
    replicas: int = 1,
    options: Mapping[str, str] | None = None,
    most: int | None = None,
) -> tuple[Program, int]:
    """Whole steps, as many per call as the training loop dispatches; and that number.

    Each call continues training from copies of the state, one per replica, whose steps
    are counted separately.

    Args:
      run: whose steps.
      state: to begin from.
      arguments: of each step.
      replicas: that train in one program.
      options: of the compiler, beside those of the run.
      most: steps per call.
    """
    count = parallel.steps_per_dispatch()
    count = count if most is None else min(count, most)
    states = tuple(jax.tree.map(jnp.copy, state) for _ in range(replicas))
    each = (arguments,) * replicas, (run.root,) * replicas
    with jax.default_matmul_precision(run.config.matmul_precision):
        lowered = steps_of(run, looped=count > 1).lower(states, *each, count)
    steps = lowered.compile(compiler_options=dict(options or {}))

    def call():
        nonlocal states
        states = steps(states, *each, count)
        return states[-1].step

    return call, count * replicas


def under_vmap(
    run: DataRun,
    state: State,
    arguments: PyTree,
    replicas: int,
    *,
    most: int | None = None,
) -> tuple[Program, int]:
    """As `training`, of one step that is mapped over the replicas."""
    count = parallel.steps_per_dispatch()
    count = count if most is None else min(count, most)
    stacked = _stacked((arguments, run.root), replicas)
    states = _stacked(state, replicas)
    step = jax.vmap(step_of(run))

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=run.compiler_options)
    def several(states, arguments, roots):
        if count == 1:  # as in the trainer: a CPU's convolutions are slow in a loop
            return step(states, arguments, roots)
        return lax.fori_loop(0, count, lambda _, s: step(s, arguments, roots), states)

    with jax.default_matmul_precision(run.config.matmul_precision):
        compiled = several.lower(states, *stacked).compile()

    def call():
        nonlocal states
        states = compiled(states, *stacked)
        return states.step

    return call, count * replicas


def phases(run: DataRun, state: State, arguments: PyTree) -> dict[str, Program]:
    """The phases of a step as separate programs, and the refresh if there is one.

    Backward has no program: it is "forward and backward" minus "forward". "masks"
    computes thresholds, masks and effective weights, and the scores' gradient from
    that of the effective weights.
    """
    inputs, labels = jax.jit(run.feed.train_inputs)(arguments, state.step, run.root)
    params = jax.jit(run.method.params)(state.trainable, state.frozen, state.step)
    loss = functools.partial(_loss, run.network)
    network = (params, state.batch_stats, inputs, labels, run.root)
    found = {
        "augmentation": _compiled(
            run, run.feed.train_inputs, arguments, state.step, run.root
        ),
        "masks": _compiled(
            run,
            functools.partial(_there_and_back, run.method.params),
            state.trainable,
            state.frozen,
            state.step,
            params,
        ),
        "forward": _compiled(run, loss, *network),
        "forward and backward": _compiled(
            run, jax.value_and_grad(loss, has_aux=True), *network
        ),
        "update": _compiled(
            run,
            functools.partial(_update, run.optimizer),
            state.trainable,
            state.opt_state,
        ),
    }
    if run.method.refresh_every:
        refresh = parallel.compile_refresh(
            run.method, run.mesh, run.root, state, run.compiler_options
        )
        found["re-randomization"] = functools.partial(
            refresh, run.root, 300, state.trainable, state.frozen
        )
    return found


def pruning(
    params: PyTree, *, sparsity: float, both_ways: bool = True
) -> dict[str, Program]:
    """Masks, the re-randomization, and its floor: a copy of the bytes it must move.

    Args:
      params: the shapes of a network's parameters.
      sparsity: the fraction removed of each leaf.
      both_ways: whether to add a program for each of the two selection algorithms.
    """
    key, subnetwork = jax.random.key(0), Subnetwork(sparsity)
    scores, weights = jax.jit(subnetwork.init)(key, params)
    method = iterand(subnetwork, k_per=300, sampling_rate=0.1)
    found = {
        "masks": _jitted(subnetwork.masks, scores),
        "re-randomization": _jitted(method.refresh, key, 300, scores, weights),
        "floor": _jitted(_copy, scores, weights),
    }
    if both_ways:
        leaves = jax.tree.leaves(scores)
        sparsities = [sparsity] * len(leaves)
        for name, select in (("per leaf", select_each), ("blocked", select_blocked)):
            ranked = functools.partial(topk_masks, sparsities=sparsities, select=select)
            found[f"masks, {name}"] = _jitted(ranked, leaves)
    return found


def first_step(name: str, fields: Mapping[str, Any]) -> dict[str, float]:
    """Seconds to build and compile a run ("setup") and of its first call ("steps")."""
    start = time.perf_counter()
    run = synthetic.build(name, **fields)
    arguments = synthetic.batch(run.feed.train_shapes()[0])
    steps, _ = training(run, first_state(run), arguments)
    ready = time.perf_counter()
    jax.block_until_ready(steps())
    return {"setup": ready - start, "steps": time.perf_counter() - ready}


def plain(times: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    """Times by name as a record has them, to four digits."""
    return {
        name: {k: float(f"{v:.4g}") for k, v in t._asdict().items()}
        for name, t in times.items()
    }


def _stacked(tree: PyTree, copies: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * copies), tree)


def _loss(network, params, batch_stats, inputs, labels, root):
    logits, updated = network.apply(
        {"params": params, "batch_stats": batch_stats},
        *inputs,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": root},
    )
    losses, _ = objective(logits, labels)
    return jnp.mean(losses), updated


def _there_and_back(params_of, trainable, frozen, step, gradients):
    params, back = jax.vjp(lambda t: params_of(t, frozen, step), trainable)
    return params, back(gradients)


def _update(optimizer, trainable, opt_state):
    updates, opt_state = optimizer.update(trainable, opt_state, trainable)
    return jax.tree.map(jnp.add, trainable, updates), opt_state


def _copy(scores, weights):
    return jax.tree.map(lambda w, s: jnp.where(s > 0, w, -w), scores, weights)


def _compiled(run: DataRun, function: Callable, *arguments) -> Program:
    options = run.compiler_options
    return _jitted(function, *arguments, compiler_options=options)


def _jitted(function: Callable, *arguments, **options) -> Program:
    compiled = jax.jit(function, **options).lower(*arguments).compile()
    return functools.partial(compiled, *arguments)
