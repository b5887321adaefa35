"""Sweeps as data: cells, filters, seeds and shards."""

import doctest
import itertools

import pytest

from experiments.paper import experiment
from experiments.paper import names as labels
from experiments.paper.catalogue import EXPERIMENTS
from experiments.paper.experiment import Cell, grid, make_cell, shortened
from experiments.reports import metrics
from experiments.sweeps import runs
from experiments.sweeps.runs import runs_of, shard
from iterand_jax.training.config import resolve
from tests.experiments.conftest import TINY

TABLE3 = EXPERIMENTS["table3"]


@pytest.mark.smoke
def test_a_cell_is_its_labels_a_config_file_and_overrides():
    labels = {"network": "conv6", "method": "sgd", "distribution": "KU", "width": 0.25}
    cell = make_cell(labels, {"conv6": "cifar_conv6"}, {})
    assert cell.name == "conv6 sgd KU width=0.25"
    config = cell.config(seed=2)
    assert (config.seed, config.method, config.network.width) == (2, "sgd", 0.25)
    assert config.distribution == "kaiming_uniform"
    assert runs.folder_name(config) == "cifar10_conv6_w0.25_sgd_KU_100epochs"


def test_a_method_can_have_a_config_file_of_its_own():
    configs = {"vgg11": "cifar_vgg11", "vgg11 imp": "cifar_vgg11_imp"}
    imp, sgd = (
        make_cell({"network": "vgg11", "method": method}, configs, {})
        for method in ("imp", "sgd")
    )
    assert (imp.base, sgd.base) == ("cifar_vgg11_imp", "cifar_vgg11")


@pytest.mark.parametrize(
    ("base", "epochs", "fields"),
    [
        ("cifar_conv6", 2, {}),
        ("imagenet_resnet18", 21, {"warmup_epochs": 1, "final_epochs": 1}),
        ("imagenet_resnet18", 3, {"warmup_epochs": 0, "final_epochs": 0}),
        ("cifar_vgg11_imp", 16, {"milestones": (8, 12), "rewind_epochs": 0}),
        ("cifar_vgg11_imp", 160, {"milestones": (80, 120), "rewind_epochs": 1}),
    ],
)
def test_a_shortened_cell_keeps_the_proportions_of_its_schedule(base, epochs, fields):
    method = "imp" if "imp" in base else "iterand"
    cell = shortened(Cell({}, base, {"method": method}), epochs)
    assert cell.overrides == {"method": method, "epochs": epochs, **fields}
    assert cell.config(0).k_per == resolve(cell.draft(0)).k_per


def test_k_per_follows_the_epochs_where_asked():
    cell = Cell({}, "cifar_conv6", {"method": "iterand"})
    for epochs, k_per in ((100, 300), (2, 6), (1, 3)):
        short = shortened(cell, epochs, k_per=True)
        assert short.config(0).k_per == k_per
    assert shortened(cell, 2).config(0).k_per == 300


def test_a_cell_with_all_epochs_is_the_full_cell():
    full, same = TABLE3.cells(), TABLE3.cells(100)
    assert [cell.config(0) for cell in full] == [cell.config(0) for cell in same]


def names(only):
    return [cell.name for cell in runs.select(TABLE3.cells(), only)]


def test_filters_by_hand():
    assert len(names("")) == 60
    assert len(names("conv6")) == 20
    assert names("conv6,sgd,width=0.25") == ["conv6 sgd KU width=0.25"]
    assert names("conv6, sgd, width=1.0, width=.5") == [
        "conv6 sgd KU width=0.5",
        "conv6 sgd KU width=1",
    ]
    assert names("network=resnet34,method=iterand,SC,width=2") == [
        "resnet34 iterand SC width=2"
    ]


@pytest.mark.parametrize(
    ("only", "words"),
    [
        ("conv7", ["'conv7'", "conv6, iterand, SC, width=0.25"]),
        ("width=3", ["'width=3'", "width=0.25, width=0.5"]),
        ("depth=3", ["'depth=3'"]),
        ("width=", ["'width='"]),
        ("sgd,SC", ["sgd,SC"]),
    ],
)
def test_a_filter_that_chooses_nothing_names_what_is_possible(only, words):
    with pytest.raises(ValueError, match=r"possible|cells are") as raised:
        names(only)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("text", ["", "0", "x", "3-", "-3", "4-2", "1.5"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="--seeds"):
        runs.parse_seeds(text)


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "a/b", "1/", "1/2/3", "-1/2"])
def test_shards_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="--shard"):
        runs.parse_shard(text)


@pytest.mark.parametrize("whole_cells", [False, True])
@pytest.mark.parametrize("of", [1, 2, 7, 60])
def test_shards_are_a_partition_on_every_machine(of, whole_cells):
    planned = runs_of(TABLE3.cells(), [0, 1, 2])
    parts = [
        shard(planned, which, of, whole_cells=whole_cells) for which in range(1, of + 1)
    ]
    names = [run.name for run in itertools.chain.from_iterable(parts)]
    assert sorted(names) == sorted(run.name for run in planned)
    # The shard of a run does not depend on the other runs or their order.
    again = shard(planned[::-1], 1, of, whole_cells=whole_cells)
    assert {run.name for run in again} == {run.name for run in parts[0]}
    if whole_cells:
        homes = [{run.folder for run in part} for part in parts]
        assert sum(map(len, homes)) == len({run.folder for run in planned})
    # No shard gets all of the widest: these are a quarter of the runs.
    if of == 2:
        for part in parts:
            widest = [run for run in part if run.cell.labels["width"] == 2.0]
            assert 10 < len(widest) < 35


def test_seeds_of_a_cell_become_one_job_where_they_can():
    both, apart = (runs_of(TINY.cells(), seeds) for seeds in ([0, 1], [0, 2]))
    alone = runs.jobs_of(both, together=False)
    assert [len(job) for job in alone] == [1, 1, 1, 1]
    assert [len(job) for job in runs.jobs_of(both, together=True)] == [2, 2]
    assert [len(job) for job in runs.jobs_of(apart, together=True)] == [1, 1, 1, 1]


def test_a_grid_varies_its_last_axis_fastest():
    assert grid(a=["x", "y"], b=[1, 2])[:3] == [
        {"a": "x", "b": 1},
        {"a": "x", "b": 2},
        {"a": "y", "b": 1},
    ]


@pytest.mark.parametrize("module", [experiment, metrics, labels, runs])
def test_the_examples_in_docstrings_hold(module):
    failed, tried = doctest.testmod(module)
    assert tried > 0 == failed
