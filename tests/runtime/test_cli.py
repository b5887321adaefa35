"""What commands share: paths, configs, imports and help; README's and users' files."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from absl import flags

from iterand_jax import __main__ as commands
from iterand_jax import analyze, configs, convert, evaluate, export, launch, main
from iterand_jax.configs import default
from iterand_jax.data import prepare
from iterand_jax.data.datasets import DATASETS
from iterand_jax.distributions import DISTRIBUTIONS
from iterand_jax.methods import METHODS
from iterand_jax.networks import NETWORKS
from iterand_jax.runtime import cli

MODULES = (main, evaluate, analyze, export, convert, launch, prepare)
ROOT = Path(__file__).parents[2]
EVERY = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("iterand_jax", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if 'if __name__ == "__main__":' in path.read_text()
]
"""The commands; `iterand_jax.__main__` runs one of them by its name."""
EVERY.remove("iterand_jax.__main__")
OWN = """
from iterand_jax.configs import {start} as start

def get_config(seed=7):
    config = start.get_config()
    config.seed = int(seed)
    return config
"""
REGISTERS = """
import dataclasses

@dataclasses.dataclass
class Record:
    name: "str"

import seen
seen.names.append(__name__)
"""


def program(*names, then=lambda: None):
    """A command with paths of these names, and a config."""
    values = {}

    def define_flags():
        for name in names:
            cli.define_path(name, None, "a path")
        cli.define_config(configs.load, "digits")

    def body():
        values.update({name: flags.FLAGS[name].value for name in names})
        values["config"] = flags.FLAGS.config
        then()

    run = SimpleNamespace(
        __name__="program", run=lambda: cli.run(body, define_flags), values=values
    )
    return run


def test_the_home_is_found_in_paths_and_nothing_else_is_changed(command, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/somebody")
    one = program("workdir", "output", "other", "ticket")
    given = ["--workdir=~/x", "--output=gs://bucket/~x", "--other=runs/~"]
    assert command(one, *given) == 0
    assert one.values["workdir"] == "/home/of/somebody/x"
    assert one.values["output"] == "gs://bucket/~x"
    assert one.values["other"] == "runs/~"
    assert one.values["ticket"] is None


@pytest.mark.parametrize(
    ("module", "paths"),
    [
        (main, {"data_dir", "workdir"}),
        (evaluate, {"data_dir", "workdir"}),
        (analyze, {"workdir", "ticket", "other", "output"}),
        (export, {"workdir", "ticket", "output", "data_dir"}),
        (convert, {"output"}),
        (prepare, {"data_dir", "archive"}),
    ],
)
def test_every_flag_for_a_path_is_one(module, paths, command, capsys):
    assert command(module, "--help") == 0
    shown = capsys.readouterr().out
    assert {p for p in paths if f"--{p}=PATH\n" in shown} == paths
    assert shown.count("=PATH\n") == len(paths)


@pytest.mark.parametrize("name", ["digits", "cifar_conv6", "configs/cifar_conv6.py"])
def test_a_config_by_name_or_by_its_file(name, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    one = program()
    assert command(one, f"--config={name}", "--config.network.width=0.5") == 0
    found = one.values["config"]
    assert found.network.name == ("conv2" if name == "digits" else "conv6")
    assert found.network.width == 0.5
    assert found.is_locked


@pytest.mark.parametrize("written", ["mine.py", "{}/mine.py", "~/mine.py"])
def test_a_config_of_ones_own_anywhere(written, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(OWN.format(start="cifar_vgg11"))
    path, one = written.format(tmp_path), program()
    assert command(one, f"--config={path}") == 0
    assert (one.values["config"].network.name, one.values["config"].seed) == (
        "vgg11",
        7,
    )
    assert command(one, "--config", f"{path}:9") == 0
    assert one.values["config"].seed == 9


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nope", None, ["nope", "cifar_conv6", "imdb_lstm", "FILE.py"]),
        ("nope.py", None, ["nope.py", "cifar_conv6"]),
        ("", None, ["FILE.py"]),
        ("README.md", "# A title", ["README.md", ".py"]),
        (".", None, ["folder"]),
        ("empty.py", "", ["empty.py", "no function get_config()"]),
        ("value.py", "get_config = 3", ["value.py", "no function get_config()"]),
        ("dict.py", "def get_config():\n    return {}", ["dict.py", "a dict"]),
        ("none.py", "def get_config():\n    pass", ["none.py", "a NoneType"]),
        ("syntax.py", "def get_config(:", ["syntax.py", "SyntaxError", "line 1"]),
        ("name.py", "\nnowhere", ["NameError: name 'nowhere'", "name.py, line 2"]),
        (
            "few.py",
            "from ml_collections import ConfigDict\n"
            "def get_config():\n    return ConfigDict({'seed': 1, 'dataset': {}})",
            ["few.py", "lacks", " dataset.name,", " network.width,", "recipe"],
        ),
        (
            "typo.py",
            "from iterand_jax.configs import default\n"
            "def get_config():\n    config = default.get_config()\n"
            "    config.epoch = 3\n    return config",
            ["typo.py, line 4", '"epoch" does not exist'],
        ),
        ("cifar_conv6:large", None, ["cifar_conv6", "get_config()"]),
    ],
)
def test_what_is_no_config_is_one_line(name, text, words, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    fails(program(), [f"--config={name}"], *words)


def test_fields_that_do_not_exist_are_one_line(fails):
    fails(program(), ["--config=digits", "--config.depth=3"], "config field 'depth'")
    fails(program(), ["--config.seed=x"], "config.seed", "x")
    where = "; --help lists all"
    fails(program(), ["--config.xyz=3"], f"unknown config field 'xyz'{where}")
    closest = "'network.widht'; closest: network.width, "
    fails(program(), ["--config.network.widht=1"], closest, where)
    fails(program(), ["--config.recipe.sgd.k=1"], "'recipe.sgd.k'; closest: recipe.sgd")
    fails(program(), ["--config.seed.x=1"], "'seed.x'; closest: seed; ")


def test_unknown_flags_are_one_line_with_the_closest(fails):
    where = "; --help lists all\n"
    fails(program("workdir"), ["--wrkdir=w"], "--wrkdir; closest: --workdir" + where)
    fails(program("workdir"), ["--xyz"], "unknown flag --xyz" + where)


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """A folder, and the names of the modules that ran."""
    record = SimpleNamespace(names=[])
    monkeypatch.setitem(sys.modules, "seen", record)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    before = {*sys.modules}
    yield tmp_path, record.names
    for name in {*sys.modules} - before:
        del sys.modules[name]


def test_modules_and_files_are_imported_before_the_command(seen, command):
    folder, names = seen
    (folder / "away").mkdir()
    for name in ("one", "two", "away/three", "away/beside"):
        (folder / f"{name}.py").write_text(REGISTERS)
    (folder / "away" / "three.py").write_text("import beside\n" + REGISTERS)
    one = program(then=lambda: names.append("the command"))
    assert command(one, "--import=one,two.py", "--import=away/three.py") == 0
    assert names == ["one", "two", "beside", "three", "the command"]
    assert sys.modules["three"].Record("x").name == "x"
    assert command(one, "--import=two.py,three") == 0  # which are there already
    assert names == ["one", "two", "beside", "three", *["the command"] * 2]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nowhere", None, ["--import=nowhere", "No module named 'nowhere'"]),
        ("nowhere.py", None, ["nowhere.py", "no file"]),
        ("json.py", "", ["json.py", "another module json", "rename"]),
        ("fails.py", "\n\n1 / 0", ["fails.py", "ZeroDivisionError", "line 3"]),
    ],
)
def test_what_cannot_be_imported_is_one_line(name, text, words, seen, fails):
    folder, _ = seen
    if text is not None:
        (folder / name).write_text(text)
    fails(program(), [f"--import={name}"], *words)
    assert Path(name).stem == "json" or Path(name).stem not in sys.modules


@pytest.mark.parametrize("name", EVERY)
def test_help_shows_the_commands_own_flags(name, command, capsys):
    module = importlib.import_module(name)
    assert command(module, "--help", "--nope", "--config=nope") == 0
    shown, err = capsys.readouterr()
    assert err == ""
    assert shown.startswith(module.__doc__.strip())
    section = shown.split("\nFlags:\n")[1].split("\n\n")[0]
    assert "  --import=" in section
    assert "repeat this option" not in section
    assert "verbosity" not in shown  # absl's own
    assert all(len(line) <= 88 for line in shown.splitlines())


@pytest.mark.parametrize("name", EVERY)
def test_mistakes_of_every_command_have_one_style(name, fails):
    module = importlib.import_module(name)
    fails(module, ["--xyz=1"], "error: unknown flag --xyz; --help lists all\n")


def test_help_of_main_shows_all_there_is_to_choose_from(command, capsys):
    assert command(main, "-h") == 0
    shown = capsys.readouterr().out
    words = {*shown.replace(",", " ").split()}
    assert words >= {*configs.names(), *METHODS, "imp", *NETWORKS, *DATASETS}
    assert words >= {*DISTRIBUTIONS}
    assert "Method of the configs cifar_resnet20_imp, cifar_vgg11_imp:\n  imp" in shown
    for field, (value, meaning) in default.FIELDS.items():
        kind = f"None, or {value.__name__}" if isinstance(value, type) else repr(value)
        _, found, text = shown.partition(f"  --config.{field} = {kind}\n")
        assert found, field
        assert " ".join(text.split()).startswith(meaning)


def test_every_field_has_a_meaning_and_a_default():
    config = default.get_config()
    for field, (value, meaning) in default.FIELDS.items():
        holder = config
        for part in field.split("."):
            holder = holder[part]
        assert holder == (None if isinstance(value, type) else value)
        assert len(meaning) > 4
    nested = {"dataset", "network", "recipe"}
    tops = {field.split(".")[0] for field in default.FIELDS}
    assert {*config} == tops | {"recipe"}
    assert {name for name in config if hasattr(config[name], "items")} == nested


def test_the_commands_are_listed_and_run(command, capfd, fails):
    assert command(commands) == 0
    listed = capfd.readouterr().out
    assert command(commands, "--help") == 0
    assert capfd.readouterr().out == listed
    for module in MODULES:
        name = module.__name__.removeprefix("iterand_jax.")
        assert f"  {name} " in listed
        assert module.__doc__.splitlines()[0] in listed
        assert command(commands, name, "--help") == 0
        assert capfd.readouterr().out.startswith(module.__doc__.strip())
    fails(commands, ["train"], "'train'", "main, evaluate")
    fails(commands, ["evaluate"], "give --workdir=PATH\n")
    fails(commands, ["convert"], "give --network=TEXT and --output=PATH\n")


@pytest.mark.parametrize(
    ("module", "given", "words"),
    [
        (launch, ["--processes=0"], ["processes", "0"]),
        (launch, ["--config=digits"], ["config"]),
        (prepare, [], ["possible: cifar10"]),
        (prepare, ["cifar10", "again"], ["again"]),
        (export, ["--workdir=w", "--format=h5"], ["h5", "ticket|safetensors"]),
        (export, [], ["--workdir=DIR", "--ticket=FILE"]),
        (export, ["--ticket=a", "--workdir=b"], ["give one of"]),
        (export, ["--ticket=a", "--step=3"], ["--step=3 does not apply"]),
        (export, ["--ticket=a", "--push=a/b"], ["--push=a/b does not apply"]),
        (export, ["--ticket=a"], ["--format=ticket", "needs --output=FILE"]),
        (export, ["--ticket=a", "--format=hub"], ["needs the folder of a run"]),
        (analyze, [], ["--workdir=DIR", "--ticket=FILE"]),
    ],
)
def test_bad_flags_of_every_command_are_one_line(module, given, words, fails):
    fails(module, given, *words)


def test_what_ctrl_c_ends_says_so(command, capsys):
    def interrupted():
        raise KeyboardInterrupt

    one = program(then=interrupted)
    assert command(one) == cli.INTERRUPTED
    assert capsys.readouterr().err.startswith("interrupted; the same command ")


def test_the_configs_are_found_with_the_clone_on_the_path_alone(tmp_path):
    script = (
        "from iterand_jax import configs; from iterand_jax.configs import default; "
        "print(configs.__file__, default.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    for path in done.stdout.split():
        assert Path(path).resolve().parent == ROOT / "configs"
