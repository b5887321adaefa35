"""The folder of a run: its config, its result, and that nobody mixes two runs in it.

Of several processes that train together the first alone reads and writes it.
"""

import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from iterand_jax.runtime import hosts
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.locks import alone_or_refused
from iterand_jax.runtime.terminal import table
from iterand_jax.training import curves, provenance
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.config import IMP, differences, replicas_of, to_json
from iterand_jax.training.replica import Outcome
from iterand_jax.training.setup import Model, Setup, build_model
from iterand_jax.training.step import State


def finished_result(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The result that a run of this config left in a folder, None if there is none yet.

    Raises:
      ValueError: the folder holds a run of another config.
    """

    def read() -> dict[str, Any] | None:
        if not (workdir / "config.json").exists():
            return None
        differing = differences(_parsed(workdir / "config.json"), config.to_dict())
        if differing:
            raise ValueError(
                f"the workdir {workdir} holds a run of another config (there / asked "
                f"for): {'; '.join(differing)}"
            )
        result = workdir / "result.json"
        return _parsed(result) if result.exists() else None

    return hosts.from_first(read)


def members(workdir: Path, config: ConfigDict) -> dict[Path, ConfigDict]:
    """The folder and config of each run that a resolved config trains.

    A single run has the workdir itself, and replicas have folders in it, which are
    workdirs of single runs.
    """
    if config.replicas == 1:
        return {workdir: config}
    return {workdir / f"seed_{own.seed}": own for own in replicas_of(config)}


@contextlib.contextmanager
def claimed(workdirs: Mapping[Path, ConfigDict]) -> Iterator[None]:
    """Makes folders of runs, writes their configs, and keeps other processes out.

    Raises:
      ValueError: one cannot be written, or another process trains in it.
    """
    with contextlib.ExitStack() as locks:

        def claim() -> None:
            for workdir, config in workdirs.items():
                refusal = f"another process trains in the workdir {workdir}"
                try:
                    workdir.mkdir(parents=True, exist_ok=True)
                    lock = alone_or_refused(workdir / "lock", refusal=refusal)
                    locks.enter_context(lock)
                    write_atomically(workdir / "config.json", to_json(config))
                except OSError as error:
                    raise ValueError(
                        f"cannot write to the workdir {workdir}: {error}"
                    ) from error

        hosts.from_first(claim)
        yield


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a workdir.

    Raises:
      ValueError: there is none, or it does not parse.
    """
    return hosts.from_first(lambda: _parsed(path))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


class Restored(NamedTuple):
    """A run as its workdir holds it.

    Attributes:
      model: what its config determines without data.
      state: at its last checkpoint, as NumPy arrays.
      record: the host's own numbers, as in `replica.Record`.
    """

    model: Model
    state: State
    record: dict[str, Any]


def restore(workdir: Path, step: int | None = None) -> Restored:
    """Reads the config and a checkpoint of a run; needs no data.

    Args:
      workdir: the folder of the run.
      step: which checkpoint; None for the newest whole one.

    Raises:
      ValueError: there is no run, no such checkpoint, or none that is whole.
    """
    config = ConfigDict(read_json(workdir / "config.json"))
    if config.method == IMP:
        raise ValueError(
            f"{workdir} holds the runs of {config.method}: its runs are in the folders "
            f"stage_0 to stage_{config.retrainings}"
        )
    model = build_model(config)
    folder = workdir / "checkpoints"
    restored = None
    if hosts.from_first(folder.is_dir):
        checkpoints = Checkpoints(
            folder, keep=model.config.keep_checkpoints, only_read=True
        )
        with contextlib.closing(checkpoints):
            if step is None:
                restored = checkpoints.restore(model.abstract)
            else:
                restored = checkpoints.restore_step(step, model.abstract)
    if restored is None:
        own = ", ".join(str(f) for f in members(workdir, model.config) if f != workdir)
        raise ValueError(
            f"{workdir} holds no checkpoint" + (own and f"; its runs are in {own}")
        )
    return Restored(model, *restored)


def plan(runs: Sequence[Setup], workdir: Path) -> str:
    """What runs that differ in their seeds are about to do, as a table."""
    run, seeds = runs[0], [run.config.seed for run in runs]
    config = run.config
    total, kept = run.model.subnetwork.count(run.model.weights)
    network = f"{config.network.name}, width {config.network.width:g}"
    parameters = f"{total:,} parameters"
    if config.sparsity is not None:
        parameters += f", {kept:,} kept (sparsity {config.sparsity:g})"
    method = f"{config.method}, {config.distribution}"
    if config.k_per:
        method += f", K_per {config.k_per}, r {config.sampling_rate:g}"
    dataset = (
        f"{run.source.name}: {run.feed.sizes['train']:,} train, "
        f"{run.feed.sizes['validation']:,} validation, "
        f"{run.feed.sizes['test']:,} test"
    )
    if run.source.deviation is not None:
        dataset += f" ({run.source.deviation})"
    return table(
        {
            "network": f"{network}: {parameters}",
            "method": method,
            "dataset": dataset,
            "steps": f"{run.total_steps:,} = {config.epochs} epochs of "
            f"{run.feed.steps_per_epoch}, batch {config.batch_size}",
            "seed": f"{seeds[0]}"
            if len(seeds) == 1
            else f"{', '.join(map(str, seeds))}, in one program",
            "devices": provenance.device(),
            "workdir": str(workdir),
        }
    )


def write_result(run: Setup, outcome: Outcome, workdir: Path) -> dict[str, Any]:
    """Writes curves.png and result.json, in this order; returns the result."""
    config, record = run.config, outcome.record
    total, kept = run.model.subnetwork.count(run.model.weights)
    mask_tree = run.model.masks(outcome.state)
    if mask_tree is not None:
        total, kept = _count(run.model.weights, mask_tree)
    seconds = {phase: round(time, 3) for phase, time in record.seconds.items()}
    examples = run.total_steps * config.batch_size
    result = {
        "method": config.method,
        "network": config.network.name,
        "width": config.network.width,
        "dataset": run.source.name,
        "dataset_fingerprint": run.source.fingerprint,
        "dataset_official": run.source.deviation is None,
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
        "test_examples": outcome.test_examples,
        "validation_accuracy_best": max(record.validation_accuracy),
        "validation_accuracy_last": record.validation_accuracy[-1],
        "seconds": seconds,
        "examples_per_second": round(examples / record.seconds["training"], 1),
        "state_sha256": outcome.state_sha256,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "device": provenance.device(),
    }

    def write() -> dict[str, Any]:
        curves.draw(workdir, result, k_per=config.k_per)
        write_atomically(workdir / "result.json", json.dumps(result, indent=2) + "\n")
        return result

    return hosts.from_first(write)


def write_summary_of(
    members: Mapping[Path, ConfigDict], workdir: Path
) -> dict[str, Any]:
    """Writes the result.json of finished replicas: their mean, deviation and results.

    The deviation is that of a sample (n - 1), in points of accuracy.
    """
    results = {folder.name: read_json(folder / "result.json") for folder in members}
    accuracies = [result["test_accuracy"] for result in results.values()]
    result = {
        "test_accuracy_mean": statistics.mean(accuracies),
        "test_accuracy_deviation": statistics.stdev(accuracies),
        "replicas": results,
    }
    text = json.dumps(result, indent=2) + "\n"
    hosts.from_first(lambda: write_atomically(workdir / "result.json", text))
    return result


def write_stages(
    config: ConfigDict, results: Sequence[dict[str, Any]], workdir: Path
) -> dict[str, Any]:
    """Writes the result.json of all stages of iterative magnitude pruning.

    It is the last stage's, with the steps and seconds of all and, as "stages", what
    each has kept and reached.
    """
    seconds: dict[str, float] = {}
    for own in results:
        for phase, time in own["seconds"].items():
            seconds[phase] = round(seconds.get(phase, 0.0) + time, 3)
    told = ("sparsity_achieved", "parameters_kept", "test_accuracy", "state_sha256")
    result = results[-1] | {
        "method": config.method,
        "steps": sum(own["steps"] for own in results),
        "epochs": sum(own["epochs"] for own in results),
        "seconds": seconds,
        "stages": [{name: own[name] for name in told} for own in results],
    }
    text = json.dumps(result, indent=2) + "\n"
    hosts.from_first(lambda: write_atomically(workdir / "result.json", text))
    return result


def summary(result: dict[str, Any], workdir: Path) -> str:
    """A finished run, or finished replicas, in a short table."""
    if "replicas" in result:
        return _summary_of_replicas(result, workdir)
    seconds = result["seconds"]
    shown = ("first step", "compilation", "training", "re-randomization", "evaluation")
    times = ", ".join(f"{p} {seconds[p]:.1f} s" for p in shown if p in seconds)
    kept = result["parameters_kept"]
    rows = {
        "test accuracy": f"{result['test_accuracy']:.2f} %",
        "validation": f"{result['validation_accuracy_last']:.2f} % at the end, "
        f"{result['validation_accuracy_best']:.2f} % at best",
        "kept": f"{kept:,} of {result['parameters']:,} weights",
        "redrawn": f"{result['redrawn']:,} times a weight was drawn anew",
        "time": f"{times}; {result['examples_per_second']:,.0f} examples/s",
        "written": f"{workdir}/ (result.json, curves.png, metrics.jsonl, tensorboard/, "
        f"checkpoints/, config.json)",
    }
    if result["method"] != "iterand":
        del rows["redrawn"]
    if result["method"] == "sgd":
        rows["kept"] = f"all {kept:,} weights, trained"
    if "stages" in result:
        rows["stages"] = ", ".join(
            f"{own['test_accuracy']:.2f} % at sparsity {own['sparsity_achieved']:.3f}"
            for own in result["stages"]
        )
        rows["written"] = f"{workdir}/ (result.json, and a folder for each stage)"
    return table(rows)


def _summary_of_replicas(result: dict[str, Any], workdir: Path) -> str:
    rows = {
        name: f"{own['test_accuracy']:.2f} % test accuracy, "
        f"{own['validation_accuracy_last']:.2f} % validation"
        for name, own in result["replicas"].items()
    }
    rows["test accuracy"] = (
        f"{result['test_accuracy_mean']:.2f} % in the mean, deviation "
        f"{result['test_accuracy_deviation']:.2f}"
    )
    rows["written"] = (
        f"{workdir}/ (result.json, and a folder for each seed as a single run has it)"
    )
    return table(rows)


def _count(weights, mask_tree) -> tuple[int, int]:
    """(parameters in all, parameters kept), ties included."""
    total = sum(leaf.size for leaf in jax.tree.leaves(weights))
    masked = jax.tree.leaves(mask_tree)
    pruned = sum(m.size - int(np.count_nonzero(np.asarray(m))) for m in masked)
    return total, total - pruned
