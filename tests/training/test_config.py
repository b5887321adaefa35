"""Every config resolves for every method; errors are one line."""

import functools
import importlib
import inspect
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from iterand_jax.configs.default import recipe
from iterand_jax.methods import METHODS, edge_popup, iterand
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import completed, differences, to_json
from iterand_jax.training.of_methods import OF_THE_METHOD

ROOT = Path(__file__).resolve().parents[2]
OF_THE_PAPER = ("sgd", "edge_popup", "iterand")
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


OF_ONE_METHOD = {
    "cifar_resnet20_imp": ["imp"],
    "cifar_vgg11_imp": ["imp"],
    "cifar_resnet18_recommended": ["biprop"],
}
CELLS = [
    (name, method) for name in FILES for method in OF_ONE_METHOD.get(name, METHODS)
]


@pytest.mark.parametrize(("name", "method"), CELLS)
def test_every_config_resolves_for_every_method(name, method):
    config = get(name, method=method)
    assert set(config.recipe) == {method for n, method in CELLS if n == name}
    resolved = resolve(config)
    recipe = config.recipe[method]
    for field in OF_THE_METHOD:
        own = config.get(field)  # of a config of one method, outside its recipe
        assert resolved[field] == (recipe.get(field) if own is None else own)
    assert "recipe" not in resolved
    assert json.loads(to_json(resolved))["method"] == method
    assert resolved.is_locked
    with pytest.raises(AttributeError):
        resolved.learning_rte = 1.0


@pytest.mark.parametrize("name", ["scope", "affine", "epochs", "network", "recipe"])
def test_a_method_has_no_hyperparameter_that_is_a_field_of_every_config(
    name, monkeypatch
):
    own = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    first = inspect.Parameter("subnetwork", inspect.Parameter.POSITIONAL_ONLY)
    factory = functools.partial(edge_popup)
    factory.__signature__ = inspect.Signature([first, own])
    monkeypatch.setitem(METHODS.table, "own", factory)
    config = get("digits", method="own")
    with config.unlocked():
        fields = {name: ("*",), "learning_rate": 1.0, "sparsity": 0.5}
        config.recipe.own = recipe(**fields)
    message = f"the method 'own' has a hyperparameter '{name}', which is a field of ev"
    with pytest.raises(ValueError, match=message) as error:
        resolve(config)
    assert "or one of distribution, learning_rate, weight_decay, s" in str(error.value)


def test_a_method_may_share_the_fields_of_recipes(monkeypatch):
    monkeypatch.setitem(METHODS.table, "own", iterand)
    config = get("digits", method="own")
    with config.unlocked():
        fields = {"learning_rate": 1.0, "sparsity": 0.5, "sampling_rate": 0.1}
        config.recipe.own = recipe(**fields, k_per=30)
    assert resolve(config).k_per == 30


def test_lstms_have_the_hyperparameters_of_the_paper():
    """Appendix C.6; 270 steps are about an epoch."""
    popup = {"learning_rate": 2.5, "sparsity": 0.5, "distribution": "signed_constant"}
    expected = {
        "edge_popup": popup,
        "iterand": popup | {"k_per": 45, "sampling_rate": 1.0},
        "sgd": {"learning_rate": 1.0, "distribution": "kaiming_uniform"},
    }
    for name in ("lstm", "bilstm"):
        for method, fields in expected.items():
            resolved = resolve(get(f"imdb_{name}", method=method))
            assert resolved.network.name == name
            assert fields.items() <= dict(own(resolved)).items()
            run = resolved.epochs, resolved.batch_size, resolved.schedule
            assert run == (15, 64, "constant")
            assert resolved.dataset.validation_fraction == 0.3


@pytest.mark.parametrize(
    ("config", "network", "possible"),
    [("imdb_lstm", "conv6", "lstm, bilstm$"), ("cifar_conv6", "bilstm", "conv2, ")],
)
def test_a_network_that_cannot_take_the_dataset_is_named(config, network, possible):
    message = (
        rf"the network {network} does not fit the dataset .*; possible: {possible}"
    )
    with pytest.raises(ValueError, match=message):
        resolve(get(config, **{"network.name": network}))


def own(resolved):
    return {field: resolved[field] for field in OF_THE_METHOD}


@pytest.mark.smoke
def test_conv6_has_the_hyperparameters_of_the_paper():
    common = {"distribution": "signed_constant", "weight_decay": 1e-4, "sparsity": 0.5}
    popup = common | {"learning_rate": 0.2}
    expected = {
        "edge_popup": popup,
        "iterand": popup | {"k_per": 300, "sampling_rate": 0.1},
        "sgd": {
            "distribution": "kaiming_uniform",
            "learning_rate": 0.01,
            "weight_decay": 1e-4,
        },
    }
    for method in OF_THE_PAPER:
        resolved = resolve(get("cifar_conv6", method=method))
        assert own(resolved) == dict.fromkeys(OF_THE_METHOD) | expected[method]
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
    for method in OF_THE_PAPER:
        resolved = resolve(get(name, method=method))
        assert resolved.network.name == name.removeprefix("cifar_")
        assert own(resolved) == dict.fromkeys(OF_THE_METHOD) | expected[method]
        assert (resolved.epochs, resolved.batch_size) == (100, 128)


IMAGENET = {
    "imagenet_resnet18": ("imagenet_resnet18", 1.0),
    "imagenet_resnet34": ("imagenet_resnet34", 1.0),
    "imagenet_resnet50": ("imagenet_resnet50", 1.0),
    "imagenet_resnet101": ("imagenet_resnet101", 1.0),
    "imagenet_wide_resnet50_2": ("imagenet_wide_resnet50_2", 1.0),
    "imagenet_resnet50_x2": ("imagenet_resnet50", 2.0),
}


def test_every_config_of_imagenet_is_checked():
    assert set(IMAGENET) == {name for name in FILES if name.startswith("imagenet")}


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_has_the_hyperparameters_of_the_paper(name):
    common = {"learning_rate": 0.1, "weight_decay": 1e-4}
    popup = common | {"distribution": "signed_constant", "sparsity": 0.7}
    expected = {
        "sgd": common | {"distribution": "kaiming_uniform"},
        "edge_popup": popup,
        "iterand": popup | {"k_per": 1000, "sampling_rate": 0.1},
    }
    for method in OF_THE_PAPER:
        resolved = resolve(get(name, method=method))
        network = resolved.network
        assert (network.name, network.width) == IMAGENET[name]
        assert own(resolved) == dict.fromkeys(OF_THE_METHOD) | expected[method]
        assert resolved.dataset.name == "imagenet2012"
        assert (resolved.epochs, resolved.batch_size, resolved.momentum) == (
            105,
            128,
            0.9,
        )
        assert resolved.schedule == "warmup_cosine"
        assert (
            resolved.warmup_epochs,
            resolved.final_epochs,
            resolved.final_learning_rate,
        ) == (5, 5, 1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schedule", "cosine", "=.*: the fields of the schedule cosine are none"),
        ("warmup_epochs", None, "warmup_epochs=None: the fields of the schedule war"),
        ("warmup_epochs", -1, "warmup_epochs must be an integer from 0 .*; got -1"),
        ("final_epochs", -1, "final_epochs must be an integer from 0 .*; got -1"),
        (
            "final_learning_rate",
            0.0,
            r"learning_rate must be a number in \[1e-30, .*; got 0",
        ),
        ("augmentation", "none", "augmentation=none is not used by the dataset ima"),
        ("dataset.validation_fraction", 0.1, "split_seed=None; possible: both or nei"),
        ("dataset.validation_fraction", 0.2, "split_seed=None; possible: both or nei"),
        ("augmentation", "crop_flip", "augmentation=crop_flip is not used by the data"),
        ("dataset.workers", None, "workers=None: the fields of the dataset imagenet"),
    ],
)
def test_imagenet_has_fields_of_its_own(field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        resolve(get("imagenet_resnet50", **{field: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("decay_factor", 0.0, r"decay_factor must be a number in \[1e-06, .*; got 0"),
        (
            "milestones",
            (0, 80),
            r"milestones must be .* integer from 1 .*; got \(0, 80\)",
        ),
        ("milestones", None, "milestones=None: the fields of the schedule multistep"),
    ],
)
def test_a_schedule_of_milestones_is_checked(field, value, message):
    with pytest.raises(ValueError, match=message):
        resolve(get("cifar_vgg11_imp", **{field: value}))


def test_what_is_set_wins_over_the_recipe():
    fields = {"sparsity": 0.7, "k_per": 5, "learning_rate": 0.3, "sampling_rate": 0.0}
    resolved = resolve(get("cifar_conv6", **fields, weight_decay=0.0))
    recipe = {"weight_decay": 0.0, "distribution": "signed_constant"}
    assert own(resolved) == dict.fromkeys(OF_THE_METHOD) | fields | recipe


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
    message = f"{field}={value} is not used by the method {method}"
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
        ("schedule", "warmup_cosine", "schedule warmup_cosine are warmup_epochs, fin"),
        ("schedule", "multistep", "schedule multistep are milestones, decay_factor"),
        ("steps_per_dispatch", -1, "steps_per_dispatch must be .* from 0 .*; got -1"),
        ("method", "imp", "no recipe for the method 'imp'; possible: sgd, edge_popup"),
        ("method", "imp", "; configs that have one: cifar_resnet20_imp, cifar_vgg11_"),
        ("final_epochs", 5, "final_epochs=5: the fields of the schedule cosine are no"),
        ("dataset.workers", 2, "workers=2: the fields of the dataset cifar10 are mean"),
        ("dtype", "float16", "unknown dtype 'float16'; possible: float32, bfloat16"),
        (
            "matmul_precision",
            "tf32",
            "unknown matmul_precision 'tf32'; possible: default, high, highest",
        ),
        ("sparsity", 1.0, r"\[0, 1\) .*; got 1"),
        ("sparsity", -0.1, r"\[0, 1\) .*; got -0.1"),
        ("sparsity", float("nan"), r"\[0, 1\) .*; got nan"),
        ("sampling_rate", 1.1, r"\[0, 1\], .*; got 1.1"),
        ("k_per", 0, "k_per must be an integer from 1 .*; got 0"),
        ("epochs", 0, "epochs must be .* from 1 .*; got 0"),
        ("batch_size", -1, "batch_size must be .* from 1 .*; got -1"),
        ("eval_batch_size", 0, "eval_batch_size must be .* from 1 .*; got 0"),
        ("log_every_steps", 0, "log_every_steps must be .* from 1 .*; got 0"),
        ("keep_checkpoints", 0, "keep_checkpoints must be .* from 1 .*; got 0"),
        (
            "checkpoint_every_steps",
            -1,
            "every_steps must be .* from 0 .*; got -1",
        ),
        ("seed", -1, "^seed must be an integer from 0 to 4294967295 .*; got -1"),
        (
            "seed",
            2**32,
            "^seed must be .* from 0 to 4294967295 .*; got 4294967296",
        ),
        ("seed", 2**63, "^seed must be .* to 4294967295 .*; got 9223372036854775808"),
        ("keep_checkpoint_epochs", ("two",), r"integer from 1 .*; got \('two',\)"),
        ("keep_checkpoint_epochs", (1.5,), r"integer from 1 .*; got \(1.5,\)"),
        ("keep_checkpoint_epochs", (2, -1), r"integer from 1 .*; got \(2, -1\)"),
        ("keep_checkpoint_epochs", (0,), r"integer from 1 .*; got \(0,\)"),
        ("keep_checkpoint_epochs", (100, 101), "integers from 1 to 100, .* got 101"),
        ("dataset.split_seed", -1, "split_seed must be an integer from 0 .*; got -1"),
        ("learning_rate", 0.0, "learning_rate must be .*; got 0"),
        ("learning_rate", float("nan"), "learning_rate must be .*; got nan"),
        ("learning_rate", float("inf"), "learning_rate must be .*; got inf"),
        (
            "weight_decay",
            -1e-4,
            r"weight_decay must be a number in \[0, .*; got -0.0001",
        ),
        ("momentum", 1.0, r"momentum must be a number in \[0, 1\) .*; got 1"),
        ("clip_norm", 0.0, r"clip_norm must be a number in \[1e-30, .*; got 0"),
        (
            "dataset.validation_fraction",
            1.0,
            r"fraction must be a number in \(0, 1\) .*; got 1",
        ),
        (
            "dataset.validation_fraction",
            0.0,
            r"fraction must be a number in \(0, 1\) .*; got 0",
        ),
        (
            "dataset.std",
            (0.2, 0.0, 0.2),
            r"std must be .* each a number in \[1e-06, .*; got \(0.2, 0.0, 0.2\)",
        ),
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
    for group in ("dataset", "network"):
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


def test_a_saved_config_gets_the_defaults_of_newer_fields():
    saved = resolve(get("cifar_conv6")).to_dict()
    whole = json.loads(json.dumps(saved))
    older = {name: value for name, value in whole.items() if name != "matmul_precision"}
    del older["dataset"]["split_seed"]
    assert differences(completed(older), saved) == []
    assert "recipe" not in completed(older)


def test_a_config_read_back_from_its_json_does_not_differ():
    resolved = resolve(get("cifar_conv6"))
    again = json.loads(to_json(resolved))
    assert differences(resolved.to_dict(), again) == []
    assert again["dataset"]["mean"] == [0.485, 0.456, 0.406]
