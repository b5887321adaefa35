"""The benchmark's record as tables, targets and a plot.

A record has the times of `timing.Times` as a mapping, by name, in seconds.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.measurements.benchmark_programs import PHASES

Record = Mapping[str, Any]

K_PER = 300
GROWTH = 2  # O(n) is 1; a weight that misses the cache takes longer
IMAGES = {"conv6": 1.25, "resnet18": 1.10}  # a second, over PyTorch's


class Target(NamedTuple):
    """A ratio of medians, or a measured value, and its limit.

    Attributes:
      name: what is compared.
      measured: the value; None if it was not measured.
      limit: the largest value that meets the target, or the smallest.
      at_least: whether the limit is the smallest.
    """

    name: str
    measured: float | None
    limit: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """Whether the target is met.

        >>> Target("masks", measured=0.02, limit=0.03).verdict
        'met'
        >>> Target("images/s", measured=0.9, limit=1, at_least=True).verdict
        'not met'
        """
        if self.measured is None:
            return "not measured"
        if self.at_least:
            return "met" if self.measured >= self.limit else "not met"
        return "met" if self.measured <= self.limit else "not met"


def targets(record: Record) -> list[Target]:
    """The project's targets on a CPU, with what a record's machine reached."""

    def ratio(label: str, name: str, other: str, factor: float = 1) -> float | None:
        times = record["networks"].get(label, {}).get("times", {})
        return _over(_median(times, name), _median(times, other), factor)

    redraw = "ResNet18's re-randomization"
    found = [
        Target(
            "ResNet18's masks / its step",
            ratio("resnet18", "all masks", "iterand"),
            0.03,
        ),
        Target(
            f"{redraw} / a copy of its weights and scores",
            ratio("resnet18", "re-randomization", "floor"),
            10,
        ),
        Target(
            f"{redraw} / {K_PER} steps",
            ratio("resnet18", "re-randomization", "iterand", K_PER),
            0.002,
        ),
    ]
    for label, limit in IMAGES.items():
        name = f"{label}: images/s of IteRand / of PyTorch"
        images = ratio(label, "peer iterand", "iterand")
        found.append(Target(name, images, limit, at_least=True))
    times = record["replicas"]["times"]
    found.append(
        Target(
            "three seeds in one program: times as fast as alone",
            _over(times["alone"]["median"], times["of three"]["median"]),
            1,
            at_least=True,
        )
    )
    found += [
        Target(
            f"{label}: first step of a process, from the cache / compiled",
            _over(row["cached"]["process"], row["compiled"]["process"]),
            1,
        )
        for label, row in record["first_step"].items()
    ]
    rows = record["scaling"]["parameters"]
    for name in ("masks", "re-randomization"):
        each = [row["times"][name]["median"] / row["units"] for row in rows]
        title = f"{name}: a weight of {rows[-1]['units']:.0e} / at the best size"
        found.append(Target(title, _over(each[-1], min(each)), GROWTH))
    return found


def accelerator_targets(record: Record) -> list[Target]:
    """Those on an H100 or H200, of a record of `benchmark_brief`."""

    def median(part: str, name: str) -> float | None:
        return _median(record.get(part, {}), name)

    def ours(part: str) -> float | None:
        return median(part, "iterand, as it is")

    def dense(part: str) -> float | None:
        return _over(ours(part), median(part, "sgd, as it is"))

    def start(network: str, cache: str) -> float | None:
        return of_run(network, cache, "first step (s)")

    def of_run(network: str, cache: str, name: str) -> float | None:
        return record.get(f"{network}: runs", {}).get(f"{cache} a cache", {}).get(name)

    def milliseconds(seconds: float | None) -> float | None:
        return _over(seconds, 1e-3)

    def loop(network: str, limit: float) -> tuple[str, float | None, float]:
        name = f"{network}: its loop / its program"
        cold, warm = (of_run(network, c, "loop / program") for c in ("without", "with"))
        if warm is None and cold is not None:  # other programs compile meanwhile
            return f"{name}, without a cache", cold, limit
        return name, warm, limit

    small, large, largest = "conv6: steps", "resnet18: steps", "resnet50: imagenet"
    of_three = median(small, "iterand x 3, as it is")
    redraw = median("resnet18: phases", "re-randomization")
    bits = record.get("conv6: same bits", {}).get("same bits")
    images = _over(record.get(largest, {}).get("batch_size"), ours(largest))
    found = [
        ("resnet18: seconds to the first step", start("resnet18", "without"), 20),
        ("resnet18: the same with a cache", start("resnet18", "with"), 8),
        ("digits: seconds to the first step", start("digits", "without"), 6),
        loop("resnet18", 1.03),
        loop("conv6", 1.10),
        ("resnet18: IteRand's step / SGD's", dense(large), 1.03),
        ("conv6: IteRand's step / SGD's", dense(small), 1.05),
        ("resnet50: IteRand's step / SGD's", dense(largest), 1.03),
        ("resnet18: a step (ms)", milliseconds(ours(large)), 2.0),
        ("conv6: a step (ms)", milliseconds(ours(small)), 0.25),
        ("all masks (ms)", milliseconds(median("resnet18: phases", "masks")), 0.10),
        ("a re-randomization (ms)", milliseconds(redraw), 0.15),
    ]
    return [
        *(Target(*each) for each in found),
        Target("conv6: three seeds / one", _over(ours(small), of_three), 1.8, True),
        Target("conv6: a killed run ends with the same bits (1: yes)", bits, 1, True),
        Target("resnet50: images/s", images, 3000, at_least=True),
    ]


def _median(times: Mapping[str, Any], name: str) -> float | None:
    return times[name]["median"] if name in times else None


def _over(value: float | None, other: float | None, factor: float = 1) -> float | None:
    return None if value is None or other is None else value / (factor * other)


def target_table(found: Sequence[Target]) -> str:
    """One line for each target."""
    lines = [f"{'target':<64}{'measured':>10}{'limit':>11}"]
    for target in found:
        measured = "-" if target.measured is None else f"{target.measured:.4g}"
        limit = f"{'>=' if target.at_least else '<='} {target.limit:g}"
        lines.append(f"{target.name:<64}{measured:>10}{limit:>11}  {target.verdict}")
    return "\n".join(lines)


def network_table(label: str, network: Record) -> str:
    """All programs of a network, with their share of IteRand's step.

    The share of a re-randomization is of all steps between two of them.
    """
    times = network["times"]
    step = times["iterand"]["median"]
    lines = [
        f"{label}: batch {network['batch_size']}, {network['dtype']}, "
        f"{network['parameters']:,} parameters, "
        f"{network['batch_size'] / step:,.1f} images/s, IteRand / SGD "
        f"{step / times['sgd']['median']:.3f}",
        f"  {'program':<26}{'ms':>10}  {'fastest to slowest':<24}{'of the step':>12}",
    ]
    lines += [_line(name, t, step) for name, t in times.items()]
    backward = times["forward and backward"]["median"] - times["forward"]["median"]
    lines.append(
        f"  {'backward (a difference)':<26}{1e3 * backward:>10.3f}  {'':<24}"
        f"{backward / step:>12.3%}"
    )
    rest = step - backward - sum(times[name]["median"] for name in PHASES)
    lines.append(
        f"  {'not in these phases':<26}{1e3 * rest:>10.3f}  {'':<24}"
        f"{rest / step:>12.3%}"
    )
    return "\n".join(lines)


def _line(name: str, times: Mapping[str, float], step: float) -> str:
    spread = f"{1e3 * times['fastest']:.3f} to {1e3 * times['slowest']:.3f}"
    return (
        f"  {name:<26}{1e3 * times['median']:>10.3f}  {spread:<24}"
        f"{times['median'] / step / _steps_between(name):>12.3%}"
    )


def _steps_between(name: str) -> int:
    """Steps from one call of a program to the next in training."""
    return K_PER if name.endswith("re-randomization") else 1


def replicas_line(replicas: Record) -> str:
    """The speedup of three seeds in one program."""
    alone, of_three = (
        replicas["times"][name]["median"] for name in ("alone", "of three")
    )
    return (
        f"{replicas['config']} at width {replicas['width']:g}: {1e3 * alone:.1f} ms a "
        f"step alone, {1e3 * of_three:.1f} ms a step and seed of three in one program: "
        f"{alone / of_three:.2f} times as fast"
    )


def scaling_table(title: str, rows: Sequence[Record]) -> str:
    """Times by size; "per unit" is in ns and constant for O(n)."""
    names = list(rows[0]["times"])
    head = "".join(f"{name + ' (ms)':>24}{'per unit':>11}" for name in names)
    lines = [f"{title:<14}{'units':>13}{head}"]
    for row in rows:
        cells = "".join(
            f"{1e3 * row['times'][name]['median']:>24.4f}"
            f"{1e9 * row['times'][name]['median'] / row['units']:>11.3g}"
            for name in names
        )
        lines.append(f"{row['size']:<14,g}{row['units']:>13,}{cells}")
    return "\n".join(lines)


def first_step_table(rows: Mapping[str, Record]) -> str:
    """Seconds from the start of a process to the end of its first step."""
    lines = [f"{'first step (s)':<16}{'compiled':>10}{'from the cache':>16}"]
    for label, row in rows.items():
        cold, cached = (row[kind]["process"] for kind in ("compiled", "cached"))
        lines.append(f"{label:<16}{cold:>10.2f}{cached:>16.2f}")
    return "\n".join(lines)


def report(record: Record) -> str:
    """All tables, the targets last."""
    parts = [first_step_table(record["first_step"])]
    parts += [network_table(k, v) for k, v in record["networks"].items()]
    parts.append(replicas_line(record["replicas"]))
    parts += [scaling_table(k, v) for k, v in record["scaling"].items()]
    parts.append(target_table(targets(record)))
    return "\n\n".join(parts)


def plot(record: Record) -> bytes:
    """Times against sizes, with lines of slope 1, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    figure, panels = plt.subplots(
        1, len(record["scaling"]), figsize=(13, 4), layout="constrained"
    )
    short = EngFormatter(places=0, sep="")
    for axes, (title, rows) in zip(panels, record["scaling"].items(), strict=True):
        units = [row["units"] for row in rows]
        for name in rows[0]["times"]:
            times = [row["times"][name] for row in rows]
            seconds = [t["median"] for t in times]
            below = [t["median"] - t["fastest"] for t in times]
            above = [t["slowest"] - t["median"] for t in times]
            axes.errorbar(units, seconds, [below, above], marker="o", label=name)
            line = [seconds[-1] * n / units[-1] for n in units]
            axes.plot(units, line, color="grey", ls=":", lw=1)
        axes.plot([], [], color="grey", ls=":", lw=1, label="O(n)")
        axes.set(xscale="log", yscale="log", title=f"against {title}")
        axes.set(xlabel=rows[0]["unit"], ylabel="time")
        # Ticks at the measured sizes, and at as many times as do not overlap.
        axes.set_xticks(units, [short(n) for n in units])
        few = max(seconds) < 100 * min(seconds)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axes.yaxis.set_major_formatter(EngFormatter("s"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.25)
        axes.legend(loc="upper left")
    figure.suptitle(record["device"])
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    plt.close(figure)
    return content.getvalue()
