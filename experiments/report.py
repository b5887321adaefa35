"""Compares a table or figure with the paper: `python -m experiments.report table3`.

    --results=runs/results    the folder of the ledger; a clone's own is results
    --out=DIR                 also write DIR/table3.md and its figures; default: print

`all` instead of a name reports every table and figure, with an overview in
DIR/README.md. Missing runs are counted, but neither listed nor plotted.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments.paper.catalogue import EXPERIMENTS, get_experiment
from experiments.paper.experiment import Experiment
from experiments.reports import figures, learning, tables
from experiments.reports.evidence import FULL, MINIATURE, Version, versions
from experiments.reports.metrics import METRICS
from experiments.sweeps import costs, ledger
from iterand_jax.runtime import cli
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.pictures import save

PAGE = """# What was run of the paper's tables and figures

Written by `python -m experiments.report all --results=results --out=results/reports`.
The paper's numbers are only ever shown as the paper's, beside ours. Full runs have the
paper's length; a miniature is an experiment's own small version, for two CPU cores.
Runs of different length never share a table, and runs on different data or in different
precision never share a row or a mean.

"""


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path("results", ledger.FOLDER, "the folder of the ledger")
    cli.define_path("out", None, "the folder to write to; default: only print")


def main(name: str = "") -> None:
    """Reports on an experiment, or on all."""
    results, out = Path(flags.FLAGS.results), flags.FLAGS.out
    chosen = [*EXPERIMENTS.values()] if name == "all" else [get_experiment(name)]
    known = ledger.read(results)
    for problem in known.problems:
        print(f"not used: {problem}", file=sys.stderr)
    if not list(known):
        print(f"no finished run in {results}; see --results", file=sys.stderr)
    found = {one.name: versions(one, known) for one in chosen}
    for experiment in chosen:
        own = found[experiment.name]
        print("\n\n".join(sections(experiment, own, known)) + "\n")
        if out and any(version.lines for version in own):
            write(experiment, own, known, Path(out))
    if name == "all":
        print(PAGE + page(found))
        if out:
            write_atomically(Path(out) / "README.md", PAGE + page(found))


def sections(
    experiment: Experiment,
    found: Sequence[Version],
    known: ledger.Ledger,
    *,
    drawn: bool = False,
) -> Iterator[str]:
    """The paragraphs of a report; with links to the figures if they are drawn."""
    yield f"# {experiment.title}"
    if experiment.note:
        yield experiment.note
    for version in found:
        left = costs.left_text(version.missing, known)
        yield tables.version_text(experiment, version, left)
        if drawn and version.lines:
            if _has_places(experiment, version):
                yield f"![{experiment.title}]({_picture(experiment, version)})"
            if learning.drawable(version):
                picture = _picture(experiment, version, "_learning")
                yield f"![Validation accuracy by epoch]({picture})"


def write(
    experiment: Experiment,
    found: Sequence[Version],
    known: ledger.Ledger,
    folder: Path,
) -> None:
    """Writes the Markdown and the figures of an experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    for version in found:
        if version.lines:
            if _has_places(experiment, version):
                path = folder / _picture(experiment, version)
                save(figures.draw(experiment, version), path, dpi=110)
            if learning.drawable(version):
                path = folder / _picture(experiment, version, "_learning")
                save(learning.draw(experiment, version), path, dpi=110)
    text = "\n\n".join(sections(experiment, found, known, drawn=True)) + "\n"
    write_atomically(folder / f"{experiment.name}.md", text)


def _has_places(experiment: Experiment, version: Version) -> bool:
    """Whether any run has a place on the x-axis, which may be a metric."""
    x = experiment.figure.x
    entries = [entry for entry in version.entries if entry.lines]
    return any(x not in METRICS or entry.statistics(x) for entry in entries)


def _picture(experiment: Experiment, version: Version, kind: str = "") -> str:
    suffix = "" if version.key == FULL else f"_{version.key}"
    return f"{experiment.name}{suffix}{kind}.png"


def page(found: Mapping[str, Sequence[Version]]) -> str:
    """The runs of each experiment, their gaps to the paper, hardware and data."""
    parts = [state(found), "Differences of means, ours minus the paper's:"]
    parts += [distance(found), "On:", devices(found)]
    return "\n\n".join(parts) + "\n"


def state(found: Mapping[str, Sequence[Version]]) -> str:
    """The number of finished runs of each experiment."""
    rows = []
    for name, own in found.items():
        ran = any(version.lines for version in own)
        row = [f"[{name}]({name}.md)" if ran else name, EXPERIMENTS[name].title]
        done = {v.key: f"{v.runs - len(v.missing)} of {v.runs}" for v in own}
        row += [done.pop(FULL), done.pop(MINIATURE)]
        rows.append([*row, ", ".join(key.replace("_", " ") for key in done)])
    return tables.markdown(["", "", "full runs", "miniature runs", "others"], rows)


def distance(found: Mapping[str, Sequence[Version]]) -> str:
    """The gaps to the paper, of full runs and separately of shortened ones."""
    rows = []
    for name, own in found.items():
        metric = EXPERIMENTS[name].metrics[0]
        for version in own:
            far: dict[tuple[bool, str], list[float]] = {}
            for entry in version.entries:
                ours, paper = entry.statistics(metric), entry.paper.get(metric)
                if ours and paper:
                    gap = ours.mean - paper.mean
                    kind = entry.official, entry.precision
                    far.setdefault(kind, []).append(gap)
            for (official, precision), gaps in far.items():
                data = "official" if official else "**not official**"
                data += f", **{precision}**" if precision else ""
                extent = f"{min(gaps):+.2f} to {max(gaps):+.2f}"
                rows.append([name, version.title.partition(":")[0], data, extent])
    if not rows:
        return "No number of ours stands beside one of the paper yet."
    return tables.markdown(["", "length", "data", "differences"], rows)


def devices(found: Mapping[str, Sequence[Version]]) -> str:
    """The devices and datasets of the runs."""
    lines = [line for own in found.values() for v in own for line in v.lines]
    texts = [
        f"- {line['device']} in {ledger.precision(line)}, with {tables.data_text(line)}"
        for line in lines
    ]
    return "\n".join(dict.fromkeys(texts)) or "Nothing has been run yet."


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, positional=1, again="starts again")


if __name__ == "__main__":
    run()
