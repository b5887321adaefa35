"""A trained run is exported and equals the run."""

import functools
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import fsspec
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

import iterand_jax
from iterand_jax import export
from iterand_jax.configs import load
from iterand_jax.data.datasets import open_source
from iterand_jax.tickets import formats
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.training import exporting, outputs
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json
from iterand_jax.training.train import train_config
from iterand_jax.training.workdir import restore
from iterand_jax.trees import leaves_of
from tests import helpers
from tests.tickets.hub_server import served


def accuracy_of(ticket):
    images, labels = open_source("digits").read("test")
    return 100 * np.mean(np.argmax(ticket.apply(images), axis=-1) == labels)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["kaiming_uniform", "signed_constant"])
def test_a_run_is_packed_replayed_and_evaluated(
    distribution, tiny_config, tmp_path, capsys
):
    """30 refreshes whose masks move, and a ticket that answers as the run did."""
    options = {"k_per": 2, "sampling_rate": 0.5, "network.width": 0.25}
    config = tiny_config(distribution=distribution, **options)
    result = train_config(config, str(tmp_path))
    capsys.readouterr()
    path = tmp_path / "ticket.safetensors"
    exporting.export(tmp_path, "ticket", path)
    ticket = iterand_jax.load_ticket(path)
    np.testing.assert_allclose(accuracy_of(ticket), result["test_accuracy"], 1e-6)
    assert ticket.description.run["step"] == result["steps"] == 60

    model, state, _ = restore(tmp_path)
    effective = model.params(state)
    for path_, masked in leaves_of(effective).items():
        rebuilt, mask = leaves_of(ticket.params)[path_], leaves_of(ticket.masks)[path_]
        frozen = leaves_of(state.frozen)[path_]
        np.testing.assert_array_equal(rebuilt, masked)
        assert rebuilt[mask].tobytes() == frozen[mask].tobytes()
        assert 0.4 < mask.mean() < 0.6

    printed = capsys.readouterr().out
    dense = sum(4 * leaf.size for leaf in jax.tree.leaves(ticket.params))
    assert f"against {dense / 1e6:.2f} MB in float32" in printed
    assert str(path) in printed
    kinds = {
        "kaiming_uniform": r"\(mask [\d.]+, drawn [\d.]+, draw [\d.]+\)",
        "signed_constant": r"\(mask [\d.]+, sign [\d.]+, scale [\d.]+\)",
    }
    assert re.search(kinds[distribution], printed)
    assert path.stat().st_size < dense / 8


@pytest.mark.slow
def test_the_checkpoint_of_a_step_is_exported(tiny_config, tmp_path):
    train_config(tiny_config(epochs=2, keep_checkpoints=2), str(tmp_path))
    path = tmp_path / "out.safetensors"
    exporting.export(tmp_path, "ticket", path, step=30)
    assert iterand_jax.load_ticket(path).description.run["step"] == 30
    refusal = r"no checkpoint of step 10 in .*possible: 30, 40"
    with pytest.raises(ValueError, match=refusal):
        exporting.export(tmp_path, "ticket", path, step=10)


def test_a_run_by_sgd_is_a_dense_ticket(tiny_config, tmp_path):
    result = train_config(tiny_config(epochs=1, method="sgd"), str(tmp_path))
    exporting.export(tmp_path, "ticket", tmp_path / "out.safetensors")
    ticket = iterand_jax.load_ticket(tmp_path / "out.safetensors")
    np.testing.assert_allclose(accuracy_of(ticket), result["test_accuracy"], 1e-6)
    assert leaves_of(ticket.masks) == {}
    assert ticket.description.draws is None
    trainable = restore(tmp_path).state.trainable
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ticket.params, trainable)))


class Run(NamedTuple):
    """A run, and what its state holds and answers."""

    folder: Path
    arrays: dict  # masked weights and statistics, by path
    images: np.ndarray
    logits: np.ndarray


@pytest.fixture(scope="module")
def run_of(tiny_config, tmp_path_factory):
    """Trains a network of a name for an epoch, once."""

    @functools.cache
    def run(network):
        folder = tmp_path_factory.mktemp(network)
        config = tiny_config(epochs=1, **{"network.name": network})
        train_config(config, str(folder))
        model, state, _ = restore(folder)
        variables = {"params": model.params(state)}
        if state.batch_stats:
            variables["batch_stats"] = state.batch_stats
        images = open_source("digits").read("test")[0][:5]
        normalized = (images / 255 - config.dataset.mean) / config.dataset.std
        logits = jax.jit(model.network.apply)(variables, np.float32(normalized))
        return Run(folder, leaves_of(variables), images, np.asarray(logits))

    return run


def check_ticket(path, run):
    ticket = iterand_jax.load_ticket(path)
    assert_equal(leaves_of(ticket.variables), run.arrays)
    np.testing.assert_allclose(ticket.apply(run.images), run.logits, 1e-5, 1e-6)


def check_safetensors(path, run):
    assert_equal(safetensors.load_file(path), run.arrays)


def check_torchvision(path, run):
    arrays = safetensors.load_file(path)
    kernels = {"conv1": "ConvNorm_0", "layer3.2.conv2": "BasicBlock_8/ConvNorm_1"}
    for name, path_ in kernels.items():
        kernel = run.arrays[f"params/{path_}/Conv_0/kernel"]
        np.testing.assert_array_equal(
            arrays[f"{name}.weight"], kernel.transpose(3, 2, 0, 1)
        )
    np.testing.assert_array_equal(
        arrays["fc.weight"], run.arrays["params/Dense_0/kernel"].T
    )
    mean = run.arrays["batch_stats/BasicBlock_8/ConvNorm_1/BatchNorm_0/mean"]
    np.testing.assert_array_equal(arrays["layer3.2.bn2.running_mean"], mean)
    assert arrays["bn1.num_batches_tracked"].shape == ()
    kept, expected = (
        sum(np.count_nonzero(leaf) for leaf in leaves if leaf.ndim > 1)
        for leaves in (arrays.values(), run.arrays.values())
    )
    assert kept == expected


def check_stablehlo(folder, run):
    check_logits_of_program(folder, run)
    assert_equal(safetensors.load_file(folder / formats.WEIGHTS), run.arrays)


def check_logits_of_program(folder, run):
    content = (folder / formats.PROGRAM).read_bytes()
    weights = safetensors.load_file(folder / formats.WEIGHTS)
    logits = jax.export.deserialize(bytearray(content)).call(weights, run.images)
    np.testing.assert_allclose(logits, run.logits, 1e-5, 1e-6)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def check_hub(folder, run):
    check_ticket(folder / "ticket.safetensors", run)
    header, text = (folder / "README.md").read_text().split("---\n")[1:]
    fields = {k: json.loads(v) for k, v in re.findall(r"(.+?): (.+)\n", header)}
    result = json.loads((run.folder / "result.json").read_text())
    assert fields["library_name"] == "iterand_jax"
    assert fields["license"] == "apache-2.0"
    assert fields["datasets"] == ["digits"]
    (one,) = fields["model-index"][0]["results"]
    assert one["metrics"][0]["value"] == round(result["test_accuracy"], 4)
    config = json.loads((folder / "config.json").read_text())
    assert config["result"]["state_sha256"] == result["state_sha256"]
    assert config["network"]["name"] == "conv2"
    assert str(run.folder) not in (folder / "config.json").read_text() + text
    curves = (run.folder / "curves.png").read_bytes()
    assert (folder / "curves.png").read_bytes() == curves


def check_matrices(path, run):
    arrays = safetensors.load_file(path)
    assert arrays.keys() == run.arrays.keys()
    for name, leaf in run.arrays.items():
        if name.endswith("kernel"):
            leaf = np.moveaxis(leaf, -1, 0).reshape(leaf.shape[-1], -1)
        np.testing.assert_array_equal(arrays[name], leaf)


def check_onnx(path, run):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (entry,), (out,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, out.name) == ("images", "tensor(uint8)", "logits")
    (logits,) = session.run(None, {"images": run.images})
    np.testing.assert_allclose(logits, run.logits, 1e-4, 1e-5)
    (one,) = session.run(None, {"images": run.images[:1]})
    np.testing.assert_allclose(one, run.logits[:1], 1e-4, 1e-5)


def check_compact(folder, run):
    """The digits' run has live channels alone or not; its logits are the same."""
    check_logits_of_program(folder, run)
    ticket = iterand_jax.load_ticket(folder / "ticket.safetensors")
    np.testing.assert_allclose(ticket.apply(run.images), run.logits, 1e-4, 1e-5)
    report = json.loads((folder / "compact.json").read_text())
    shapes = {
        path: leaves_of(ticket.params)[f"{path}/kernel"].shape[-1]
        for path in report["channels"]
    }
    assert shapes == report["description"]["network"]["sizes"]
    total = sum(leaf.size for leaf in jax.tree.leaves(ticket.params))
    assert report["after"]["parameters"] == total
    dense = sum(leaf.size for name, leaf in run.arrays.items() if "params" in name)
    assert report["before"]["parameters"] == dense
    largest = report["logits"]["largest"]
    assert report["logits"]["difference"] <= 1e-5 * largest
    assert report["before"]["seconds"] > 0 < report["after"]["processor_seconds"]


CELLS = [  # format, check, network; torchvision's names are for ResNets
    ("ticket", check_ticket, "conv2"),
    ("safetensors", check_safetensors, "conv2"),
    ("stablehlo", check_stablehlo, "conv2"),
    ("matrices", check_matrices, "conv2"),
    ("hub", check_hub, "conv2"),
    pytest.param("onnx", check_onnx, "conv2", marks=pytest.mark.slow),
    ("compact", check_compact, "conv2"),
    pytest.param("torchvision", check_torchvision, "resnet20", marks=pytest.mark.slow),
]


def test_each_format_is_tested():
    assert {
        getattr(cell, "values", cell)[0] for cell in CELLS
    } == exporting.FORMATS.keys()


@pytest.mark.compiles
@pytest.mark.parametrize(("name", "check", "network"), CELLS)
def test_a_format_holds_what_the_run_found(
    name, check, network, run_of, tmp_path, capsys
):
    if name == "onnx":
        pytest.importorskip("jax2onnx", reason="needs the extra onnx")
    run, output = run_of(network), tmp_path / exporting.FORMATS[name]
    exporting.export(run.folder, name, output)
    printed = capsys.readouterr().out
    assert str(output) in printed
    assert f"{network}, step 20" in printed
    check(output, run)


@pytest.mark.slow
def test_the_command_writes_into_the_workdir(run_of):
    run = run_of("conv2")
    flags = ["--format=safetensors", f"--workdir={run.folder}"]
    said = helpers.printed(*helpers.command("export", *flags))
    output = run.folder / "weights.safetensors"
    assert f"{output} ({output.stat().st_size:,} bytes)" in said
    check_safetensors(output, run)


def test_what_is_exported_to_a_url_is_what_is_exported_to_a_path(run_of, tmp_path):
    run, store = run_of("conv2"), fsspec.filesystem("memory")
    for name, output in (("safetensors", "out/weights"), ("stablehlo", "out/folder")):
        exporting.export(run.folder, name, f"memory://{output}")
        store.get(f"/{output}", str(tmp_path / name), recursive=True)
    check_safetensors(tmp_path / "safetensors", run)
    check_stablehlo(tmp_path / "stablehlo", run)
    with pytest.raises(ValueError, match="the output nowhere://a cannot be reached"):
        exporting.export(run.folder, "ticket", "nowhere://a")


@pytest.mark.slow
def test_a_ticket_is_written_as_its_run_is(run_of, tmp_path, capsys):
    run, store = run_of("conv2"), fsspec.filesystem("memory")
    ticket = tmp_path / "ticket.safetensors"
    exporting.export(run.folder, "ticket", ticket)
    store.pipe_file("/of_tickets/a", ticket.read_bytes())
    (tmp_path / "run").mkdir()
    for name in ("safetensors", "stablehlo"):
        target = exporting.FORMATS[name]
        exporting.export(run.folder, name, tmp_path / "run" / target)
        exporting.export_ticket("memory://of_tickets/a", name, tmp_path / target)
    check_safetensors(tmp_path / "weights.safetensors", run)
    check_stablehlo(tmp_path / "stablehlo", run)
    assert "export --ticket=FILE renews it" in capsys.readouterr().out
    again = tmp_path / "again"
    exporting.export_ticket(str(ticket), "ticket", again)
    assert again.read_bytes() == ticket.read_bytes()
    with pytest.raises(ValueError, match="for ResNets; the network is 'conv2'"):
        exporting.export_ticket(str(ticket), "torchvision", again)
    with pytest.raises(ValueError, match=r"^--format=hub needs the folder of a run"):
        exporting.export_ticket(str(ticket), "hub", again)
    with pytest.raises(ValueError, match=r"^--dtype=float16 applies to"):
        exporting.export_ticket(str(ticket), "ticket", again, dtype="float16")
    with pytest.raises(ValueError, match=r"^there is no ticket memory://of_tickets/b$"):
        exporting.export_ticket("memory://of_tickets/b", "ticket", again)


def test_onnx_without_its_extra_is_refused_before_any_work(untrained, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ValueError, match=r"^ONNX needs the extra: pip install 'itera"):
        exporting.export(untrained, "onnx", untrained / "out")
    assert not (untrained / "out").exists()


def test_the_dtype_is_of_dense_weights(run_of, untrained, tmp_path):
    output = tmp_path / "weights"
    exporting.export(run_of("conv2").folder, "safetensors", output, dtype="float16")
    arrays = safetensors.load_file(output)
    assert {array.dtype.name for array in arrays.values()} == {"float16"}
    with pytest.raises(ValueError, match=r"^--dtype=float16 applies to safetensors, t"):
        exporting.export(untrained, "ticket", tmp_path / "t", dtype="float16")
    assert export.DTYPES == formats.DTYPES


def test_push_is_of_the_format_hub_and_of_a_repository(untrained):
    with pytest.raises(ValueError, match=r"^--push=a/b applies to --format=hub, n"):
        exporting.export(untrained, "ticket", untrained / "t", push="a/b")
    with pytest.raises(ValueError, match=r"^the repository is 'a'; possible: us"):
        exporting.export(untrained, "hub", untrained / "t", push="a")


@pytest.mark.slow
def test_a_run_is_pushed_and_loads_elsewhere_by_the_lines_on_its_card(run_of, tmp_path):
    """Processes of their own, against a server on this machine as $HF_ENDPOINT."""
    run = run_of("conv2")
    with served() as (hub, address):
        environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_TOKEN": "secret"}
        flags = ["--format=hub", f"--workdir={run.folder}", "--push=user/repo"]
        said = helpers.printed(*helpers.command("export", *flags), env=environment)
        assert f"{address}/user/repo/commit/" in said
        files = hub.contents["user/repo", "main"]
        assert files.keys() == {p.name for p in (run.folder / "hub").iterdir()}
        card = files["README.md"].decode()
        (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
        assert 'load_ticket("hf://user/repo")' in code
        np.save(tmp_path / "images.npy", run.images)
        script = (
            f"import numpy as np; images = np.load('{tmp_path}/images.npy')\n{code}"
            f"np.save('{tmp_path}/logits.npy', logits)"
        )
        helpers.printed("-c", script, env=environment)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), run.logits, 1e-5, 1e-6)


@pytest.mark.parametrize("kind", ["link", "pipe", "bytes"])
def test_a_vocabulary_that_is_no_text_in_a_file_is_refused(kind, tmp_path):
    """A link may point to what is secret, and its lines would be in the ticket."""
    path = tmp_path / "vocabulary.txt"
    (tmp_path / "secret").write_text("secret\n")
    if kind == "link":
        path.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"vocabulary.txt is no(t UTF-8| regular)"):
        exporting.words_of(tmp_path, {"dataset": {"name": "imdb_reviews"}})


@pytest.fixture
def untrained(tmp_path):
    """The folder of a run without a checkpoint, which commands refuse."""
    config = resolve(load("cifar_resnet20"))
    (tmp_path / "config.json").write_text(to_json(config))
    return tmp_path


@pytest.mark.parametrize("name", exporting.FORMATS)
def test_an_output_that_cannot_be_is_refused_before_any_work(name, untrained):
    def refused(output):
        with pytest.raises(ValueError, match=f"cannot write .*{output}") as error:
            exporting.export(untrained, name, output)
        return str(error.value)

    message = refused(untrained / "nowhere" / "out")
    assert message.endswith(f": there is no folder {untrained / 'nowhere'}")
    there = untrained / "there"
    if name in exporting.FOLDERS:
        there.write_text("")
        assert refused(there).endswith("it is no folder")
    else:
        there.mkdir()
        assert refused(there).endswith("it is a folder")
    assert {path.name for path in untrained.iterdir()} == {"config.json", "there"}


def test_the_command_says_in_one_line_that_a_folder_is_not_there(untrained):
    output = untrained / "nowhere" / "out"
    flags = [f"--output={output}", f"--workdir={untrained}"]
    done = helpers.python(*helpers.command("export", *flags))
    assert done.returncode == 2
    expected = f"error: cannot write {output}: there is no folder {output.parent}\n"
    assert done.stderr == expected


def test_a_format_that_the_network_cannot_have_is_refused_before_any_work(tmp_path):
    """There is no checkpoint yet, but the error names the format first."""
    (tmp_path / "config.json").write_text(to_json(resolve(load("digits"))))
    with pytest.raises(ValueError, match="for ResNets; the network is 'conv2'"):
        exporting.export(tmp_path, "torchvision", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_resnet18_of_signed_constants_is_23_times_smaller(tmp_path):
    """At the sparsity of its runs; the draws are random, the sizes are not."""
    rng = np.random.default_rng(0)
    network = {"name": "resnet18", "num_classes": 10, "width": 1.0, "affine": False}
    description = Description(
        network={**network, "dtype": "float32"}, inputs=(((1, 32, 32, 3), "float32"),)
    )
    abstract = description.abstract()

    def mask(leaf):
        kept = rng.permutation(leaf.size) >= round(0.6 * leaf.size)
        return kept.reshape(leaf.shape)

    def constants(leaf):
        return np.where(rng.random(leaf.shape) < 0.5, np.float32(-0.1), np.float32(0.1))

    params = jax.tree.map(constants, abstract["params"])
    masks = jax.tree.map(mask, abstract["params"])
    statistics = jax.tree.map(constants, abstract["batch_stats"])
    ticket = Ticket.of(description, params, masks, statistics)
    arrays = tickets.save(ticket, tmp_path / "ticket")
    text = outputs.sizes(ticket, arrays)["parameters"]
    assert text.startswith("1.921 MB (mask 1.363, sign 0.558, ")
    assert text.endswith("against 44.66 MB in float32: 23.2 times smaller")
    assert (tmp_path / "ticket").stat().st_size < 1_980_000
