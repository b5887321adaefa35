import json
import signal
import subprocess
import time

import numpy as np
import pytest

from iterand_jax.data import datasets
from iterand_jax.training.train import train_config
from tests import helpers
from tests.helpers import assert_one_line_error

TINY = (
    "--config.network.width=0.0625",
    "--config.epochs=4",
    "--config.k_per=7",
    "--config.checkpoint_every_steps=10",
    "--config.log_every_steps=5",
)


def run(name, *flags, **options):
    return helpers.python(*helpers.command(name, *flags), **options)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.methd=sgd"], ["methd"]),
        (["--config.network.depth=3"], ["depth"]),
        (["--config.epochs=many"], ["epochs", "many"]),
        (["--config=configs/nowhere.py"], ["configs/nowhere.py"]),
        (["--confg=configs/digits.py"], ["confg"]),
        (["digits"], ["digits"]),
        (["--config.method=adam"], ["'adam'", "sgd, edge_popup, iterand"]),
        (["--config.network.name=lenet"], ["'lenet'", "conv2, conv4, conv6"]),
        (["--config.dataset.name=mnist"], ["'mnist'", "digits, cifar10"]),
        (["--config.network.name=lstm"], ["lstm", "digits", "conv2, conv4, conv6"]),
        (["--config.network.width=0.001"], ["0.001"]),
        (["--config.batch_size=5000"], ["5000", "1294"]),
        (["--config.method=sgd", "--config.sparsity=0.5"], ["sparsity", "sgd"]),
    ],
)
def test_bad_input_is_one_line(flags, words, tmp_path):
    done = run("main", f"--workdir={tmp_path / 'w'}", *flags)
    assert_one_line_error(done, *words)
    assert not (tmp_path / "w").exists()


def test_a_batch_that_eight_devices_cannot_share_is_one_line(tmp_path):
    done = run(
        "main",
        f"--workdir={tmp_path / 'w'}",
        "--config.batch_size=100",
        devices=8,
    )
    assert_one_line_error(done, "batch of 100", "8 devices", "multiples of 8")


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("main", f"--workdir={tmp_path / 'file' / 'run'}")
    assert_one_line_error(done, str(tmp_path / "file" / "run"))


def test_absent_data_is_one_line_in_ten_seconds(tmp_path):
    """The proxy refuses connections, as a machine without a network does."""
    start = time.monotonic()
    done = run(
        "main",
        "--config=configs/cifar_conv6.py",
        f"--workdir={tmp_path / 'w'}",
        f"--data_dir={tmp_path / 'data'}",
        env=dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9"),
    )
    assert time.monotonic() - start < 30  # ten alone; machines that test are loaded
    assert_one_line_error(
        done, str(tmp_path / "data"), "python -m iterand_jax.data.prepare cifar10"
    )


def test_evaluate_needs_a_run(tmp_path):
    assert_one_line_error(run("evaluate", f"--workdir={tmp_path}"), "config.json")
    assert_one_line_error(run("evaluate"), "workdir")


def test_a_finished_run_says_so_and_another_config_is_refused(
    tiny_config, tmp_path, capsys
):
    config = tiny_config(epochs=1)
    first = train_config(config, str(tmp_path))
    capsys.readouterr()
    assert train_config(config, str(tmp_path)) == first
    assert "finished already" in capsys.readouterr().out
    config.seed = 3
    config.network.width = 0.125
    with pytest.raises(
        ValueError, match=r"network\.width: 0\.0625 / 0\.125; seed: 0 / 3"
    ):
        train_config(config, str(tmp_path))


@pytest.mark.parametrize("method", ["sgd", "edge_popup", "iterand"])
def test_the_result_holds_the_evidence(method, tiny_config, tmp_path):
    result = train_config(tiny_config(epochs=1, method=method), str(tmp_path))
    assert result == json.loads((tmp_path / "result.json").read_text())
    resolved = json.loads((tmp_path / "config.json").read_text())
    assert "recipe" not in resolved
    assert resolved["learning_rate"] == result_rate(method)
    assert result["dataset_fingerprint"] == datasets.open_source("digits").fingerprint
    assert {"jax", "flax", "python"} <= result["versions"].keys()
    assert result["seconds"].keys() >= {
        "first step",
        "compilation",
        "training",
        "evaluation",
    }
    assert result["examples_per_second"] > 0
    asked = result["sparsity"] or 0
    np.testing.assert_allclose(result["sparsity_achieved"], asked, atol=0.01)
    assert result["parameters_kept"] <= result["parameters"]
    assert (result["redrawn"] > 0) == (method == "iterand")


def result_rate(method):
    return {"sgd": 0.1, "edge_popup": 0.4, "iterand": 0.4}[method]


def kill_after(folder, step):
    """Starts the run and kills it once it has logged a step; its status."""
    run = helpers.command("main", f"--workdir={folder}", *TINY)
    with helpers.started(*run, stderr=subprocess.STDOUT) as process:
        helpers.wait_for_step(step, folder, process)
        process.kill()
        return process.wait()


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits_and_evaluate_repeats_them(tmp_path):
    results = []
    for name, kills in (("whole", ()), ("killed", (15, 35, 60))):
        folder = tmp_path / name
        for step in kills:
            assert kill_after(folder, step) == -signal.SIGKILL
        done = run("main", f"--workdir={folder}", *TINY)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((folder / "result.json").read_text()))
        if kills:
            assert "continuing from the checkpoint at step" in done.stdout
    whole, killed = results
    assert helpers.untimed(whole) == helpers.untimed(killed)
    lines = [helpers.metrics(tmp_path / name) for name in ("whole", "killed")]
    assert lines[0] == lines[1]
    evaluated = run("evaluate", f"--workdir={tmp_path / 'killed'}")
    assert f"test accuracy {whole['test_accuracy']:.2f} %" in evaluated.stdout
    assert f"test loss {whole['test_loss']:.4f}" in evaluated.stdout


def test_export_needs_a_run_and_a_format_that_exists(tmp_path):
    assert_one_line_error(run("export", f"--workdir={tmp_path}"), "config.json")
    done = run("export", f"--workdir={tmp_path}", "--format=tflite")
    words = "tflite", "ticket|safetensors|torchvision|matrices|stablehlo|onnx|hub"
    assert_one_line_error(done, *words)
