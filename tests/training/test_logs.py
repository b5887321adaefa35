"""Logs contain what was written; a log that cannot be written ends the run."""

import gc
import os
import resource
import struct
import tracemalloc

import pytest

from iterand_jax.training import logs
from iterand_jax.training.logs import (
    BackgroundLog,
    Clock,
    MetricsLog,
    SilentLog,
    read_lines,
)

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


def test_a_line_is_in_both_before_the_log_is_closed(tmp_path):
    log = MetricsLog(tmp_path, from_step=0)
    log.write(LINE | {"layer_churn": [0.5]})
    assert read_lines(tmp_path / "metrics.jsonl") == [LINE | {"layer_churn": [0.5]}]
    version, event = events(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert event.step == 10
    values = {value.tag: value.simple_value for value in event.summary.value}
    assert values == {"step/epoch": 0.5, "step/train_loss": 2.25, "step/redrawn": 7}
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


def test_a_log_in_the_background_is_whole_once_it_is_waited_for(tmp_path):
    log = BackgroundLog(lambda: MetricsLog(tmp_path, from_step=0))
    log.open()
    for step in range(200):
        log.write(LINE | {"step": step})
    log.wait()
    written = [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert written == list(range(200))
    log.write(LINE | {"step": 200})
    log.close()
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["step"] == 200


class Failing(SilentLog):
    """Fails at the second record, and collects those that it gets."""

    def __init__(self):
        self.records, self.closed = [], False

    def write(self, record):
        self.records.append(record)
        if record == 2:
            raise OSError("full")

    def close(self):
        self.closed = True


def test_a_log_in_the_background_writes_nothing_after_a_failure_and_says_so_once():
    failing = Failing()
    log = BackgroundLog(lambda: failing)
    log.open()

    def write_many():
        for number in range(1, 1_000_000):
            log.write(number)

    with pytest.raises(OSError, match="full"):
        write_many()
    log.wait()
    assert failing.records == [1, 2]
    log.close()
    assert failing.closed


def test_a_log_in_the_background_that_cannot_be_opened_says_so_once(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    log = BackgroundLog(lambda: MetricsLog(tmp_path, from_step=0))
    log.open()
    with pytest.raises(OSError, match="tensorboard cannot be written: File exists"):  # noqa: PT012
        log.write(LINE)  # says so if its thread has been faster
        log.wait()
    log.write(LINE)
    log.close()
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_a_log_in_the_background_that_was_not_opened_is_closed(tmp_path):
    BackgroundLog(lambda: MetricsLog(tmp_path, from_step=0)).close()
    assert not [*tmp_path.iterdir()]


def test_laps_are_all_the_time_that_no_phase_has(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logs.time, "perf_counter", lambda: now[0])
    clock = Clock({"training": 5.0})
    now[0] += 3
    clock.start()
    now[0] += 10
    clock.lap("training")
    with clock.measure("evaluation"):
        now[0] += 20
    now[0] += 40
    clock.lap("training")
    clock.lap("training")
    assert clock.seconds == {"training": 55.0, "evaluation": 20.0}


def test_damaged_lines_are_named_and_set_aside_and_the_log_goes_on(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    lines = [
        b'{"step": 5}',
        b'{"step": 1',
        b"\xff",
        b"[]",
        b'{"step": "7"}',
        b"[" * 100_000,
        b'{"step": 10}',
        b'{"step": 15',
    ]
    path.write_bytes(b"\n".join(lines))
    assert read_lines(path) == [{"step": 5}, {"step": 10}]
    with caplog.at_level("WARNING"):
        MetricsLog(tmp_path, from_step=10).close()
    assert "damaged line 2 of " in caplog.text
    assert f"{path}: it is not JSON; set aside in damaged_metrics.jsonl" in caplog.text
    assert path.read_bytes() == lines[0] + b"\n" + lines[-2] + b"\n"
    aside = (tmp_path / "damaged_metrics.jsonl").read_bytes()
    assert aside == b"".join(line + b"\n" for line in lines[1:-2])


def test_a_log_that_is_a_link_or_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"metrics.jsonl is no regular file"):
        read_lines(path)
    path.unlink()
    path.write_text('{"step": 5}\n')
    assert read_lines(path) == [{"step": 5}]
    monkeypatch.setattr(logs, "MOST_BYTES", 11)
    with pytest.raises(ValueError, match=r"metrics.jsonl has over 11 bytes$"):
        read_lines(path)


def test_a_small_log_takes_no_memory_of_a_large_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n')
    tracemalloc.start()
    try:
        assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 5}]
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_what_is_set_aside_counts_in_no_other_phase(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logs.time, "perf_counter", lambda: now[0])
    clock = logs.Clock({"training": 10.0})
    now[0] = 103.0
    clock.set_aside("compilation", 2.0)
    clock.lap("training")  # 3 seconds, 2 of them for a program
    with clock.measure("re-randomization"):
        now[0] = 110.0
        clock.set_aside("compilation", 6.5)
    now[0] = 111.0
    clock.lap("training")
    assert clock.seconds == {
        "training": 12.0,
        "compilation": 8.5,
        "re-randomization": 0.5,
    }
