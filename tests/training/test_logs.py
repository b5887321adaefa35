"""Logs say what was written, and end a run that they cannot be written for."""

import gc
import os
import resource
import struct

import pytest

from iterand_jax.training.logs import MetricsLog, read_lines

LINE = {"kind": "step", "step": 10, "epoch": 0.5, "train_loss": 2.25, "redrawn": 7}


def events(folder):
    """The events of a TensorBoard file: a length, its checksum, the bytes, theirs."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        found.append(Event.FromString(data[place + 12 : place + 12 + length]))
        place += length + 16
    return found


def test_a_line_is_told_to_both_before_the_log_is_closed(tmp_path):
    log = MetricsLog(tmp_path, from_step=0)
    log.write(LINE | {"layer_churn": [0.5]})
    assert read_lines(tmp_path / "metrics.jsonl") == [LINE | {"layer_churn": [0.5]}]
    version, event = events(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert event.step == 10
    told = {value.tag: value.simple_value for value in event.summary.value}
    assert told == {"step/epoch": 0.5, "step/train_loss": 2.25, "step/redrawn": 7}
    log.close()


def test_a_log_that_continues_hides_what_was_beyond_its_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n')
    MetricsLog(tmp_path, from_step=15).close()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 10}]
    _, event = events(tmp_path / "tensorboard")
    assert event.step == 16
    assert event.session_log.status == event.session_log.START


@pytest.mark.parametrize("limit", [1 << 10, 1 << 12])
@pytest.mark.parametrize(
    ("more", "first"),
    [({}, "tensorboard"), ({"layer_churn": [0.5] * 100}, "metrics.jsonl")],
    ids=["short lines", "long lines"],
)
def test_a_log_that_cannot_be_written_says_so(more, first, limit, tmp_path):
    """A limit on the size of files fails a write as a full disk does."""
    log = MetricsLog(tmp_path, from_step=0)

    def write_many():
        for step in range(1000):
            log.write(LINE | {"step": step} | more)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=f"{first} cannot be written: File too"):
            write_many()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.stat(tmp_path / "metrics.jsonl").st_size <= limit
    log.close()


def test_a_log_that_cannot_be_opened_leaves_nothing_open(tmp_path):
    """An open file would be a ResourceWarning, which is an error here."""
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(OSError, match="tensorboard cannot be written: File exists"):
        MetricsLog(tmp_path, from_step=0)
    gc.collect()
