"""An installed wheel in an empty folder, outside the clone, as a new user has it."""

import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "NOTICE")
COMMANDS = (
    *("main", "evaluate", "analyze", "export", "convert", "launch", "data.prepare"),
)
TINY = ("--config.epochs=1", "--config.network.width=0.0625")
NAMED = (  # the network of CIFAR-10 on data that are always there
    "--config=cifar_conv6",
    "--config.method=edge_popup",
    "--config.dataset.name=digits",
    "--config.dataset.mean=(0.3,)",
    "--config.dataset.std=(0.38,)",
    "--config.augmentation=none",
)
BUILD = "import setuptools.build_meta as b; print(b.build_{kind}({folder!r}))"
OWN = """
from iterand_jax.configs import digits

def get_config():
    config = digits.get_config()
    config.epochs = 1
    config.network.width = 0.0625
    return config
"""

pytestmark = pytest.mark.slow


def call(*command, cwd, env=None):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what a build reads, since builds leave files beside it."""
    folder = tmp_path_factory.mktemp("tree")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("iterand_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


def build(kind, tree, folder):
    """Builds with the setuptools that is installed, without a network."""
    script = BUILD.format(kind=kind, folder=str(folder))
    return folder / call(sys.executable, "-c", script, cwd=tree).split()[-1]


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def environment():
    """The environment variables of a process independent of the clone."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def install(folder, wheel):
    """A fresh environment with the wheel, and access to this environment's packages."""
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
    call(*pip, "--no-index", "--quiet", wheel, cwd=folder.parent, env=environment())
    own = call(python, "-c", "import site; print(site.getsitepackages()[0])", cwd="/")
    # Of packages alone: files .pth in these folders, as of an editable install, are
    # not read.
    beside = {*site.getsitepackages(), sysconfig.get_path("purelib")}
    Path(own.strip(), "beside.pth").write_text("\n".join(sorted(beside)))
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of the console scripts of an environment with the wheel."""
    return install(tmp_path_factory.mktemp("venv") / "venv", wheel)


def test_the_wheel_holds_the_package_and_its_configs_and_no_other(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"iterand_jax"}
    packed = {name for name in names if name.startswith("iterand_jax/configs/")}
    files = {f"iterand_jax/configs/{path.name}" for path in ROOT.glob("configs/*.py")}
    assert packed == files
    assert "iterand_jax/py.typed" in names


def test_a_source_distribution_builds_the_same_wheel(tree, wheel, tmp_path):
    archive = build("sdist", tree, tmp_path)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path)

    def contents(path):
        files = zipfile.ZipFile(path)
        return {n: files.read(n) for n in files.namelist() if ".dist-info" not in n}

    assert contents(again) == contents(wheel)


def test_an_editable_install_has_the_configs(tree, tmp_path):
    programs = install(tmp_path / "venv", build("editable", tree, tmp_path))
    found = call(
        programs / "python",
        "-c",
        "from iterand_jax.configs import default, names; print(default.__file__); "
        "print(*names())",
        cwd=tmp_path,
        env=environment(),
    ).split()
    assert Path(found[0]).resolve() == (tree / "configs" / "default.py").resolve()
    assert "cifar_conv6" in found[1:]


def test_a_new_users_hour(installed, tmp_path):
    """The digits, a named config, a custom config, and all commands that read a run."""

    def run(program, *arguments):
        return call(installed / program, *arguments, cwd=tmp_path, env=environment())

    where = "import iterand_jax; print(iterand_jax.__file__)"
    package = Path(run("python", "-c", where).strip())
    assert package.is_relative_to(installed.parent)
    missing = "import importlib.util as u; print(u.find_spec('configs'))"
    assert run("python", "-c", missing) == "None\n"

    listed = run("iterand_jax", "--help")
    assert listed == run("python", "-m", "iterand_jax")
    assert all(f"  {name} " in listed for name in COMMANDS)
    assert "--config.network.width" in run("iterand_jax-main", "--help")

    run("python", "-m", "iterand_jax.main", *TINY, "--workdir=first")
    run("iterand_jax", "main", *NAMED, *TINY, f"--workdir={tmp_path / 'named'}")
    (tmp_path / "mine.py").write_text(OWN)
    run("iterand_jax-main", "--config=mine.py", "--workdir=mine")

    assert "test accuracy" in run("iterand_jax-evaluate", "--workdir=mine")
    run("iterand_jax-export", "--workdir=mine", "--output=mine.safetensors")
    load = (
        "import iterand_jax as i; print(len(i.load_ticket('mine.safetensors').masks))"
    )
    assert int(run("python", "-c", load)) > 0
    run("iterand_jax-analyze", "--ticket=mine.safetensors", "--other=first")
    assert (tmp_path / "analysis.png").stat().st_size > 10_000
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "first",
        "named",
        "mine",
        "mine.py",
        "mine.safetensors",
        "analysis.png",
    } | ({"__pycache__"} & left)


CARD = """
from iterand_jax.data.datasets import open_source
images, labels = open_source("digits").read("test")
{code}
print(100 * float((logits.argmax(1) == labels).mean()))
"""


def test_a_ticket_of_the_gallery_loads_by_the_lines_on_its_card(installed, tmp_path):
    """Its file alone, in an empty folder, answers as the card says."""
    folder = ROOT / "results" / "gallery" / "digits_iterand"
    shutil.copy(folder / "ticket.safetensors", tmp_path)
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len([line for line in code.splitlines() if line]) == 3
    script = CARD.format(code=code)
    done = call(*(installed / "python", "-c", script), cwd=tmp_path, env=environment())
    stated = re.search(r"\| accuracy \| ([\d.]+) %", card)[1]
    assert float(done) == pytest.approx(float(stated), abs=0.3)
