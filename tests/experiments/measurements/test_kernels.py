"""Kernels are counted by loop, and the record is of today's step."""

import importlib.util
import json
from pathlib import Path

import jax
import pytest

from experiments.measurements import kernels, synthetic
from iterand_jax import configs

RECORDS = Path(__file__).parents[3] / "results/benchmarks"
RECORD = json.loads((RECORDS / "kernels.json").read_text())
PROGRAM = """\
HloModule jit_train

%fused_add (p: f32[]) -> f32[] {
  %p = f32[] parameter(0)
  ROOT %sum = f32[] add(%p, %p)
}

%inner (x: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %a = f32[] fusion(%x), kind=kLoop, calls=%fused_add
}

%outer (y: f32[]) -> f32[] {
  %y = f32[] parameter(0)
  %c = f32[] custom-call(%y), custom_call_target="gemm"
  %l = f32[] while(%c), condition=%c, body=%inner, {"known_trip_count":{"n":"8"}}
  ROOT %b = f32[] fusion(%l), kind=kLoop, calls=%fused_add
}

ENTRY %main (z: f32[]) -> f32[] {
  %z = f32[] parameter(0)
  %d = f32[] copy(%z)
  ROOT %w = f32[] while(%d), condition=%c, body=%outer
}
"""


def test_kernels_of_an_inner_loop_count_once_for_each_trip():
    entry = kernels.loops_of(PROGRAM)
    assert entry.kernels == {"copy": 1}
    (step,) = entry.inside
    assert step.trips is None
    assert step.kernels == {"custom-call": 1, "fusion": 1}
    assert step.inside == [kernels.Loop({"fusion": 1}, 8, [])]
    assert step.total == 2 + 8 * 1


def test_a_row_shows_the_count_of_an_older_record():
    row, same_bits = [r for r in RECORD["rows"] if r["config"] == "cifar_conv6"]
    fusions = str(row["by_kind"]["fusion"])
    assert kernels.line(row, []).split()[3:5] == [str(row["kernels"]), fusions]
    older = row | {"kernels": 999}
    assert kernels.line(row, [older]).split()[3:5] == [str(row["kernels"]), "999"]
    other = older | {"chip": "h100"}
    assert "999" not in kernels.line(row, [other])
    assert kernels.line(same_bits, [older]).startswith("cifar_conv6, same bits  ")
    assert "999" not in kernels.line(same_bits, [older])


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is not None,
    reason="a plugin, perhaps the compiler for CUDA, is installed",
)
def test_without_the_compiler_one_line_says_what_to_install(fails, monkeypatch):
    for name in kernels.WITHOUT_A_GPU:
        monkeypatch.setenv(name, "")  # the command sets them; undone after the test
    install = f"pip install jax-cuda13-plugin=={jax.lib.__version__}"
    fails(kernels, ["--configs=cifar_conv6"], install, out=kernels.HEAD + "\n")


@pytest.mark.slow
@pytest.mark.skipif(
    jax.__version__ != RECORD["versions"]["jax"],
    reason="another jax makes other operations of the same step",
)
@pytest.mark.parametrize("row", RECORD["rows"][::2], ids=lambda row: row["config"])
def test_the_record_is_of_the_step_of_today(row):
    run = synthetic.build(row["config"], dtype=row["dtype"], **row["fields"])
    found = kernels.operations(kernels.lower(run).as_text())
    assert found == row["operations"], "count again: experiments.measurements.kernels"


def test_the_same_bits_cost_no_kernel_of_an_image_network():
    """Of text it does: the gradient of an embedding is a scatter, in order then."""
    others = json.loads((RECORDS / "kernels_of_other_configs.json").read_text())
    rows = RECORD["rows"] + others["rows"]
    assert {row["config"] for row in rows} == {*configs.names()} - {"default"}
    pairs = zip(rows[::2], rows[1::2], strict=True)
    for row, same_bits in pairs:
        assert same_bits["fields"] == row["fields"] | {"deterministic": True}
        assert same_bits["operations"] == row["operations"]
        assert (same_bits["kernels"] == row["kernels"]) == ("imdb" not in row["config"])
