"""One short file of differences from `default` per network and dataset.

In a clone these files are in configs/. They are also the package iterand_jax.configs
(in a clone through the symbolic link iterand_jax/configs), so that

    from iterand_jax.configs import default

works in any config file. The link is needed because setuptools' package-dir does not
apply to a clone that is not installed, and a second `__init__` with a changed path is
not found in a source distribution; wheels and source distributions contain the files.
"""

import importlib
import os
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from iterand_jax.configs import default
from iterand_jax.runtime import user_code

__all__ = ["load", "names"]

_FILE = "_config_of_a_file"  # the module's name in sys.modules


def names() -> list[str]:
    """The configs of this package.

    >>> names()[:2]
    ['cifar_conv2', 'cifar_conv4']
    """
    files = Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in files if path.stem != "__init__")


def load(name: str) -> ConfigDict:
    """Loads a config by its name in `names`, or from a Python file with get_config().

    Args:
      name: the name, or the path of the file, with ~ for the home directory. Text after
        a colon is the argument of get_config: "mine.py:large".

    Returns:
      The ConfigDict returned by get_config, locked.

    Raises:
      ValueError: there is no such config, or it is invalid.

    >>> load("cifar_conv6").network.name
    'conv6'
    """
    name, *arguments = name.split(":", 1)
    module = _module(name)
    if not callable(getattr(module, "get_config", None)):
        raise ValueError(f"the config {name} has no function get_config()")
    path = Path(str(module.__file__))
    with user_code.errors_in_one_line(f"the config {name}", path):
        config = module.get_config(*arguments)
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config() of the config {name} returns a {type(config).__name__}, not "
            "a ConfigDict; start from default.get_config() of iterand_jax.configs"
        )
    missing = [field for field in (*default.FIELDS, "recipe") if _lacks(config, field)]
    if missing:
        raise ValueError(
            f"the config {name} lacks {len(missing)} fields: {', '.join(missing)}; "
            "start from default.get_config() of iterand_jax.configs"
        )
    return config.lock()


def _module(name: str) -> ModuleType:
    if name in names():
        return importlib.import_module(f"{__name__}.{name}")
    path = Path(os.path.expanduser(name))
    if not name or not path.exists():
        raise ValueError(
            f"there is no config {name}; possible: a file FILE.py, or "
            f"{', '.join(names())}"
        )
    return user_code.run_file(path.absolute(), _FILE, f"the config {name}")


def _lacks(config: ConfigDict, field: str) -> bool:
    """Whether a field, such as "network.width", is not in a config."""
    holder: object = config
    for part in field.split("."):
        if not isinstance(holder, ConfigDict) or part not in holder:
            return True
        holder = holder[part]
    return False
