"""The folder of a run: its config, its result, and that nobody mixes two runs in it."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from iterand_jax.training import curves, provenance
from iterand_jax.training.config import differences, to_json
from iterand_jax.training.logs import table, write_atomically
from iterand_jax.training.loop import Outcome
from iterand_jax.training.setup import Setup


def finished_result(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The result that a run of this config left in a folder, None if there is none yet.

    Raises:
      ValueError: the folder holds a run of another config.
    """
    if not (workdir / "config.json").exists():
        return None
    differing = differences(read_json(workdir / "config.json"), config.to_dict())
    if differing:
        raise ValueError(
            f"the workdir {workdir} holds a run of another config (there / asked for): "
            f"{'; '.join(differing)}"
        )
    result = workdir / "result.json"
    return read_json(result) if result.exists() else None


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Makes the folder of a run and writes its config.

    Raises:
      ValueError: it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / "config.json", to_json(config))
    except OSError as error:
        raise ValueError(f"cannot write to the workdir {workdir}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a workdir.

    Raises:
      ValueError: there is none, or it does not parse.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def plan(run: Setup, workdir: Path) -> str:
    """What the run is about to do, as a table."""
    config = run.config
    total, kept = run.subnetwork.count(run.weights)
    network = f"{config.network.name}, width {config.network.width:g}"
    parameters = f"{total:,} parameters"
    if config.sparsity is not None:
        parameters += f", {kept:,} kept (sparsity {config.sparsity:g})"
    method = f"{config.method}, {config.distribution}"
    if config.k_per:
        method += f", K_per {config.k_per}, r {config.sampling_rate:g}"
    dataset = (
        f"{run.source.name}: {run.train_size:,} train, "
        f"{run.source.sizes['train'] - run.train_size:,} validation, "
        f"{run.source.sizes['test']:,} test"
    )
    if not is_official(run):
        dataset += " (stored as JPEG: not the official pixels)"
    return table(
        {
            "network": f"{network}: {parameters}",
            "method": method,
            "dataset": dataset,
            "steps": f"{run.total_steps:,} = {config.epochs} epochs of "
            f"{run.steps_per_epoch}, batch {config.batch_size}",
            "devices": provenance.device(),
            "workdir": str(workdir),
        }
    )


def is_official(run: Setup) -> bool:
    """Whether the images are the dataset's own, not a lossy copy."""
    return not (run.source.name == "cifar10" and run.source.encoding == "jpeg")


def write_result(run: Setup, outcome: Outcome, workdir: Path) -> dict[str, Any]:
    """Writes curves.png and result.json, in this order; returns the result."""
    config, record = run.config, outcome.record
    total, kept = run.subnetwork.count(run.weights)
    if config.sparsity is not None:
        mask_tree = run.subnetwork.masks(outcome.state.trainable)
        total, kept = _count(outcome.state.frozen, mask_tree)
    seconds = {phase: round(time, 3) for phase, time in record.seconds.items()}
    images = run.total_steps * config.batch_size
    result = {
        "method": config.method,
        "network": config.network.name,
        "width": config.network.width,
        "dataset": run.source.name,
        "dataset_fingerprint": run.source.fingerprint,
        "dataset_official": is_official(run),
        "distribution": config.distribution,
        "sparsity": config.sparsity,
        "sparsity_achieved": 1 - kept / total,
        "parameters": total,
        "parameters_kept": kept,
        "redrawn": record.redrawn,
        "seed": config.seed,
        "steps": run.total_steps,
        "epochs": config.epochs,
        "test_accuracy": outcome.test_accuracy,
        "test_loss": outcome.test_loss,
        "validation_accuracy_best": max(record.validation_accuracy),
        "validation_accuracy_last": record.validation_accuracy[-1],
        "seconds": seconds,
        "images_per_second": round(images / record.seconds["training"], 1),
        "state_sha256": outcome.state_sha256,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "device": provenance.device(),
    }
    curves.draw(workdir, result, k_per=config.k_per)
    write_atomically(workdir / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def summary(result: dict[str, Any], workdir: Path) -> str:
    """A finished run in a short table."""
    seconds = result["seconds"]
    shown = ("compilation", "training", "re-randomization", "evaluation")
    times = ", ".join(f"{p} {seconds[p]:.1f} s" for p in shown if p in seconds)
    kept = result["parameters_kept"]
    rows = {
        "test accuracy": f"{result['test_accuracy']:.2f} %",
        "validation": f"{result['validation_accuracy_last']:.2f} % at the end, "
        f"{result['validation_accuracy_best']:.2f} % at best",
        "kept": f"{kept:,} of {result['parameters']:,} weights",
        "redrawn": f"{result['redrawn']:,} times a weight was drawn anew",
        "time": f"{times}; {result['images_per_second']:,.0f} images/s",
        "written": f"{workdir}/ (result.json, curves.png, metrics.jsonl, tensorboard/, "
        f"checkpoints/, config.json)",
    }
    if result["method"] != "iterand":
        del rows["redrawn"]
    if result["method"] == "sgd":
        rows["kept"] = f"all {kept:,} weights, trained"
    return table(rows)


def _count(weights, mask_tree) -> tuple[int, int]:
    """(parameters in all, parameters kept), ties included."""
    total = sum(leaf.size for leaf in jax.tree.leaves(weights))
    masked = jax.tree.leaves(mask_tree)
    pruned = sum(m.size - int(np.count_nonzero(np.asarray(m))) for m in masked)
    return total, total - pruned
