"""The report of a run, from a workdir that holds a checkpoint and a log."""

import contextlib
import dataclasses
import json
import re
import subprocess
import sys

import fsspec
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from iterand_jax.analysis import figure, report
from iterand_jax.analysis.printed import BARS, _sparkline, text
from iterand_jax.data import datasets
from iterand_jax.methods import magnitude
from iterand_jax.subnetwork import apply_masks
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.training import building
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.config import resolve
from iterand_jax.training.exporting import export
from iterand_jax.training.record import Record
from iterand_jax.training.workdir import claimed
from iterand_jax.trees import leaves_of
from tests import helpers
from tests.tickets.hub_server import served

STEP = 21  # three refreshes, one every seven steps


@pytest.fixture
def workdir(tiny_config, tmp_path):
    """The folder of a run whose scores never moved, from overrides of a config.

    A fixed sparsity makes of a run by SGD a retraining of magnitude pruning.
    """

    def make(name, *, fixed_sparsity=None, **overrides):
        config = resolve(tiny_config(**overrides))
        if fixed_sparsity:
            fields = {"method": "fixed_mask", "sparsity": fixed_sparsity}
            config = ConfigDict(config.to_dict() | fields)
        built = building.build(config, datasets.open_source("digits"))
        state = jax.jit(built.init_state)(built.root)._replace(step=np.int32(STEP))
        method = built.method
        for step in range(7, STEP + 1, 7) if method.refresh_every else ():
            frozen, _ = jax.jit(method.refresh)(
                built.root, step, state.trainable, state.frozen
            )
            state = state._replace(frozen=frozen)
        if fixed_sparsity:
            masks = magnitude.magnitude_masks(
                built.subnetwork, state.trainable, fixed_sparsity
            )
            state = state._replace(
                frozen=masks, trainable=apply_masks(state.trainable, masks)
            )
        folder = tmp_path / name
        with (
            claimed({folder: config}),
            contextlib.closing(Checkpoints(folder / "checkpoints", keep=1)) as saved,
        ):
            saved.save(STEP, state, dataclasses.asdict(Record()))
        number = sum(
            p.endswith("kernel") for p in leaves_of(built.weights(built.abstract))
        )
        lines = [
            {
                "kind": "step",
                "step": step,
                "mask_churn": 2.5 / step,
                "layer_churn": [(1 + i) / step for i in range(number)],
            }
            for step in (10, 20, 30)  # of which the last is beyond the checkpoint
        ]
        log = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(log)
        return folder

    return make


@pytest.mark.parametrize("number", [1, 8, 10, 12, 100])
def test_what_stays_the_same_is_drawn_so(number):
    """Also where columns represent unequal numbers of inputs."""
    assert set(_sparkline(np.full(number, 0.25))) == {BARS[-1]}


@pytest.mark.slow
def test_a_run_of_kaiming_uniform_weights_reports_their_ages(workdir):
    folder = workdir("run", distribution="kaiming_uniform")
    found = report.report(folder)
    assert [layer.path for layer in found.layers] == [
        f"{name}/kernel"
        for name in ("Conv_0", "Conv_1", "Dense_0", "Dense_1", "Dense_2")
    ]
    # What is kept here was always kept, so it was never redrawn.
    kept = sum(layer.kept for layer in found.layers)
    assert found.ages.tolist() == [kept, 0, 0, 0]
    assert found.churn == {10: 0.25, 20: 0.125}
    for i, layer in enumerate(found.layers):
        assert layer.churn == [(1 + i) / 10, (1 + i) / 20]
    printed = text(found)
    assert "Conv_0/kernel" in printed
    assert "100.0% of the kept weights have their initial value" in printed
    assert "unknown" not in printed
    assert (
        "25.00% of the masks changed to step 10, 12.50% from step 10 to 20" in printed
    )
    assert re.search(r"Conv_0/kernel .* 7\.50% █[▄▅] +", printed)
    widths = {len(line) for line in printed.splitlines()[1:7]}
    assert len(widths) == 1, printed


@pytest.mark.slow
def test_sparse_layers_have_dead_channels(workdir):
    found = report.report(workdir("run", sparsity=0.97, method="edge_popup"))
    dead = sum(layer.dead_inputs + layer.dead_outputs for layer in found.layers)
    assert dead > 0
    printed = text(found)
    removable = sum(layer.removable for layer in found.layers)
    assert f"the network has {removable:,} fewer weights" in printed
    assert "not shown: no weight was resampled" in printed


@pytest.mark.slow
def test_signed_constants_have_no_ages_and_masks_of_two_seeds_overlap_by_chance(
    workdir,
):
    folders = [workdir(f"seed{seed}", seed=seed) for seed in (0, 1)]
    found = report.report(*folders)
    assert found.constant
    assert "two values" in text(found)
    shares = np.array([found.overlaps[layer.path] for layer in found.layers])
    kept = [layer.kept for layer in found.layers]
    np.testing.assert_allclose(shares[:, 1], 0.5, atol=0.03)
    assert np.average(shares[:, 0], weights=kept) == pytest.approx(0.5, abs=0.05)
    assert "seed 1" in text(found)
    same = report.report(folders[0], folders[0])
    assert all(share == 1 for share, _ in same.overlaps.values())


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["signed_constant", "kaiming_uniform"])
def test_a_ticket_reports_what_its_run_does(distribution, workdir, tmp_path):
    folder, path = workdir("run", distribution=distribution), tmp_path / "ticket"
    export(folder, "ticket", path)
    run, ticket = report.report(folder), report.report(path, folder)
    assert ticket.title == run.title == ticket.other
    assert ticket.no_ages == run.no_ages
    for one, other in zip(run.layers, ticket.layers, strict=True):
        assert other.threshold is None
        unknown = {"threshold": None, "magnitude": None, "ages": None, "churn": ()}
        assert one._replace(**unknown) == other._replace(**unknown)
        np.testing.assert_array_equal(one.ages, other.ages)
    assert all(share == 1 for share, _ in ticket.overlaps.values())
    assert "Conv_0/kernel" in text(ticket)
    assert "threshold" in text(run)
    assert "threshold" not in text(ticket)
    figure.draw(ticket, tmp_path / "ticket.png")


def test_a_ticket_at_a_url_reports_what_its_file_does(workdir, tmp_path):
    folder, path = workdir("run"), tmp_path / "ticket"
    export(folder, "ticket", path)
    url = "memory://analyzed/ticket"
    fsspec.filesystem("memory").pipe_file("/analyzed/ticket", path.read_bytes())
    by_url, by_file = report.report(url, url), report.report(path, path)
    assert text(by_url) == text(by_file)
    assert all(share == 1 for share, _ in report.report(folder, url).overlaps.values())
    with pytest.raises(ValueError, match=r"^there is no ticket memory://analyzed/no$"):
        report.report(folder, "memory://analyzed/no")


@pytest.mark.slow
def test_the_command_reads_a_repository_of_the_hub(workdir, tmp_path):
    export(workdir("run"), "ticket", tmp_path / "ticket")
    command = helpers.command("analyze", "--ticket=hf://user/repo@v1")
    with served() as (hub, address):
        content = (tmp_path / "ticket").read_bytes()
        hub.contents["user/repo", "v1"] = {"ticket.safetensors": content}
        own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
        done = helpers.python(*command, env=own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Conv_0/kernel +3x3x1x4 +18 +36 ", done.stdout)
    assert "wrote analysis.png" in done.stdout
    assert (tmp_path / "analysis.png").stat().st_size > 10_000


@pytest.mark.slow
def test_weights_that_no_draw_equals_are_reported_as_unknown(workdir, tmp_path):
    """As of a run on a device whose inverse error function rounds differently."""
    export(workdir("run", distribution="kaiming_uniform"), "ticket", tmp_path / "whole")
    ticket, path = tickets.load(tmp_path / "whole"), tmp_path / "nudged"
    params = dict(ticket.params)
    nudged = np.nextafter(params["Dense_1"]["kernel"], np.float32(9))
    params["Dense_1"] = {"kernel": nudged}
    nudged = Ticket.of(ticket.description, params, ticket.masks, ticket.batch_stats)
    tickets.save(nudged, path)
    found = report.report(path)
    layers = {layer.path: layer for layer in found.layers}
    assert layers["Dense_1/kernel"].unknown == layers["Dense_1/kernel"].kept
    assert found.unknown == layers["Dense_1/kernel"].kept
    assert found.ages.tolist() == [
        sum(x.kept for x in found.layers) - found.unknown,
        *[0] * 3,
    ]
    printed = text(found)
    assert re.search(r"Dense_1/kernel .* 0\.0% +▁{3} +100\.0%\n", printed)
    share = found.unknown / sum(layer.kept for layer in found.layers)
    assert f"{share:.1%} of the kept weights: replaying the refreshes" in printed
    figure.draw(found, tmp_path / "unknown.png")


@pytest.mark.slow
def test_fixed_masks_are_reported_for_a_run_and_for_its_ticket(workdir, tmp_path):
    folder = workdir("run", method="sgd", fixed_sparsity=0.5)
    found = report.report(folder)
    kept = sum(layer.kept for layer in found.layers)
    size = sum(layer.size for layer in found.layers)
    assert kept == size - round(size * 0.5)
    printed = text(found)
    assert "fixed_mask" in printed.splitlines()[0]
    assert found.constant  # what is pruned is zero
    assert "not shown: no weight was resampled" in printed
    figure.draw(found, tmp_path / "fixed.png")
    export(folder, "ticket", tmp_path / "ticket")
    ticket = report.report(tmp_path / "ticket", folder)
    alike = {"magnitude": 0, "churn": ()}
    assert [x._replace(**alike) for x in ticket.layers] == [
        x._replace(**alike) for x in found.layers
    ]
    assert all(share == 1 for share, _ in ticket.overlaps.values())


def test_a_layer_that_keeps_nothing_has_dashes(workdir, tmp_path):
    """As global magnitude pruning may leave one; then the logits are all zero."""
    folder = workdir("run", distribution="kaiming_uniform")
    export(folder, "ticket", tmp_path / "whole")
    ticket = tickets.load(tmp_path / "whole")
    masks = dict(ticket.masks)
    masks["Conv_1"] = {"kernel": np.zeros_like(masks["Conv_1"]["kernel"])}
    empty = Ticket.of(ticket.description, ticket.params, masks, ticket.batch_stats)
    tickets.save(empty, tmp_path / "empty")
    found = report.report(tmp_path / "empty", folder)
    printed = text(found)
    assert "nan" not in printed
    assert re.search(r"Conv_1/kernel .* 0 +144 +- ", printed)
    assert re.search(r"in common +100\.0% of the kept weights", printed)
    assert sum(layer.removable_kept for layer in found.layers) == sum(
        layer.kept for layer in found.layers
    )
    figure.draw(found, tmp_path / "empty.png")


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["signed_constant", "kaiming_uniform"])
def test_the_figure_draws_what_there_is(distribution, workdir, tmp_path):
    folder = workdir("run", distribution=distribution)
    for other in (None, folder):
        path = tmp_path / f"{other is None}.png"
        figure.draw(report.report(folder, other), path)
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"cannot write .*nowhere"):
        figure.draw(report.report(folder), tmp_path / "nowhere" / "a.png")


def test_no_dot_hides_another_and_churn_is_a_row_for_each_layer(
    workdir, tmp_path, monkeypatch
):
    made, new = [], figure.new_figure
    monkeypatch.setattr(
        figure, "new_figure", lambda *size: made.append(new(*size)) or made[0]
    )
    found = report.report(workdir("run"))
    figure.draw(found, tmp_path / "a.png")
    by_label = {axes.get_xlabel(): axes for axes in made[0].axes}
    outputs, inputs = by_label["dead channels (%)"].get_lines()
    assert outputs.get_label() == "outputs"
    assert set(outputs.get_ydata()).isdisjoint(inputs.get_ydata())
    (mesh,) = (
        axes.collections[0]
        for axes in made[0].axes
        if axes.collections and axes.get_xlabel() == "step"
    )
    expected = [[100 * share for share in layer.churn] for layer in found.layers]
    np.testing.assert_allclose(mesh.get_array(), expected)
    assert made[0]._suptitle.get_text() == found.title


@pytest.mark.parametrize("number", [1, 7, 250])
def test_colours_of_churn_are_means_over_as_many_steps_as_a_column_has(
    number, workdir, tmp_path
):
    """Also for a run in which masks no longer changed."""
    found = report.report(workdir("run"))
    for share in (0.0, 0.25):
        layers = [la._replace(churn=[share] * number) for la in found.layers]
        churn = {10 * (i + 1): share for i in range(number)}
        figure.draw(found._replace(layers=layers, churn=churn), tmp_path / "a.png")
        axes = figure.new_figure(4, 4).subplots()
        figure._draw_layer_churn(axes, found._replace(layers=layers, churn=churn))
        (mesh,) = axes.collections
        colours = np.asarray(mesh.get_array())
        assert colours.shape == (len(layers), min(number, figure.COLUMNS))
        assert np.ptp(colours) < 1e-9
        assert axes.get_xlim() == (0, 10 * number)


@pytest.mark.slow
def test_runs_that_cannot_be_compared_are_refused(workdir):
    small = workdir("small", method="edge_popup")
    large = workdir("large", method="edge_popup", **{"network.width": 0.125})
    with pytest.raises(ValueError, match="masks of different networks"):
        report.report(small, large)
    dense, refusal = workdir("dense", method="sgd"), "its method, sgd, prunes nothing"
    export(dense, "ticket", dense / "ticket")
    for path in (dense, dense / "ticket"):
        with pytest.raises(ValueError, match=refusal):
            report.report(path)


@pytest.mark.parametrize(
    "change",
    [
        {"layer_churn": ["x"] * 5},
        {"layer_churn": [None] * 5},
        {"layer_churn": [float("nan")] * 5},
        {"layer_churn": [-0.1] * 5},
        {"layer_churn": [10**400] * 5},
        {"layer_churn": [0.1] * 4},
        {"mask_churn": float("inf")},
        {"mask_churn": [0.1]},
        {"step": -(10**400)},
        {"step": 7},
    ],
    ids=lambda change: f"{change!r:.30}",
)
def test_a_log_of_what_is_no_churn_is_refused_by_its_name(change, workdir):
    folder = workdir("run")
    log = folder / "metrics.jsonl"
    lines = [json.loads(line) | change for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=f"{re.escape(str(log))} has "):
        report.report(folder)


def test_churn_of_less_than_a_weight_is_drawn(workdir, tmp_path):
    folder = workdir("run")
    log = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        line["layer_churn"] = [5e-324] * len(line["layer_churn"])
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure.draw(report.report(folder), tmp_path / "figure.png")


@pytest.mark.parametrize(
    "change",
    [
        {"method": 3},
        {"method": "m" * 2000},
        {"distribution": None},
        {"distribution": "nowhere:to_be_found"},
        {"sparsity": 10**400},
        {"sparsity": 0.5, "pattern": [2, 4]},
        {"step": -1},
    ],
    ids=lambda change: f"{change!r:.50}",
)
def test_a_ticket_of_what_is_no_run_is_refused_by_its_name(change, workdir, tmp_path):
    path = tmp_path / "ticket"
    export(workdir("run"), "ticket", path)
    ticket = tickets.load(path)
    run = {**ticket.description.run, **change}
    described = dataclasses.replace(ticket.description, run=run)
    dataclasses.replace(ticket, description=described).save(path)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} cannot be analyzed"):
        report.report(path)


def test_a_ticket_of_integers_that_are_no_texts_is_refused(workdir, tmp_path):
    path = tmp_path / "ticket"
    export(workdir("run"), "ticket", path)
    ticket = tickets.load(path)
    inputs = (((1, 8, 8, 1), "uint8"),)
    described = dataclasses.replace(ticket.description, inputs=inputs)
    dataclasses.replace(ticket, description=described).save(path)
    with pytest.raises(ValueError, match=r"analyzed: its inputs are .*'uint8'"):
        report.report(path)


def test_a_ticket_that_says_no_sparsity_has_none_in_its_title(workdir, tmp_path):
    folder, path = workdir("run"), tmp_path / "ticket"
    export(folder, "ticket", path)
    ticket = tickets.load(path)
    about = {k: v for k, v in ticket.description.run.items() if k != "sparsity"}
    described = dataclasses.replace(ticket.description, run=about)
    dataclasses.replace(ticket, description=described).save(path)
    assert "sparsity" not in report.report(path).title


@pytest.mark.slow
def test_the_command_prints_the_table_and_writes_the_figure(workdir, tmp_path):
    folder = workdir("run")
    command = [sys.executable, "-m", "iterand_jax.analyze"]
    done = subprocess.run(
        [*command, f"--workdir={folder}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Conv_0/kernel +3x3x1x4 +18 +36 ", done.stdout)
    assert (folder / "analysis.png").exists()
    absent = subprocess.run(
        [*command, f"--workdir={tmp_path / 'no'}"], capture_output=True, text=True
    )
    assert absent.returncode == 2
    assert re.fullmatch(r"error: .*config\.json.*\n", absent.stderr)
    neither = subprocess.run(command, capture_output=True, text=True)
    assert neither.returncode == 2
    assert "give one of --workdir=DIR and --ticket=FILE" in neither.stderr
