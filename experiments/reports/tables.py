"""The Markdown of a report: the paper's numbers, ours, and their provenance."""

from collections.abc import Iterable, Sequence

from experiments.paper.experiment import Experiment
from experiments.paper.names import hours_text, shown
from experiments.reports import findings
from experiments.reports.evidence import Entry, Version
from experiments.reports.metrics import METRICS
from experiments.sweeps.ledger import Line

NONE = "-"
VERSIONS = ("jax", "jaxlib", "iterand_jax")

NOTED = (
    "dataset.name",
    "network.name",
    "network.width",
    "sparsity",
    "k_per",
    "sampling_rate",
)
"""The departures that remarks list besides the epochs; others follow from these."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def version_text(experiment: Experiment, version: Version, price: str = "") -> str:
    """The text of a version: its table, the paper's findings, its provenance.

    price: the time that the runs which are left would take.
    """
    left = len(version.missing)
    parts = [f"## {version.title}", f"{version.runs - left} of {version.runs} runs."]
    if left:
        about = f", in proportion to multiply-adds {price}" if price else ""
        parts[-1] += f" {left} are left{about}."
    if version.lines:
        parts.append(table(experiment, version))
        orders = [
            findings.order_text(experiment, version, o) for o in experiment.orders
        ]
        parts += [text for text in orders if text]
        parts.append(evidence_text(version.lines))
    return "\n\n".join(parts)


def table(experiment: Experiment, version: Version) -> str:
    """The table: a row for each cell that was run, and for each of its metrics."""
    labels = list(
        dict.fromkeys(label for e in version.entries for label in e.cell.labels)
    )
    several = len(experiment.metrics) > 1
    header = [*map(shown, labels), *(["measured"] if several else [])]
    header += ["paper", "ours", "n", "difference", "remarks"]
    rows = []
    for entry in version.entries:
        for name in experiment.metrics if entry.lines else ():
            row = [shown(entry.cell.labels.get(label, "")) for label in labels]
            row += [METRICS[name].title] if several else []
            rows.append(row + numbers(entry, name) + [remarks(entry, version.seeds)])
    return markdown(header, rows)


def numbers(entry: Entry, name: str) -> list[str]:
    """The paper's number, ours, n, and the difference between the means."""
    paper, ours = entry.paper.get(name), entry.statistics(name)
    digits = METRICS[name].digits
    printed = paper.text.replace("±", " ± ") if paper else NONE
    if ours is None:
        return [printed, NONE, "0", NONE]
    difference = f"{ours.mean - paper.mean:+.{digits}f}" if paper else NONE
    return [printed, ours.text(digits), str(ours.n), difference]


def remarks(entry: Entry, seeds: int) -> str:
    """Caveats of our number: other data, precision or length, too few seeds."""
    notes = []
    if not entry.official:
        notes.append(f"**not official {entry.lines[0]['dataset']} data**")
    if entry.precision:
        notes.append(f"**{entry.precision}**")
    if "epochs" in entry.departures:
        ours, theirs = entry.departures["epochs"]
        word = "of" if ours < theirs else "for"
        notes.append(f"**{ours} {word} {theirs} epochs**")
    for field in NOTED:
        if field in entry.departures:
            ours, theirs = entry.departures[field]
            notes.append(f"{shown(field)} {shown(ours)} instead of {shown(theirs)}")
    if len(entry.lines) < seeds:
        notes.append(f"{len(entry.lines)} of {seeds} seeds")
    if any(line["together"] > 1 for line in entry.lines):
        notes.append("seeds trained in one program")
    return "; ".join(notes)


def evidence_text(lines: Sequence[Line]) -> str:
    """The provenance of the numbers: devices, time, data, versions, commits."""

    def all_of(texts: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(texts))

    versions = (
        ", ".join(f"{name} {line['versions'][name]}" for name in VERSIONS)
        for line in lines
    )
    return "\n".join(
        [
            f"- devices: {all_of(line['device'] for line in lines)}",
            f"- time: {hours_text(sum(map(_hours, lines)))} in all",
            f"- data: {all_of(map(data_text, lines))}",
            f"- versions: {all_of(versions)}",
            f"- commits: {all_of(line['commit'] for line in lines)}",
        ]
    )


def data_text(line: Line) -> str:
    """The data of a run: name, fingerprint, and whether they are the official ones."""
    official = "official" if line["dataset_official"] else "not official"
    return f"{line['dataset']} {line['dataset_fingerprint']} ({official})"


def _hours(line: Line) -> float:
    """The duration of a run, without what is part of other phases."""
    parts = ("first step", "waiting for data")
    seconds = [s for phase, s in line["seconds"].items() if phase not in parts]
    return sum(seconds) / line["together"] / 3600
