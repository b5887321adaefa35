"""result.json: the results of a finished run."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from iterand_jax.runtime import hosts, modes
from iterand_jax.runtime.files import write_atomically
from iterand_jax.training import curves, provenance, pruning
from iterand_jax.training.record import Outcome
from iterand_jax.training.run import DataRun
from iterand_jax.training.workdir import read_result


def write_result(run: DataRun, outcome: Outcome, workdir: Path) -> dict[str, Any]:
    """Writes curves.png and result.json, in this order; returns the result."""
    config, record = run.config, outcome.record
    total, kept = run.count(outcome.state)
    seconds = {phase: round(time, 3) for phase, time in record.seconds.items()}
    examples = run.examples(run.total_steps)
    result = {
        "method": config.method,
        "network": config.network.name,
        "width": config.network.width,
        "dataset": run.source.name,
        "dataset_fingerprint": run.source.fingerprint,
        "dataset_official": run.source.deviation is None,
        "dtype": config.dtype,
        "matmul_precision": config.matmul_precision,
        "precision": _in_turn(
            part["precision"]
            for part in record.parts
            if part["precision"] != provenance.UNKNOWN
        ),
        "distribution": config.distribution,
        "sparsity": config.sparsity,
        **pruning.options(config),
        "sparsity_achieved": 1 - kept / total,
        "parameters": total,
        "parameters_kept": kept,
        "redrawn": record.redrawn,
        "seed": config.seed,
        "generator": modes.RECORDED,
        "steps": run.total_steps,
        "epochs": config.epochs,
        "test_accuracy": outcome.test_accuracy,
        "test_loss": outcome.test_loss,
        "test_examples": outcome.test_examples,
        **_best(outcome),
        "validation_accuracy_best": max(record.validation_accuracy),
        "validation_accuracy_last": record.validation_accuracy[-1],
        "validation_accuracies": [round(a, 3) for a in record.validation_accuracy],
        "seconds": seconds,
        "startup": outcome.startup,
        "examples_per_second": round(examples / record.seconds["training"], 1),
        "state_sha256": outcome.state_sha256,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "device": _in_turn(part["device"] for part in record.parts),
    }
    if record.vectors is not None:
        result["vectors"] = record.vectors
    if len(record.parts) > 1:
        result["parts"] = record.parts

    def write() -> dict[str, Any]:
        curves.draw(workdir, result, k_per=config.k_per)
        write_atomically(workdir / "result.json", json.dumps(result, indent=2) + "\n")
        return result

    return hosts.from_first(write)


def _best(outcome: Outcome) -> dict[str, Any]:
    """The fields of the epoch that `config.test_best` asks for."""
    if outcome.best is None:
        return {}
    return {
        "best_epoch": outcome.best_epoch,
        "best_test_accuracy": outcome.best.accuracy,
        "best_test_loss": outcome.best.loss,
    }


def write_summary_of(
    members: Mapping[Path, ConfigDict], workdir: Path
) -> dict[str, Any]:
    """Writes the result.json of finished replicas: their mean, deviation and results.

    The deviation is the sample standard deviation (n - 1), in percentage points.
    """
    results = {folder.name: read_result(folder) for folder in members}
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

    It is the last stage's, with the steps and seconds of all, the last start of a
    process and, as "stages", what each has kept and reached.
    """
    seconds: dict[str, float] = {}
    for own in results:
        for phase, time in own["seconds"].items():
            seconds[phase] = round(seconds.get(phase, 0.0) + time, 3)
    kept = ("sparsity_achieved", "parameters_kept", "test_accuracy", "state_sha256")
    result = results[-1] | {
        "method": config.method,
        "steps": sum(own["steps"] for own in results),
        "epochs": sum(own["epochs"] for own in results),
        "seconds": seconds,
        "startup": _last_start([own.get("startup", {}) for own in results]),
        "stages": [{name: own[name] for name in kept} for own in results],
        "device": _in_turn(own["device"] for own in results),
        "precision": _in_turn(
            own["precision"] for own in results if "precision" in own
        ),
    }
    text = json.dumps(result, indent=2) + "\n"
    hosts.from_first(lambda: write_atomically(workdir / "result.json", text))
    return result


def _last_start(starts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The parts of the last stage that a process began with, with those before it.

    >>> _last_start([{"imports": {}, "state": {}}, {"state": {}}])
    {'imports': {}, 'state': {}}
    """
    begun = [parts for parts in starts if "imports" in parts]
    return begun[-1] if begun else starts[-1]


def _in_turn(names: Iterable[str]) -> str:
    """The devices or precisions that a run was trained on, each once, in order.

    >>> _in_turn(["1 x A", "1 x A", "2 x B"])
    '1 x A, then 2 x B'
    """
    return ", then ".join(dict.fromkeys(names))
