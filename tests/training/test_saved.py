"""Foreign files of a workdir are refused in one line, and import nothing."""

import json
import os
import sys

import pytest

from iterand_jax.configs import load
from iterand_jax.configs.default import recipe
from iterand_jax.methods import METHODS as REGISTERED
from iterand_jax.methods import iterand
from iterand_jax.runtime import hosts
from iterand_jax.training import saved
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json
from iterand_jax.training.of_methods import of_method
from iterand_jax.training.procedures import stages
from iterand_jax.training.train import train_config
from iterand_jax.training.workdir import finished_result, read_config, restore
from tests.helpers import refused


def config():
    return json.loads(to_json(resolve(load("default"))))


@pytest.mark.smoke
def test_a_config_comes_back(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config()))
    assert json.loads(to_json(saved.read_config(tmp_path / "config.json"))) == config()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "is not a JSON object: []"),
        (b"null", "is not a JSON object: None"),
        (b"\xff{}", "is not UTF-8, at byte 0"),
        (b"{", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b'{"a":' + b"[" * 50 + b"]" * 50 + b"}", "nests deeper than 20 levels"),
        (b" " * (saved.MOST_BYTES + 1), "has over 16,777,216 bytes"),
        (b'{"network": 3}', "network is a group of fields"),
        (b'{"epochs": "x"}', "epochs must be an integer from 1"),
        (b'{"epochs": null}', "epochs must be an integer from 1"),
        (b'{"batch_size": 1' + b"0" * 400 + b"}", "batch_size must be"),
        (b'{"dataset": {"name": "\\u001b[2J"}}', "dataset.name must be a name"),
        (b'{"dataset": {"na.me": "digits"}}', "is not a config: "),
    ],
)
def test_a_foreign_config_is_refused(content, reason, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    message = refused(restore, tmp_path)
    assert str(path) in message
    assert reason in message


METHODS = [*load("default").recipe, "imp", "fixed_mask"]


def config_of(method):
    """The config.json of a run of a method; of imp, also that of a stage of it."""
    if method not in ("imp", "fixed_mask"):
        return of_text(resolve(with_fields("default", method=method)))
    imp = resolve(with_fields("cifar_resnet20_imp"))
    return of_text(imp if method == "imp" else stages(imp)[1])


def with_fields(name, **given):
    config = load(name)
    config.update_from_flattened_dict(given)
    return config


def of_text(config):
    return json.loads(to_json(config))


def needed_by(method):
    return sorted(of_method(method).needed)


@pytest.mark.parametrize("method", METHODS)
def test_the_config_of_each_method_comes_back(method, tmp_path):
    """With what versions before some fields wrote, too."""
    path, whole = tmp_path / "config.json", config_of(method)
    path.write_text(json.dumps(whole))
    assert of_text(saved.read_config(path)) == whole
    newer = ("scope", "kept_values", "affine", "clip_norm", "test_best", "rank")
    older = {name: value for name, value in whole.items() if name not in newer}
    path.write_text(json.dumps(older))
    taken = {name: None for name in newer[:-1]} | {"rank": "count"}
    expected = whole | taken
    assert of_text(saved.read_config(path)) == expected


@pytest.mark.parametrize("how", ["removed", "null"])
@pytest.mark.parametrize(
    ("method", "field"), [(m, f) for m in METHODS for f in needed_by(m)]
)
def test_a_config_without_what_its_method_needs_is_refused(
    method, field, how, tmp_path
):
    path, foreign = tmp_path / "config.json", config_of(method)
    if how == "removed":
        del foreign[field]
    else:
        foreign[field] = None
    path.write_text(json.dumps(foreign))
    message = refused(saved.read_config, path)
    assert message.startswith(f"{path} is not a config: ")
    assert f"needs a value for {field}" in message or f"it lacks {field}" in message


@pytest.mark.parametrize(
    ("method", "fields", "reason"),
    [
        ("edge_popup", {"k_per": 300}, "k_per=300 is not used by the method edge_pop"),
        ("iterand", {"coats": [0.9]}, "coats=[0.9] is not used by the method iterand"),
        ("sgd", {"sparsity": 0.5}, "sparsity=0.5 is not used by the method sgd"),
        ("sgd", {"scope": ["*"]}, "scope=['*'] is not used by the method sgd, which"),
        ("iterand", {"my_own": 3}, "there is no field 'my_own'; the own fields of "),
        ("iterand", {"items": 3}, "there is no field 'items'"),
        ("iterand", {"to_dict": 3}, "there is no field 'to_dict'"),
        ("iterand", {"\x1b[2J": 3}, r"there is no field '\x1b[2J'"),
        ("iterand", {"recipe": {}}, "it has a recipe"),
        ("iterand", {"network": {"zzz": 1}}, "there is no field 'network.zzz'"),
        ("iterand", {"method": "imp"}, "k_per=300 is not used by the method imp"),
        ("sgd", {"method": "imp"}, "needs a value for retrainings"),
        ("sgd", {"method": "mine"}, "unknown method 'mine'; possible: sgd"),
        ("sgd", {"method": "no_such:m"}, "is not imported; import it with --import"),
        ("sgd", {"method": None}, "method must be a name"),
    ],
)
def test_a_config_of_other_fields_than_its_method_takes_is_refused(
    method, fields, reason, tmp_path
):
    path, foreign = tmp_path / "config.json", config_of(method)
    for name, value in fields.items():
        nested = isinstance(value, dict) and name in foreign
        foreign[name] = {**foreign[name], **value} if nested else value
    path.write_text(json.dumps(foreign))
    message = refused(saved.read_config, path)
    assert message.startswith(f"{path} is not a config: ")
    assert reason in message


def gentle(subnetwork, *, warmth, k_per=3):
    """A method of a user, whose masks follow from a hyperparameter of its own."""
    return iterand(subnetwork, k_per=k_per, sampling_rate=warmth)


@pytest.mark.parametrize("name", ["gentle", "of_a_user:gentle"])
def test_the_config_of_a_method_of_ones_own_comes_back(name, tmp_path, monkeypatch):
    if name == "gentle":
        monkeypatch.setitem(REGISTERED.table, name, gentle)
    monkeypatch.setitem(sys.modules, "of_a_user", sys.modules[__name__])
    path, config = tmp_path / "config.json", load("digits")
    with config.unlocked():
        config.method, config.recipe[name] = name, recipe(warmth=0.5)
    whole = of_text(resolve(config))
    assert (whole["warmth"], whole["sparsity"]) == (0.5, None)
    path.write_text(json.dumps(whole))
    assert of_text(saved.read_config(path)) == whole
    path.write_text(json.dumps(whole | {"warmth": None}))
    assert "needs a value for warmth" in refused(saved.read_config, path)
    path.write_text(json.dumps(whole | {"warmt": 0.5}))
    assert "there is no field 'warmt'" in refused(saved.read_config, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"), [("sparsity", 0.25), ("rank", "quantile"), ("seed", 3)]
)
def test_another_config_than_a_checkpoint_was_saved_with_is_refused(
    field, value, tiny_config, tmp_path
):
    """It is a config, too: of other masks, or of other data."""
    train_config(tiny_config(epochs=1), str(tmp_path))
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())
    assert restore(tmp_path).state is not None
    path.write_text(json.dumps(whole | {field: value}))
    message = refused(restore, tmp_path)
    assert f"a checkpoint in {tmp_path} was saved with another config" in message
    assert f"{field}: {whole[field]} / {value}" in message


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    assert "no regular file" in refused(restore, tmp_path)


@pytest.mark.parametrize("field", ["network", "dataset"])
def test_no_module_is_imported_for_a_config(field, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    foreign = config()
    foreign[field]["name"] = "planted:Thing"
    (tmp_path / "config.json").write_text(json.dumps(foreign))
    assert "planted" in refused(restore, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "is not a result: it has no test_accuracy"),
        ("[]", "is not a JSON object"),
        ('{"replicas": {}}', "it has no test_accuracy_mean"),
        ('{"test_accuracy": "good"}', "test_accuracy is 'good'"),
        ('{"test_accuracy": NaN}', "test_accuracy is nan"),
        ('{"test_accuracy": 1' + "0" * 400 + "}", "is an integer of 1329 bits"),
    ],
)
def test_a_foreign_result_is_refused(content, reason, tmp_path):
    own = resolve(load("default"))
    (tmp_path / "config.json").write_text(to_json(own))
    (tmp_path / "result.json").write_text(content)
    assert reason in refused(finished_result, tmp_path, own)


WHOLE = {
    **dict.fromkeys(("test_accuracy", "validation_accuracy_last"), 50.0),
    **dict.fromkeys(("validation_accuracy_best", "sparsity_achieved"), 50.0),
    **dict.fromkeys(("parameters", "parameters_kept", "redrawn", "steps"), 3),
    **{"epochs": 1, "examples_per_second": 3.0, "state_sha256": "a", "seconds": {}},
}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"best_epoch": 2}, "it has no best_test_accuracy"),
        ({"best_epoch": "x", "best_test_accuracy": 3.0}, "best_epoch is 'x'"),
        ({"startup": {"\x1b[2J": {"begin": 1, "end": 2}}}, "startup has the name"),
        (
            {
                "test_accuracy_mean": 1.0,
                "test_accuracy_deviation": 1.0,
                "replicas": {"\x1b[2J": WHOLE},
            },
            "replicas has the name",
        ),
    ],
)
def test_what_is_printed_of_a_result_is_checked(fields, reason, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(WHOLE))
    assert saved.read_result(tmp_path / "result.json") == WHOLE
    (tmp_path / "result.json").write_text(json.dumps(WHOLE | fields))
    assert reason in refused(saved.read_result, tmp_path / "result.json")


def test_a_foreign_config_differs_in_one_line(tmp_path):
    foreign = config() | {f"field{n}": "x\ny" * 1000 for n in range(50)}
    (tmp_path / "config.json").write_text(json.dumps(foreign))
    message = refused(finished_result, tmp_path, resolve(load("default")))
    assert "50 in all" in message
    assert len(message) < 6000


def test_a_config_with_a_group_in_place_of_a_value_differs(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config() | {"seed": {"a": 1}}))
    message = refused(finished_result, tmp_path, resolve(load("default")))
    assert "seed.a: 1 / (none)" in message
    assert "seed must be an integer" in refused(restore, tmp_path)


def test_other_processes_get_the_config_of_a_workdir_as_json(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(config()))
    monkeypatch.setattr(
        hosts, "from_first", lambda read: json.loads(json.dumps(read()))
    )
    assert json.loads(to_json(read_config(tmp_path))) == config()
