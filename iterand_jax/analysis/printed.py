"""A report as text: a table of layers, and a summary of the network."""

import math

import numpy as np

from iterand_jax.analysis.layers import Layer
from iterand_jax.analysis.report import Report
from iterand_jax.runtime.terminal import table

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 8  # of a sparkline over the training


def text(found: Report) -> str:
    """A report as a title, a table of layers, and a summary of the network."""
    rows = [_row(layer, found) for layer in found.layers]
    header = ["layer", "shape", "kept of", "weights"]
    header += ["threshold"] if found.thresholds else []
    header += ["signs +"]
    header += [] if found.constant else ["magnitude"]
    header += ["dead out", "dead in", "removable"]
    header += [f"churn/{next(iter(found.churn))} steps"] if found.churn else []
    header += [] if found.no_ages else ["initial", "resampled"]
    header += ["unknown"] if found.unknown else []
    header += ["in common (chance)"] if found.overlaps else []
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join([found.title, *lines, table(_summary(found))])


def _row(layer: Layer, found: Report) -> list[str]:
    row = [
        layer.path,
        "x".join(map(str, layer.shape)),
        f"{layer.kept:,}",
        f"{layer.size:,}",
        *([_shown(layer.threshold, ".4f")] if found.thresholds else []),
        _shown(layer.positive, ".1%"),
        *([] if found.constant else [_shown(layer.magnitude, ".3f")]),
        f"{layer.dead_outputs} of {layer.outputs}",
        f"{layer.dead_inputs} of {layer.inputs}",
        f"{layer.removable:,} ({layer.removable / layer.size:.1%})",
    ]
    if found.churn:
        row.append(f"{np.mean(layer.churn):.2%} {_sparkline(np.array(layer.churn))}")
    kept = layer.kept or math.nan
    if layer.ages is not None:
        row += [_shown(layer.ages[0] / kept, ".1%"), _sparkline(layer.ages[1:])]
    row += [_shown(layer.unknown / kept, ".1%")] if found.unknown else []
    if found.overlaps:
        share, chance = found.overlaps[layer.path]
        row.append(f"{_shown(share, '.1%')} ({chance:.1%})")
    return row


def _shown(value: float | None, form: str) -> str:
    """A number, or a dash for a layer that keeps nothing."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def _sparkline(values: np.ndarray) -> str:
    """Numbers over the training as a sparkline of a few characters, first to last."""
    parts = np.array_split(values, min(COLUMNS, len(values)) or 1)
    columns = [part.mean() if part.size else 0 for part in parts]
    highest = max(columns) or 1
    return "".join(BARS[round((len(BARS) - 1) * c / highest)] for c in columns)


def _summary(found: Report) -> dict[str, str]:
    layers = found.layers
    size, kept, removable = (
        sum(getattr(layer, name) for layer in layers)
        for name in ("size", "kept", "removable")
    )
    outputs, inputs, removable_kept = (
        sum(getattr(layer, name) for layer in layers)
        for name in ("dead_outputs", "dead_inputs", "removable_kept")
    )
    rows = {"kept": f"{kept:,} of {size:,} weights ({kept / size:.1%})"}
    if not found.constant:
        rows["magnitude"] = "mean of the kept weights over mean of the pruned ones"
    rows["dead"] = (
        f"{outputs:,} output and {inputs:,} input channels, on no path of kept weights "
        f"from the inputs to the logits; without them the network has {removable:,} "
        f"fewer weights ({removable / size:.1%}), {removable_kept:,} of them kept"
    )
    if found.no_ages:
        rows["ages"] = f"not shown: {found.no_ages}"
    else:
        rows["ages"] = (
            f"{found.ages[0] / kept:.1%} of the kept weights have their initial value, "
            f"{found.ages[1:].sum() / kept:.1%} were resampled in one of "
            f"{len(found.ages) - 1:,} refreshes (columns: first to last)"
        )
    if found.unknown:
        rows["unknown"] = (
            f"{found.unknown / kept:.1%} of the kept weights: replaying the refreshes "
            f"here gives other values, as on another kind of device"
        )
    if found.churn:
        steps, shares = list(found.churn), list(found.churn.values())
        rows["churn"] = f"{shares[0]:.2%} of the masks changed to step {steps[0]:,}"
        if len(steps) > 1:
            rows["churn"] += (
                f", {shares[-1]:.2%} from step {steps[-2]:,} to {steps[-1]:,}"
            )
    if found.overlaps:
        keeping = [layer for layer in layers if layer.kept]
        common, chance = np.average(
            [found.overlaps[layer.path] for layer in keeping],
            weights=[layer.kept for layer in keeping],
            axis=0,
        )
        rows["in common"] = (
            f"{common:.1%} of the kept weights ({chance:.1%} by chance), "
            f"with {found.other}"
        )
    return rows
