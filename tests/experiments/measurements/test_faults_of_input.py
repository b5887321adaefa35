"""A small share of the campaigns of configs and images."""

import random

import pytest

from experiments.measurements.faults import configs, folders, images
from experiments.measurements.faults.trial import record_of


def test_configs_of_any_values_are_refused_in_one_line_or_resolve(tmp_path):
    record = record_of(configs.trials(300, 7, tmp_path))
    assert record["kept"] == record["trials"] == 300, record["broken"]
    assert set(record["outcomes"]["fields"]) == {
        "refused in one line",
        "resolved",
        "described",
    }


def test_a_config_that_breaks_something_else_is_counted(monkeypatch):
    def broken(config):
        raise KeyError("field")

    monkeypatch.setattr(configs, "resolve", broken)
    name, config, _ = configs.changed_config(random.Random(0))
    trial = configs.tried(name, config, describe=False)
    assert (trial.outcome, trial.kept) == ("KeyError", False)


@pytest.mark.slow
def test_images_of_any_bytes_are_decoded_or_bad_images(tmp_path):
    record = record_of(images.trials(100, 7, tmp_path))
    assert record["kept"] == record["trials"] == 100, record["broken"]
    assert record["largest_megabytes"] < images.MEGABYTES


@pytest.mark.slow
def test_damaged_folders_are_read_as_they_are_named_or_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # and is set back at the end
    record = record_of(folders.trials(40, 7, tmp_path))
    assert record["kept"] == record["trials"] == 40, record["broken"]
    found = {name for kind in record["outcomes"].values() for name in kind}
    assert found == set(folders.FINE)
