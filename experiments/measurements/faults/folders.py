"""Damaged folders of datasets: the same data, other data that is named, or one line.

Small datasets are written: CIFAR-10 as TFDS prepares it, a folder of images by class,
and an .npz file. Of a copy one file is changed at random, removed, emptied, made a
folder, or joined by a foreign file. Then all of it is read in a child process with
limits of memory and time.
"""

import hashlib
import io
import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.measurements.faults import mutators
from experiments.measurements.faults.limited import Limited
from experiments.measurements.faults.trial import Trial
from iterand_jax.data import datasets, own
from iterand_jax.data.sources import Source

PROMISE = (
    "A damaged folder of a dataset is read with the same data, or with other data "
    "under another fingerprint, or refused in a ValueError or OSError, which a command "
    "says in one line; at most 2 GiB of address space and 60 seconds"
)
MEGABYTES, SECONDS = 2048, 60
FINE = ("the same data", "other data, another fingerprint", "refused")
CLASSES, IMAGES = 3, 4  # of each


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many folders, each with one change."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # of decoded images
    draw = random.Random(seed)
    whole, copy = folder / "whole", folder / "copy"
    for name, write in WRITERS.items():
        write(whole / name, np.random.default_rng(seed))
    with Limited(megabytes=MEGABYTES, seconds=SECONDS, ready=_ready) as child:
        valid = {name: child.call(read, name, whole / name).value for name in WRITERS}
        for number in range(count):
            name = draw.choice(list(WRITERS))
            shutil.copytree(whole / name, copy)
            kind = change(copy, draw)
            called = child.call(outcome, name, copy, valid[name])
            yield called.trial(
                f"{name}: {kind}", FINE, f"number {number} of seed {seed}"
            )
            shutil.rmtree(copy)


def change(folder: Path, draw: random.Random) -> str:
    """Changes one file of a folder; returns the kind."""
    path = draw.choice([p for p in sorted(folder.rglob("*")) if p.is_file()])
    kind = draw.choice(["bytes", "bytes", "JSON", "removed", "emptied", "a folder"])
    if draw.random() < 0.1:
        kind = "a foreign file"
        name = draw.choice(["._x.png", "notes.txt", "x.png", "é.json", "0" * 200])
        (path.parent / name).write_bytes(draw.randbytes(draw.randrange(100)))
    elif kind == "JSON" and path.suffix == ".json":
        kind, value = mutators.changed_json(json.loads(path.read_bytes()), draw)
        path.write_text(mutators.text_of(value))
    elif kind in ("bytes", "JSON"):
        kind, content = mutators.changed_bytes(path.read_bytes(), draw)
        path.write_bytes(content)
    else:
        path.unlink()
        if kind == "emptied":
            path.touch()
        elif kind == "a folder":
            path.mkdir()
    return kind


def read(name: str, folder: Path) -> tuple[str, str]:
    """(digest, fingerprint) of all data in a folder."""
    source = _OPENERS[name](folder)
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for array in source.read(split):
            digest.update(str(array.shape).encode() + np.asarray(array).tobytes())
    return digest.hexdigest(), source.fingerprint


def outcome(name: str, folder: Path, valid: tuple[str, str]) -> str:
    """What reading a folder does; `valid` is the digest and fingerprint of its data."""
    try:
        digest, fingerprint = read(name, folder)
    except (ValueError, OSError) as error:
        return FINE[2] if str(error) else f"no reason: {error!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.300}"
    if digest == valid[0]:
        return FINE[0]
    return FINE[1] if fingerprint != valid[1] else "other data: "


def _write_prepared(folder: Path, generator: np.random.Generator) -> None:
    """CIFAR-10 as TFDS writes it, of a few images."""
    import tensorflow_datasets as tfds

    def examples(split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(IMAGES):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            yield i, {"id": f"{split}_{i}", "image": _png(pixels), "label": i}

    tfds.disable_progress_bar()
    builder: Any = tfds.builder("cifar10", data_dir=folder)
    splits = {split: examples(split) for split in ("train", "test")}
    builder._split_generators = lambda dl_manager: splits
    builder.download_and_prepare(file_format="array_record")


def _write_images(folder: Path, generator: np.random.Generator) -> None:
    for split in ("train", "test"):
        for label in range(CLASSES):
            own_folder = folder / split / f"class_{label}"
            own_folder.mkdir(parents=True)
            for i in range(IMAGES):
                pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
                (own_folder / f"{i}.png").write_bytes(_png(pixels))


def _write_arrays(folder: Path, generator: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        shape = CLASSES * IMAGES, 8, 8, 1
        arrays[f"x_{split}"] = generator.integers(0, 256, shape, np.uint8)
        arrays[f"y_{split}"] = np.arange(CLASSES * IMAGES) % CLASSES
    np.savez(folder / "arrays.npz", **arrays)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _ready() -> None:
    """Imports what reads; warnings of damage are no part of the count."""
    import tensorflow_datasets  # noqa: F401

    logging.disable(logging.CRITICAL)


WRITERS: Mapping[str, Callable[[Path, np.random.Generator], None]] = {
    "prepared": _write_prepared,
    "images": _write_images,
    "arrays": _write_arrays,
}
_OPENERS: Mapping[str, Callable[[Path], Source]] = {
    "prepared": lambda folder: datasets.open_source("cifar10", str(folder)),
    "images": lambda folder: own.from_image_folder(folder).open(""),
    "arrays": lambda folder: own.from_npz(folder / "arrays.npz").open(""),
}
