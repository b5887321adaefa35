"""What another pass of JPEG costs in accuracy: Conv6 on CIFAR-10, compressed again.

    python -m experiments.measurements.jpeg_quality --dir=DIR [--out=RECORD]

The images of both splits are compressed once more at a quality, with the sampling of
colors 4:2:0 as in the copy that was at hand, and decoded; "as it is" is the copy. What
the first pass cost cannot be measured without the official pixels; what further ones
cost is a hint of its size.
"""

import dataclasses
import functools
import hashlib
import io
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import iterand_jax
from experiments.measurements import records
from iterand_jax.data import decoded
from iterand_jax.data.datasets import get_dataset, open_source, register_dataset
from iterand_jax.data.sources import Source, open_cifar10
from iterand_jax.runtime import cli

QUALITIES = {
    "cifar10_as_it_is": None,
    "cifar10_quality_75": 75,
    "cifar10_quality_50": 50,
}
"""The datasets of this script, and the quality of the further pass."""

FIELDS = {"network.width": 0.25, "epochs": 20}
"""The fields of `cifar_conv6` that are set: short, 20 epochs of 100."""

KEY = ("dataset", "method", "seed")
SUBSAMPLED = 2
"""Pillow's name for 4:2:0."""

Runs = Sequence[Mapping[str, Any]]


def again(image: np.ndarray, quality: int) -> np.ndarray:
    """An image, uint8 (H, W, 3), as JPEG of a quality leaves it.

    >>> image = np.full((8, 8, 3), 100, np.uint8)
    >>> np.array_equal(again(image, 50), image)
    True
    """
    from PIL import Image

    file = io.BytesIO()
    options = {"quality": quality, "subsampling": SUBSAMPLED}
    Image.fromarray(image).save(file, "JPEG", **options)
    return np.asarray(Image.open(file))


def compressed(source: Source, quality: int) -> Source:
    """The source whose images are compressed once more when they are read.

    The fingerprint is another one, since other pixels are another dataset.
    """

    @functools.cache
    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = source.read(split)
        with futures.ThreadPoolExecutor() as pool:
            one = functools.partial(again, quality=quality)
            return np.stack([*pool.map(one, images)]), labels

    passed = f"{source.fingerprint} {quality} {decoded.decoder()}"
    return dataclasses.replace(
        source,
        read=read,
        encoding="jpeg",
        fingerprint=hashlib.sha256(passed.encode()).hexdigest()[:16],
        deviation=f"compressed once more by JPEG at quality {quality}",
    )


@functools.cache
def _opened(folder: str, quality: int | None) -> Source:
    source = open_cifar10(folder)
    return source if quality is None else compressed(source, quality)


def register() -> None:
    """Registers the datasets of `QUALITIES`, of any CIFAR-10."""
    for name, quality in QUALITIES.items():
        opened = functools.partial(_opened, quality=quality)
        register_dataset(name, get_dataset("cifar10")._replace(open=opened))


def distance(images: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """How far images are from others: their share unchanged, and the PSNR in dB.

    >>> images = np.zeros((2, 1, 1, 3), np.uint8)
    >>> distance(images, images + np.uint8([[[[0]]], [[[255]]]]))
    {'unchanged': 0.5, 'decibels': 3.01}
    """
    errors = images.astype(np.int32) - others
    mean = float((errors**2).mean())
    return {
        "unchanged": round(float((errors == 0).all((1, 2, 3)).mean()), 4),
        "decibels": round(10 * math.log10(255**2 / mean), 2) if mean else math.inf,
    }


def trained(
    cell: tuple[str, str, int], workdir: Path, data_dir: str | None = None
) -> dict[str, Any]:
    """Trains or continues the run of a dataset of `QUALITIES`, a method and a seed."""
    of_cell = dict(zip(("dataset.name", "method", "seed"), cell, strict=True))
    fields = {**of_cell, **FIELDS}
    result = iterand_jax.train(
        "cifar_conv6", fields, workdir=workdir, data_dir=data_dir
    )
    kept = ("test_accuracy", "epochs", "dataset_fingerprint", "state_sha256", "dtype")
    numbers = {field: result.record[field] for field in kept}
    return {**dict(zip(KEY, cell, strict=True)), **numbers}


def rows(runs: Runs) -> list[str]:
    """A row of the page's table for each dataset and method.

    The last column has the mean and deviation of the differences between runs of one
    seed and method, with and without the further pass.
    """
    lines = []
    for method in dict.fromkeys(run["method"] for run in runs):
        whole = _by_seed(runs, "cifar10_as_it_is", method)
        for name, quality in QUALITIES.items():
            found = _by_seed(runs, name, method)
            if not found:
                continue
            pairs = [found[seed] - whole[seed] for seed in found.keys() & whole.keys()]
            kind = "as it is" if quality is None else f"once more at {quality}"
            cost = "" if quality is None or not pairs else records.mean_of(pairs)
            mean, number = records.mean_of(found.values()), str(len(found))
            lines.append(f"| {' | '.join([kind, method, number, mean, cost])} |")
    return lines


def _by_seed(runs: Runs, name: str, method: str) -> dict[int, float]:
    return {
        run["seed"]: run["test_accuracy"]
        for run in runs
        if (run["dataset"], run["method"]) == (name, method)
    }


def cells(method: str, seeds: int) -> Iterable[tuple[str, str, int]]:
    """The runs by dataset, method and seed: all datasets of a seed, then the next."""
    return [(name, method, seed) for seed in range(seeds) for name in QUALITIES]


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("method", "iterand", "a method of `cifar_conv6`")
    flags.DEFINE_integer("seeds", 3, "how many runs on each dataset", lower_bound=1)
    cli.define_data_dir()
    cli.define_path(
        "dir", None, "for the workdirs, which continue there; default: a temporary one"
    )
    cli.define_path(
        "out", None, "add the runs to this record after each; default: only print"
    )


def main() -> None:
    """Trains, prints and adds to the record."""
    values = flags.FLAGS
    folder = Path(values.dir or tempfile.mkdtemp())
    register()
    sources = {name: open_source(name, values.data_dir) for name in QUALITIES}
    images = {name: source.read("test")[0] for name, source in sources.items()}
    whole, *others = QUALITIES
    record = {
        "fields": FIELDS,
        "test images": {name: distance(images[whole], images[name]) for name in others},
        **records.origin(),
    }
    runs = records.runs_of(values.out)
    for cell in cells(values.method, values.seeds):
        run = trained(cell, folder / "_".join(map(str, cell)), values.data_dir)
        runs = records.with_run(runs, run, KEY)
        records.write(values.out, {**record, "runs": runs})
    print("\n".join(rows(runs)))


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="goes on from --dir", unwinds=True)


if __name__ == "__main__":
    run()
