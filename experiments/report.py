"""Shows a table or figure beside the paper: `python -m experiments.report table3`.

With `all` instead of a name, every table and figure, and the page README.md.

    --results=results    the folder of the ledger
    --out=experiments    where README.md and reports/*.md, *.png are written
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from absl import flags

from experiments import costs, evidence, figures, ledger, tables
from experiments.catalogue import EXPERIMENTS, get_experiment
from experiments.costs import Reference
from experiments.evidence import FULL, MINIATURE, Version, versions
from experiments.sweep import Experiment
from iterand_jax.runtime import cli
from iterand_jax.runtime.files import write_atomically

TEMPLATE = Path(__file__).with_name("readme_template.md")


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("results", "results", "the folder of the ledger")
    flags.DEFINE_string("out", "experiments", "the folder to write to")


def main(name: str = "") -> None:
    """Reports on an experiment, or on all."""
    results, out = Path(flags.FLAGS.results), Path(flags.FLAGS.out)
    chosen = [*EXPERIMENTS.values()] if name == "all" else [get_experiment(name)]
    known = ledger.read(results)
    stale = [problem for one in chosen for problem in evidence.stale(one, known)]
    for problem in known.problems:
        print(f"not used: {problem}", file=sys.stderr)
    for problem in dict.fromkeys(stale):
        print(f"not used: of another version of its config: {problem}", file=sys.stderr)
    timed = timed_steps(known, results)
    found = {}
    for experiment in chosen:
        found[experiment.name] = versions(experiment, known)
        text = write(experiment, found[experiment.name], timed, out / "reports")
        if name != "all":
            print(text)
    if name == "all":
        write_atomically(out / "README.md", page(found, timed))
        print(f"wrote {out / 'README.md'} and {out / 'reports'}/")


def timed_steps(known: ledger.Ledger, results: Path) -> list[Reference]:
    """The timed steps that what was not run is estimated from."""
    device = costs.device_of_estimates(known, results)
    return costs.references(known, results, device) if device else []


def write(
    experiment: Experiment,
    found: Sequence[Version],
    timed: Sequence[Reference],
    folder: Path,
) -> str:
    """Writes the Markdown and the figures of an experiment; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {experiment.title}"]
    if experiment.note:
        parts.append(experiment.note)
    for version in found:
        parts.append(tables.version_text(experiment, version, timed))
        if version.key == FULL or version.lines:
            suffix = "" if version.key == FULL else f"_{version.key}"
            name = f"{experiment.name}{suffix}.png"
            figures.draw(experiment, version).savefig(folder / name, dpi=110)
            parts.append(f"![{experiment.title}]({name})")
    text = "\n\n".join(parts) + "\n"
    write_atomically(folder / f"{experiment.name}.md", text)
    return text


def page(found: Mapping[str, Sequence[Version]], timed: Sequence[Reference]) -> str:
    """The page of all experiments."""
    return Template(TEMPLATE.read_text()).substitute(
        state=state(found, timed), distance=distance(found), devices=devices(found)
    )


def state(found: Mapping[str, Sequence[Version]], timed: Sequence[Reference]) -> str:
    """What was run of each experiment, and what the rest costs."""
    rows = []
    for name, own in found.items():
        by_key = {version.key: version for version in own}
        row = [f"[{name}](reports/{name}.md)", EXPERIMENTS[name].title]
        for key in (FULL, MINIATURE):
            version = by_key[key]
            missing = version.missing
            row.append(f"{version.runs - len(missing)} of {version.runs}")
            hours = sum(costs.hours(run.cell, timed)[0] for run in missing if timed)
            row.append(costs.hours_text(hours) if timed and missing else tables.NONE)
        rest = [version.key for version in own if version.key not in (FULL, MINIATURE)]
        row.append(", ".join(key.replace("_", " ") for key in rest) or tables.NONE)
        rows.append(row)
    header = ["", "", "full runs", "left", "miniature runs", "left", "others"]
    return tables.markdown(header, rows)


def distance(found: Mapping[str, Sequence[Version]]) -> str:
    """How far full runs and, apart from them, shortened ones are from the paper."""
    rows = []
    for name, own in found.items():
        metric = EXPERIMENTS[name].metrics[0]
        for version in own:
            far: dict[bool, list[float]] = {}
            for entry in version.entries:
                ours, paper = entry.statistics(metric), entry.paper.get(metric)
                if ours and paper:
                    gap = ours.mean - paper.mean
                    far.setdefault(entry.official, []).append(gap)
            for official, gaps in far.items():
                mean = sum(gaps) / len(gaps)
                rows.append(
                    [
                        name,
                        version.title.partition(":")[0],
                        "official" if official else "**not official**",
                        str(len(gaps)),
                        f"{mean:+.2f}",
                        f"{min(gaps):+.2f} to {max(gaps):+.2f}",
                    ]
                )
    if not rows:
        return "No number of ours stands beside one of the paper yet."
    header = ["", "length", "data", "cells", "mean difference", "differences"]
    return tables.markdown(header, rows)


def devices(found: Mapping[str, Sequence[Version]]) -> str:
    """What trained, on which data."""
    lines = [line for own in found.values() for v in own for line in v.lines]
    texts = dict.fromkeys(
        f"- {line['device']}, with {line['dataset']} {line['dataset_fingerprint']} "
        f"({'official' if line['dataset_official'] else 'not the official data'})"
        for line in lines
    )
    return "\n".join(texts) or "Nothing has been run yet."


if __name__ == "__main__":
    cli.run(main, define_flags, positional=1)
