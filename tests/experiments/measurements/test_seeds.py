"""Forms of training several seeds at once are measured beside one alone."""

import json
import threading

import jax
import numpy as np
import pytest

from experiments.measurements import benchmark_programs, seeds, synthetic
from iterand_jax.training.programs import step_of


def test_an_unknown_cell_is_one_line(fails):
    fails(seeds, ["--cells=conv7"], "conv7", "possible: digits, conv6")


def test_a_process_that_fails_is_not_waited_for(monkeypatch):
    def build(cell):
        raise MemoryError("17 GiB")

    monkeypatch.setattr(seeds, "_build", build)
    barrier = threading.Barrier(2)
    with pytest.raises(MemoryError):
        seeds._train(seeds.CELLS["digits"], 1.0, barrier, None)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(60)


def test_mapped_steps_are_those_of_each_seed():
    """To rounding: the convolutions are other programs."""
    run = synthetic.build("digits", **{"network.width": 1 / 16})
    state = benchmark_programs.first_state(run)
    batch = synthetic.batch(run.feed.train_shapes()[0])
    mapped, count = benchmark_programs.under_vmap(run, state, batch, 2)
    alone, _ = benchmark_programs.training(run, state, batch)
    assert count == 2
    assert mapped().tolist() == [int(alone())] * 2 == [1, 1]
    step = jax.jit(step_of(run))
    expected = step(state, batch, run.root).trainable
    stacked = benchmark_programs._stacked((state, batch, run.root), 2)
    found = jax.jit(jax.vmap(step_of(run)))(*stacked).trainable
    for one, both in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(both, [one, one], atol=1e-5)


@pytest.mark.slow
def test_the_forms_are_measured_and_recorded(command, tmp_path, capfd):
    out = tmp_path / "record.json"
    flags = ("--cells=digits", "--seeds=2", "--seconds=0.5", f"--out={out}")
    assert command(seeds, *flags) == 0
    record = json.loads(out.read_text())
    row = record["rows"]["digits"]
    assert row.keys() == {"alone, seed-steps/s", "unrolled", "under vmap", "processes"}
    assert all(value > 0 for value in row.values())
    assert capfd.readouterr().out.startswith("digits: alone, seed-steps/s ")
