"""What a run prints: the plan before it trains, the summary at its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iterand_jax.runtime.terminal import table
from iterand_jax.training import provenance, pruning
from iterand_jax.training.run import DataRun
from iterand_jax.training.waiting import PHASE as WAITING


def plan(runs: Sequence[DataRun], workdir: Path) -> str:
    """The plan of runs that differ only in their seeds, as a table."""
    run, seeds = runs[0], [run.config.seed for run in runs]
    config = run.config
    total, kept = run.subnetwork.count(run.weights(run.abstract))
    network = f"{config.network.name}, width {config.network.width:g}"
    parameters = f"{total:,} parameters"
    if config.sparsity is not None:
        sparsity = pruning.sparsity_text(config.sparsity, config.pattern)
        parameters += f", {kept:,} kept ({sparsity})"
    method = f"{config.method}, {config.distribution}"
    if config.k_per:
        method += f", K_per {config.k_per}"
    if config.sampling_rate is not None:
        method += f", r {config.sampling_rate:g}"
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


def summary(result: dict[str, Any], workdir: Path) -> str:
    """A finished run, or finished replicas, in a short table."""
    if "replicas" in result:
        return _summary_of_replicas(result, workdir)
    seconds = result["seconds"]
    shown = ("first step", "training", WAITING, "re-randomization", "evaluation")
    times = ", ".join(f"{p} {seconds[p]:.1f} s" for p in shown if p in seconds)
    kept = result["parameters_kept"]
    rows = {
        "test accuracy": f"{result['test_accuracy']:.2f} %",
        "validation": f"{result['validation_accuracy_last']:.2f} % at the end, "
        f"{result['validation_accuracy_best']:.2f} % at best",
        "kept": f"{kept:,} of {result['parameters']:,} weights",
        "refreshed": f"{result['redrawn']:,} weights were resampled or changed in all",
        "time": f"{times}; {result['examples_per_second']:,.0f} examples/s",
        "start-up": _startup(result.get("startup", {})),
        "written": f"{workdir}/ (result.json, curves.png, metrics.jsonl, tensorboard/, "
        f"checkpoints/, config.json)",
    }
    if not rows["start-up"]:
        del rows["start-up"]
    if "best_epoch" in result:
        rows["test accuracy"] += (
            f"; {result['best_test_accuracy']:.2f} % after epoch "
            f"{result['best_epoch']}, the best by validation"
        )
    if not result["redrawn"]:
        del rows["refreshed"]
    if kept == result["parameters"]:
        rows["kept"] = f"all {kept:,} weights"
    if "stages" in result:
        rows["stages"] = ", ".join(
            f"{own['test_accuracy']:.2f} % at sparsity {own['sparsity_achieved']:.3f}"
            for own in result["stages"]
        )
        rows["written"] = f"{workdir}/ (result.json, and a folder for each stage)"
    return table(rows)


def _startup(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The parts of a start in the order in which they began; parts can overlap."""
    shown = []
    for name, part in sorted(parts.items(), key=lambda item: item[1]["begin"]):
        of_program = ""
        if "compiled" in part:
            how = "from the cache" if part["cached"] else "compiled"
            times = ("traced", "traced"), ("lowered", "lowered"), (how, "compiled")
            named = ", ".join(f"{label} {part[key]:.1f}" for label, key in times)
            of_program = f" ({named})"
        shown.append(f"{name} {part['begin']:.1f}-{part['end']:.1f} s{of_program}")
    return "; ".join(shown)


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
    starts = {_startup(own.get("startup", {})) for own in result["replicas"].values()}
    if len(starts) == 1 and any(starts):  # of all that started together
        (rows["start-up"],) = starts
    rows["written"] = (
        f"{workdir}/ (result.json, and a folder for each seed as a single run has it)"
    )
    return table(rows)
