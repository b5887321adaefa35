"""The benchmark's peer: the same steps in PyTorch, on CPU with as many threads."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from iterand_jax.runtime.hosts import cores
from iterand_jax.training.run import DataRun
from iterand_jax.training.step import State
from iterand_jax.trees import path_string

# Otherwise PyTorch's threads spin on XLA's cores for a while after each call.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from experiments.measurements import peer

NETWORKS = {"conv6": peer.conv6, "resnet18": peer.resnet18}
CALLS = 10  # steps between two waits for an accelerator


def programs(
    run: DataRun, state: State, arguments: Any
) -> dict[str, Callable[[], Any]]:
    """IteRand's step from the state of a run, its masks and its resampling.

    The batch is augmented beforehand, so only our step includes that cost.
    """
    torch.set_num_threads(cores())
    config = run.config
    network = peer.Peer(
        NETWORKS[config.network.name],
        by_path(state.frozen),
        by_path(state.trainable),
        by_path(state.batch_stats),
        sparsity=config.sparsity,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    inputs, labels = jax.jit(run.feed.train_inputs)(arguments, state.step, run.root)
    batch = tuple(peer.channels_first(np.array(x)) for x in inputs)
    answers = torch.tensor(np.array(labels)).long()
    return {
        "step": lambda: network.train(batch, answers).detach(),
        "masks": network.masks,
        "re-randomization": lambda: network.rerandomize(config.sampling_rate),
    }


def on_accelerator(
    run: DataRun, state: State, arguments: Any
) -> dict[str, Callable[[], Any]]:
    """`CALLS` steps of the peer in bfloat16, by IteRand and SGD, eager and compiled.

    Networks have channels last and the step's optimizer is fused, as on a GPU; without
    one they run on the CPU. Each call waits for its last result.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = run.config
    inputs, labels = jax.jit(run.feed.train_inputs)(arguments, state.step, run.root)
    found: dict[str, Callable[[], Any]] = {}
    with torch.device(device):
        batch = tuple(
            peer.channels_first(np.array(x.astype("float32")))
            .to(device)
            .to(memory_format=torch.channels_last)
            for x in inputs
        )
        answers = torch.tensor(np.array(labels)).long()
        for method, scores in (("iterand", by_path(state.trainable)), ("sgd", None)):
            network = peer.Peer(
                NETWORKS[config.network.name],
                by_path(state.frozen),
                scores,
                by_path(state.batch_stats),
                sparsity=config.sparsity,
                learning_rate=config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            )
            network.optimizer.param_groups[0]["fused"] = True
            logits = network.logits
            found[f"{method}, eager"] = _steps(network, logits, batch, answers, device)
            found[f"{method}, compiled"] = _steps(
                network, torch.compile(logits), batch, answers, device
            )
    return found


def _steps(
    network: peer.Peer, logits: Any, batch: Any, answers: Any, device: str
) -> Callable[[], Any]:
    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            found = logits(batch, train=True)
            loss = torch.nn.functional.cross_entropy(found, answers)
        network.optimizer.zero_grad()
        loss.backward()
        network.optimizer.step()

    def call() -> None:
        for _ in range(CALLS):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def by_path(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by path, on the host."""
    leaves = jax.tree.leaves_with_path(tree)
    return {path_string(path): np.asarray(leaf) for path, leaf in leaves}


def version() -> str:
    """PyTorch's version."""
    return torch.__version__
