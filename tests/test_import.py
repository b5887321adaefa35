"""The library imports only jax, and imports point downward only."""

import ast
import functools
import importlib.util
import sys
from pathlib import Path

import pytest

from tests.helpers import printed

PACKAGE = Path(importlib.util.find_spec("iterand_jax").origin).parent
LIBRARY = (
    "keys",
    "selection",
    "masks",
    "rules",
    "trees",
    "distributions",
    "subnetwork",
    "layers",
    "methods",
)
FLOORS = {  # a module may import from lower layers, and from its own subpackage
    "runtime": 0,
    "networks": 0,
    "theory": 0,
    "configs": 1,
    "keys": 0,
    "selection": 0,
    "rules": 2,
    "trees": 0,
    "masks": 1,
    "data": 1,
    "distributions": 2,
    "subnetwork": 3,
    "layers": 3,
    "linen": 4,
    "methods": 4,
    "tickets": 5,
    "training": 6,
    "analysis": 7,
    "": 7,  # the package itself, which re-exports the names
}
COMMANDS = 8  # every other module at the top
APART = {  # import nothing of the method; these are what they may import
    "runtime": set(),
    "networks": {"runtime"},
    "theory": {"keys"},
    "data": {"runtime", "keys"},
    "configs": {"runtime"},
}


def modules():
    # A link in a checkout, which rglob does not follow.
    configs = (PACKAGE / "configs").glob("*.py")
    for path in sorted({*PACKAGE.rglob("*.py"), *configs}):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), ast.parse(path.read_text())


def exists(name):
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imported(tree):
    """Absolute names of all that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                inside = full.removeprefix("iterand_jax.")
                yield full if inside != full and exists(inside) else node.module


@functools.cache
def own_imports():
    """{module: modules of this package that it imports}, names without the package."""
    return {
        name: {
            i.removeprefix("iterand_jax").removeprefix(".")
            for i in imported(tree)
            if i.split(".")[0] == "iterand_jax"
        }
        for name, tree in modules()
    }


def room(name):
    return name.split(".")[0]


def test_all_rooms_are_found():
    names = {room(name) for name in own_imports()}
    assert names >= FLOORS.keys()
    assert "subnetwork" in own_imports()["methods.scores"]


@pytest.mark.smoke
@pytest.mark.parametrize("name", list(own_imports()))
def test_imports_point_downward_only(name):
    floor = FLOORS.get(room(name), COMMANDS)
    for other in own_imports()[name]:
        if room(other) == room(name) != "":
            continue
        if room(name) in APART:
            assert room(other) in APART[room(name)], f"{name} imports {other}"
        else:
            assert floor > FLOORS.get(room(other), COMMANDS), f"{name} imports {other}"


@pytest.mark.smoke
def test_imports_have_no_circles():
    graph = own_imports()
    done: set[str] = set()

    def visit(name, path):
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done >= graph.keys()


@pytest.mark.parametrize("name", LIBRARY)
def test_the_method_needs_jax_and_the_standard_library_alone(name):
    of_models = {"rules.linen", "rules.nnx", "rules.equinox"}  # imported with one only
    for module, tree in modules():
        if room(module) == name and module not in of_models:
            others = {i.split(".")[0] for i in imported(tree)}
            others -= {*sys.stdlib_module_names, "jax", "numpy", "iterand_jax"}
            assert others <= ({"flax"} if module == "rules.models" else set()), module


def test_nothing_below_training_knows_of_configs_files_or_flags():
    forbidden = {"ml_collections", "absl", "argparse", "configs", "pathlib", "os"}
    for name, tree in modules():
        if room(name) in {*LIBRARY, "linen", "networks"} or name == "data.augment":
            assert not forbidden & {i.split(".")[0] for i in imported(tree)}, name


def test_the_package_knows_nothing_of_configs_experiments_and_tests():
    for name, tree in modules():
        others = {i.split(".")[0] for i in imported(tree)}
        assert not others & {"configs", "experiments", "tests"}, name


def words(script, **environment):
    """What a script prints, without a warning."""
    return printed("-W", "error", "-c", script, env=environment).split()


def test_importing_the_library_loads_nothing_that_jax_does_not():
    loaded = "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    by_jax = set(words(f"import sys, jax, jax.numpy; {loaded}"))
    by_us = set(words(f"import sys, jax.numpy, iterand_jax; {loaded}"))
    assert "jax" in by_jax
    assert by_us - by_jax - set(sys.stdlib_module_names) == {"iterand_jax"}
    for heavy in ("flax", "optax", "orbax", "tensorflow_datasets", "matplotlib"):
        assert heavy not in by_us


def test_importing_the_library_touches_no_device():
    script = (
        "import iterand_jax, iterand_jax.linen, iterand_jax.networks; "
        "import iterand_jax.data.augment, iterand_jax.training.schedules; print('done')"
    )
    assert words(script, JAX_PLATFORMS="no_such_platform") == ["done"]


def test_the_public_names_exist_and_have_docstrings():
    import iterand_jax

    for name in iterand_jax.__all__:
        member = getattr(iterand_jax, name)
        assert not callable(member) or member.__doc__, name
    assert len(set(iterand_jax.__all__)) == len(iterand_jax.__all__) >= 10
