"""Shared helpers of tests: train runs, interrupt them, and start processes."""

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from iterand_jax.configs import imdb_lstm
from iterand_jax.data import datasets
from iterand_jax.data.resident_feed import ResidentImages
from iterand_jax.data.sources import Source
from iterand_jax.networks import NETWORKS
from iterand_jax.runtime.signals import SIGNALS, InterruptedRunError
from iterand_jax.training import building, loop
from iterand_jax.training.config import replicas_of, resolve
from iterand_jax.training.logs import read_lines
from iterand_jax.training.replica import Replica

ROOT = Path(__file__).resolve().parents[1]
TIMINGS = {"seconds", "examples_per_second", "startup", "waiting_seconds"}
REPEATING = {
    "resnet34",
    "imagenet_resnet34",
    "imagenet_resnet101",
    "imagenet_wide_resnet50_2",
}
"""Networks of the blocks of another one, more of them or wider, which take minutes."""
ONE_OF_A_KIND = tuple(name for name in NETWORKS if name not in REPEATING)


def slow_or_exhaustive(slow):
    """The mark of a cell of a table of which the slow tests have a part."""
    return pytest.mark.slow if slow else pytest.mark.exhaustive


def table(cells, slow):
    """The parameters of a table, of which the cells of a condition are slow."""
    return [
        pytest.param(
            *(cell if isinstance(cell, tuple) else [cell]),
            marks=slow_or_exhaustive(slow(cell)),
        )
        for cell in cells
    ]


def build(config, source="digits"):
    """The run of a config, on a source or on the dataset of this name."""
    if isinstance(source, str):
        source = datasets.open_source(source)
    return building.build(resolve(config), source)


def train(config, workdir, source="digits"):
    """Trains the run of a config in a folder; returns its outcome."""
    workdir.mkdir(exist_ok=True)
    return loop.train_and_evaluate(build(config, source), workdir)


def train_together(config, folder):
    """Trains the replicas of a config, each in a folder named after its seed."""
    source = datasets.open_source("digits")
    runs = [building.build(own, source) for own in replicas_of(resolve(config))]
    folders = [folder / str(run.config.seed) for run in runs]
    for own in folders:
        own.mkdir(parents=True, exist_ok=True)
    return loop.train_together(runs, folders)


def untimed(record):
    """A JSON record without measured times."""
    if isinstance(record, dict):
        return {k: untimed(v) for k, v in record.items() if k not in TIMINGS}
    return [untimed(one) for one in record] if isinstance(record, list) else record


def metrics(workdir):
    """The lines of a run's log, without measured times."""
    return untimed(read_lines(workdir / "metrics.jsonl"))


def facts(outcome):
    """Everything that must be equal between two runs of a config."""
    numbers = dataclasses.asdict(dataclasses.replace(outcome, state=None))
    return untimed(numbers)


@contextlib.contextmanager
def replaced(owner, name, value):
    """Replaces the value of an attribute within the context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


class Killed(Exception):
    """Stands for a kill: ends a run without cleanup or output."""


@contextlib.contextmanager
def killed(at, folder=""):
    """Kills a run in a workdir of this name once it has logged a step."""
    log_step = Replica.log_step

    def dying(self, numbers, step):
        log_step(self, numbers, step)
        if step == at and folder in ("", self._workdir.name):
            raise Killed

    with replaced(Replica, "log_step", dying), pytest.raises(Killed):
        yield


@contextlib.contextmanager
def stopped(step, number):
    """Stops a run at a step by a signal; restores the handlers."""
    before = [signal.getsignal(one) for one in SIGNALS]
    message = f"stopped at step {step} by {number.name}"
    with pytest.raises(InterruptedRunError, match=message) as error:
        yield
    assert (error.value.step, error.value.number) == (step, number)
    assert [signal.getsignal(one) for one in SIGNALS] == before


@contextlib.contextmanager
def signalled(at, number):
    """Sends a signal with the batch of a step, after which the run stops."""
    read = ResidentImages.batch

    def batch(self, step):
        if step == at:
            signal.raise_signal(number)
        return read(self, step)

    with replaced(ResidentImages, "batch", batch), stopped(at + 1, number):
        yield


def python(*arguments, devices=None, env=None, inherit=True, **options):
    """Runs a process of this interpreter in which JAX sees this many devices.

    The variables of `env` are added to those here, if it inherits them; other options
    are those of `subprocess.run`. One that hangs ends after twenty minutes.
    """
    environment = (dict(os.environ) if inherit else {}) | (env or {})
    if devices:
        flag = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = flag
    command = [sys.executable, *map(str, arguments)]
    defaults = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 1200}
    options = defaults | options
    return subprocess.run(command, env=environment, check=False, **options)


def printed(*arguments, **options):
    """The output of a process of this interpreter; asserts that it succeeds."""
    done = python(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def command(name, *flags):
    """The words of a command of the package, as `python("-m", ...)` takes them."""
    return ["-m", f"iterand_jax.{name}", *map(str, flags)]


def started(*arguments, **options):
    """Starts a process of this interpreter, its output piped as text."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    argv = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(argv, **{"cwd": ROOT} | piped | options)


def wait_for_step(step, workdir, process):
    """Waits for a log line of this step or a later one; returns its step."""
    while True:
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        lines = read_lines(workdir / "metrics.jsonl")
        if lines and lines[-1]["step"] >= step:
            return lines[-1]["step"]
        time.sleep(0.01)  # the process may share this core


def assert_trees_equal(a, b):
    """Asserts that two trees have one structure, and equal leaves."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def refused(call, *arguments, **options):
    """The message of the ValueError that a call raises, which is one line."""
    with pytest.raises(ValueError, match=r"\S") as error:
        call(*arguments, **options)
    message = str(error.value)
    assert message.isprintable(), message
    return message


def assert_one_line_error(done, *words):
    """Asserts that a process ended with status 2 and one line with these words."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def encode(image, image_format="JPEG", **options):
    """The bytes of a Pillow image as a file."""
    buffer = io.BytesIO()
    options = {"quality": 95} | options if image_format == "JPEG" else options
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


class Records:
    """Records whose images are of one colour, which is their index, as is their label.

    Those with an index in `bad` cannot be decoded.
    """

    def __init__(self, number, bad=()):
        self._number, self._bad = number, bad

    def __len__(self):
        return self._number

    def __getitem__(self, index):
        image = encode(Image.new("RGB", (8, 8), (index, 0, 0)), "PNG")
        return {
            "image": b"bad" if index in self._bad else image,
            "label": index,
            "file_name": f"{index}.JPEG".encode(),
        }

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def numbered_source(train=30, validation=10, bad=()):
    """ImageNet of `Records`."""
    sizes = {"train": train, "validation": validation}
    return Source(
        name="imagenet2012",
        num_classes=1000,
        sizes=sizes,
        encoding="jpeg",
        fingerprint="0" * 16,
        read=lambda split: Records(sizes[split], bad),
    )


REVIEWS = {"train": 120, "test": 30}


def read_reviews(split):
    """Reviews of 2 to 14 words, one of which determines the label."""
    rng = np.random.default_rng(len(split))
    labels = rng.integers(0, 2, REVIEWS[split]).astype(np.int32)
    texts = []
    for label in labels:
        words = rng.choice(["a", "film", "of", "the"], rng.integers(2, 15))
        words[rng.integers(len(words))] = ("bad", "good")[label]
        texts.append(" ".join(words))
    return texts, labels


def reviews_source():
    """Reviews for bounds of 6 and 15 words."""
    return Source("tiny", 2, REVIEWS, "text", "0" * 16, read_reviews)


def reviews_config(**overrides):
    """An LSTM at width 1/32 on these reviews: 2 epochs of 10 steps."""
    config = imdb_lstm.get_config()
    config.network.width = 1 / 32
    config.epochs = 2
    config.batch_size = 8
    config.recipe.iterand.k_per = 4
    config.log_every_steps = 5
    config.checkpoint_every_steps = 6
    config.update_from_flattened_dict(overrides)
    return config
