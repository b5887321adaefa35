"""Foreign files of a workdir are refused in one line, and import nothing."""

import json
import os

import pytest

from iterand_jax.configs import load
from iterand_jax.runtime import hosts
from iterand_jax.training import saved
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json
from iterand_jax.training.workdir import finished_result, read_config, restore


def config():
    return json.loads(to_json(resolve(load("default"))))


def refused(read, *arguments):
    with pytest.raises(ValueError, match=r"\S") as error:
        read(*arguments)
    assert str(error.value).isprintable()
    return str(error.value)


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
