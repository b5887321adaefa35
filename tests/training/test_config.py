"""Every config resolves for every method; what is impossible is named in one line."""

import importlib
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from iterand_jax.methods import METHODS
from iterand_jax.training.config import OF_THE_METHOD, differences, resolve, to_json

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")


@pytest.fixture(autouse=True)
def _configs_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def get(name="default", **fields):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(fields)
    return config


def test_there_are_configs():
    assert {"default", "digits", "cifar_conv6"} <= set(FILES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FILES)
def test_every_config_resolves_for_every_method(name, method):
    config = get(name, method=method)
    resolved = resolve(config)
    recipe = config.recipe[method]
    for field in OF_THE_METHOD:
        assert resolved[field] == recipe.get(field)
    assert "recipe" not in resolved
    assert json.loads(to_json(resolved))["method"] == method
    assert resolved.is_locked
    with pytest.raises(AttributeError):
        resolved.learning_rte = 1.0


def own(resolved):
    return {field: resolved[field] for field in OF_THE_METHOD}


def test_conv6_has_the_hyperparameters_of_the_paper():
    common = {"distribution": "signed_constant", "weight_decay": 1e-4, "sparsity": 0.5}
    popup = common | {"learning_rate": 0.2, "k_per": None, "sampling_rate": None}
    expected = {
        "edge_popup": popup,
        "iterand": popup | {"k_per": 300, "sampling_rate": 0.1},
        "sgd": dict.fromkeys(OF_THE_METHOD)
        | {
            "distribution": "kaiming_uniform",
            "learning_rate": 0.01,
            "weight_decay": 1e-4,
        },
    }
    for method in METHODS:
        resolved = resolve(get("cifar_conv6", method=method))
        assert own(resolved) == expected[method]
        assert (resolved.epochs, resolved.batch_size, resolved.momentum) == (
            100,
            128,
            0.9,
        )
        assert resolved.schedule == "cosine"
        assert resolved.dataset.validation_fraction == 0.1


@pytest.mark.parametrize(
    ("name", "sparsity"),
    [
        ("cifar_resnet18", 0.6),
        ("cifar_resnet34", 0.6),
        ("cifar_vgg11", 0.5),
        ("cifar_resnet20", 0.5),
    ],
)
def test_networks_with_batch_normalization_have_resnet18s_hyperparameters(
    name, sparsity
):
    """Appendix B.2; of VGG11 and ResNet20, Table 7 gives the sparsities alone."""
    common = {"learning_rate": 0.1, "weight_decay": 5e-4}
    popup = common | {"distribution": "signed_constant", "sparsity": sparsity}
    expected = {
        "sgd": common | {"distribution": "kaiming_uniform"},
        "edge_popup": popup,
        "iterand": popup | {"k_per": 300, "sampling_rate": 0.1},
    }
    for method in METHODS:
        resolved = resolve(get(name, method=method))
        assert resolved.network.name == name.removeprefix("cifar_")
        assert own(resolved) == dict.fromkeys(OF_THE_METHOD) | expected[method]
        assert (resolved.epochs, resolved.batch_size) == (100, 128)


def test_what_is_set_wins_over_the_recipe():
    fields = {"sparsity": 0.7, "k_per": 5, "learning_rate": 0.3, "sampling_rate": 0.0}
    resolved = resolve(get("cifar_conv6", **fields, weight_decay=0.0))
    assert own(resolved) == fields | {
        "weight_decay": 0.0,
        "distribution": "signed_constant",
    }


def test_resolving_leaves_the_config_as_it_was():
    config = get("digits")
    before = to_json(config)
    first = resolve(config)
    assert to_json(config) == before
    assert to_json(resolve(config)) == to_json(first)


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("sgd", "sparsity", 0.5),
        ("sgd", "sparsity", 0.0),
        ("sgd", "k_per", 300),
        ("sgd", "sampling_rate", 0.1),
        ("edge_popup", "k_per", 300),
        ("edge_popup", "sampling_rate", 0.0),
    ],
)
def test_a_field_that_means_nothing_to_the_method_is_refused(method, field, value):
    message = f"{field}={value} means nothing to the method {method}"
    with pytest.raises(ValueError, match=message):
        resolve(get(method=method, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "adam", "unknown method 'adam'; possible: sgd, edge_popup, iterand"),
        ("network.name", "conv3", "unknown network 'conv3'; possible: conv2, conv4"),
        ("distribution", "ku", "unknown distribution 'ku'; possible: signed_constant"),
        ("augmentation", "flip", "unknown augmentation 'flip'; possible: none"),
        ("schedule", "step", "unknown schedule 'step'; possible: cosine, constant"),
        ("dtype", "float16", "unknown dtype 'float16'; possible: float32, bfloat16"),
        ("sparsity", 1.0, r"\[0, 1\); got 1"),
        ("sparsity", -0.1, r"\[0, 1\); got -0.1"),
        ("sparsity", float("nan"), r"\[0, 1\); got nan"),
        ("sampling_rate", 1.1, r"\[0, 1\]; got 1.1"),
        ("k_per", 0, "k_per is a whole number of at least 1; got 0"),
        ("epochs", 0, "epochs is .* at least 1; got 0"),
        ("batch_size", -1, "batch_size is .* at least 1; got -1"),
        ("eval_batch_size", 0, "eval_batch_size is .* at least 1; got 0"),
        ("log_every_steps", 0, "log_every_steps is .* at least 1; got 0"),
        ("keep_checkpoints", 0, "keep_checkpoints is .* at least 1; got 0"),
        ("checkpoint_every_steps", -1, "checkpoint_every_steps is .* from 0; got -1"),
        ("seed", -1, "seed is a whole number from 0; got -1"),
        ("dataset.split_seed", -1, "split_seed is a whole number from 0; got -1"),
        ("learning_rate", 0.0, "learning_rate is .*; got 0"),
        ("learning_rate", float("nan"), "learning_rate is .*; got nan"),
        ("learning_rate", float("inf"), "learning_rate is .*; got inf"),
        ("weight_decay", -1e-4, r"weight_decay is in \[0, inf\); got -0.0001"),
        ("momentum", 1.0, r"momentum is in \[0, 1\); got 1"),
        ("dataset.validation_fraction", 1.0, r"fraction is in \(0, 1\); got 1"),
        ("dataset.validation_fraction", 0.0, r"fraction is in \(0, 1\); got 0"),
        ("dataset.std", (0.2, 0.0, 0.2), "std .* above 0"),
    ],
)
def test_an_impossible_value_is_named_in_one_line(field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        resolve(get(**{field: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_config_has_no_field_that_the_default_lacks(name):
    config, default = get(name), get()
    assert config.keys() == default.keys()
    for group in ("dataset", "network", "recipe"):
        assert config[group].keys() == default[group].keys()
    with pytest.raises(AttributeError, match="leraning_rate"):
        config.leraning_rate = 0.1


def test_differences_are_named_field_by_field():
    config = ConfigDict({"a": 1, "net": {"width": 1.0, "name": "x"}, "gone": None})
    other = ConfigDict({"a": 1, "net": {"width": 0.5, "name": "x"}, "new": [1, 2]})
    assert differences(config.to_dict(), other.to_dict()) == [
        "gone: None / (none)",
        "net.width: 1.0 / 0.5",
        "new: (none) / [1, 2]",
    ]
    assert differences(config.to_dict(), config.to_dict()) == []


def test_a_config_read_back_from_its_json_does_not_differ():
    resolved = resolve(get("cifar_conv6"))
    again = json.loads(to_json(resolved))
    assert differences(resolved.to_dict(), again) == []
    assert again["dataset"]["mean"] == [0.485, 0.456, 0.406]
