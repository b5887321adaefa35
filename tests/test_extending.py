"""The page "Extend": every command works with what a user registers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests import helpers

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text()


def file_of(name):
    (text,) = re.findall(rf":caption: {name}\n\n(.*?)```", PAGE, flags=re.DOTALL)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page has a user write, and the digits as a folder of PNG files too."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("my_project.py", "my_config.py"):
        (folder / name).write_text(file_of(name))
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)
    for part, rows in (("train", slice(0, 1400)), ("test", slice(1400, None))):
        pairs = zip(images[rows], digits.target[rows], strict=True)
        for i, (image, label) in enumerate(pairs):
            path = folder / "pictures" / part / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    with open(folder / "my_project.py", "a") as file:
        file.write(
            "\niterand_jax.register_dataset("
            '"pictures", own.from_image_folder("pictures"))\n'
        )
    (script,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
        if "np.savez" in block
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    return folder


def command(folder, name, *arguments, check=True):
    done = subprocess.run(
        [sys.executable, "-m", f"iterand_jax.{name}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


RUNS = {
    "global_threshold": (),
    "gradual": ("--config.method=gradual", "--config.recipe.gradual.ramp_steps=30"),
    "pictures": ("--config.dataset.name=pictures",),
}
USER = "--import=my_project.py"
ARRAYS = "data = np.load('my_digits.npz'); x, y = data['x_test'], data['y_test']"
PICTURES = (
    "from pathlib import Path; from PIL import Image; "
    "files = sorted(Path('pictures/test').glob('*/*.png')); "
    "x = np.stack([np.asarray(Image.open(file)) for file in files])[..., None]; "
    "y = np.array([int(file.parent.name) for file in files])"
)


@pytest.mark.compiles
@pytest.mark.parametrize("name", helpers.table(RUNS, "pictures".__eq__))
def test_the_recipe_trains_resumes_and_ends_as_a_ticket_of_the_same_accuracy(
    name, folder
):
    workdir = f"--workdir=runs/{name}"
    train = ("main", USER, "--config=my_config.py", "--config.epochs=3", workdir)
    train += ("--config.checkpoint_every_steps=20", *RUNS[name])
    command(folder, *train)
    run = folder / "runs" / name
    result = json.loads((run / "result.json").read_text())

    # Without its result and newest checkpoint it resumes, to the same bits.
    (run / "result.json").unlink()
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    newest.rename(folder / f"{name}_{newest.name}")
    assert "continuing from the checkpoint" in command(folder, *train).stdout
    again = json.loads((run / "result.json").read_text())
    assert again["state_sha256"] == result["state_sha256"]

    accuracy = f"{result['test_accuracy']:.2f} %"
    assert accuracy in command(folder, "evaluate", USER, workdir).stdout
    printed = command(folder, "analyze", USER, workdir).stdout
    assert "Conv_0/kernel" in printed
    exported = command(folder, "export", USER, workdir).stdout
    assert re.search(r"logits on \d+ test examples are the run's", exported)

    read = PICTURES if name == "pictures" else ARRAYS
    script = (
        "import my_project, iterand_jax, numpy as np; "
        f"ticket = iterand_jax.load_ticket('runs/{name}/ticket.safetensors'); "
        f"{read}; answers = np.argmax(ticket.apply(x), axis=1); "
        "print(100 * np.mean(answers == y))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) == pytest.approx(result["test_accuracy"], abs=1e-4)
    assert result["sparsity_achieved"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_a_workdir_never_makes_a_command_import_code(folder):
    workdir = "--workdir=runs/qualified"
    name = "--config.network.name=my_project:Mixer"
    train = ("main", USER, "--config=my_config.py", "--config.epochs=1", workdir, name)
    train += ("--config.dataset.name=digits", "--config.method=edge_popup")
    command(folder, *train)
    for other in ("evaluate", "analyze", "export"):
        done = command(folder, other, workdir, check=False)
        assert done.returncode == 2
        assert "--import=my_project" in done.stderr
        assert done.stderr.count("\n") == 1
