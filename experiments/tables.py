"""The Markdown of a report: the paper's numbers, ours, and what made ours."""

from collections.abc import Sequence

from experiments import costs, findings
from experiments.costs import Reference
from experiments.evidence import Entry, Version
from experiments.ledger import Line
from experiments.metrics import METRICS
from experiments.names import shown
from experiments.sweep import Experiment

NOT_RUN = "not run"
NONE = "-"

TOLD = (
    "dataset.name",
    "network.name",
    "network.width",
    "sparsity",
    "k_per",
    "sampling_rate",
)
"""The departures that remarks tell, beside the epochs: others follow from these."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def version_text(
    experiment: Experiment, version: Version, known: Sequence[Reference]
) -> str:
    """A version of an experiment: its table, the paper's findings, its evidence."""
    missing = version.missing
    done = version.runs - len(missing)
    parts = [f"## {version.title}", f"{done} of {version.runs} runs are done."]
    if missing:
        parts[-1] += f" {cost_text(version, known)}"
    parts.append(table(experiment, version))
    parts += findings.texts(experiment, version)
    parts += evidence_text(version)
    return "\n\n".join(parts)


def table(experiment: Experiment, version: Version) -> str:
    """A row for every cell, and for every number where there are several."""
    labels = list(
        dict.fromkeys(label for e in version.entries for label in e.cell.labels)
    )
    several = len(experiment.metrics) > 1
    header = [*map(shown, labels), *(["measured"] if several else [])]
    header += ["paper", "ours", "n", "difference", "remarks"]
    rows = []
    for entry in version.entries:
        for name in experiment.metrics:
            row = [shown(entry.cell.labels.get(label, "")) for label in labels]
            row += [METRICS[name].title] if several else []
            rows.append(row + numbers(entry, name) + [remarks(entry, version.seeds)])
    return markdown(header, rows)


def numbers(entry: Entry, name: str) -> list[str]:
    """The paper's number, ours, n, and the difference of the means."""
    paper, ours, digits = (
        entry.paper.get(name),
        entry.statistics(name),
        METRICS[name].digits,
    )
    printed = paper.text.replace("±", " ± ") if paper else NONE
    if ours is None:
        return [printed, NONE if entry.lines else NOT_RUN, "0", NONE]
    difference = f"{ours.mean - paper.mean:+.{digits}f}" if paper else NONE
    return [printed, ours.text(digits), str(ours.n), difference]


def remarks(entry: Entry, seeds: int) -> str:
    """What a reader must know of our number: other data, shortened, too few seeds."""
    if not entry.lines:
        return ""
    told = []
    if not entry.official:
        told.append(f"**not official {entry.lines[0]['dataset']} data**")
    if "epochs" in entry.departures:
        ours, theirs = entry.departures["epochs"]
        word = "of" if ours < theirs else "for"
        told.append(f"**{ours} {word} {theirs} epochs**")
    for field in TOLD:
        if field in entry.departures:
            ours, theirs = entry.departures[field]
            told.append(f"{shown(field)} {shown(ours)} instead of {shown(theirs)}")
    if len(entry.lines) < seeds:
        told.append(f"{len(entry.lines)} of {seeds} seeds")
    if any(line["together"] > 1 for line in entry.lines):
        told.append("seeds trained in one program")
    return "; ".join(told)


def cost_text(version: Version, known: Sequence[Reference]) -> str:
    """The estimated cost of what is missing."""
    missing = version.missing
    if not known:
        return "The rest was not run; --dry_run estimates what it costs."
    hours = sum(costs.hours(run.cell, known)[0] for run in missing)
    return (
        f"The rest was not run: about {costs.hours_text(hours)} on the device of the "
        "estimates."
    )


def evidence_text(version: Version) -> list[str]:
    """What made the numbers."""
    lines = version.lines
    if not lines:
        return []

    def all_of(texts: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(texts))

    hours = sum(map(_hours, lines))
    versions = [
        f"jax {line['versions']['jax']}, jaxlib {line['versions']['jaxlib']}, "
        f"iterand_jax {line['versions']['iterand_jax']}"
        for line in lines
    ]
    data = [
        f"{line['dataset']} {line['dataset_fingerprint']} "
        f"({'official' if line['dataset_official'] else 'not official'})"
        for line in lines
    ]
    return [
        "\n".join(
            [
                f"- devices: {all_of([line['device'] for line in lines])}",
                f"- time: {costs.hours_text(hours)} in all",
                f"- data: {all_of(data)}",
                f"- versions: {all_of(versions)}",
                f"- commits: {all_of([line['commit'] for line in lines])}",
            ]
        )
    ]


def _hours(line: Line) -> float:
    """What a run took; the time to the first step is a part of other phases."""
    seconds = [s for phase, s in line["seconds"].items() if phase != "first step"]
    return sum(seconds) / line["together"] / 3600
