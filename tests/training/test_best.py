"""The epoch of the best validation is tested beside the last."""

import json

import numpy as np
import pytest

from iterand_jax.training import printed, results, workdir
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.record import Record
from iterand_jax.training.replica import Replica
from iterand_jax.training.train import train_config
from tests import helpers


def test_the_best_epoch_is_the_newest_of_equal_ones():
    record = Record(validation_accuracy=[50.0, 60.0, 60.0, 55.0])
    record.validation_loss = [0.4, 0.5, 0.6, 0.7]
    assert (record.best_epoch("accuracy"), record.best_epoch("loss")) == (3, 1)
    record.validation_loss = [float("nan"), 0.4, 0.5, float("nan")]
    assert record.best_epoch("loss") == 2


@pytest.mark.slow
@pytest.mark.parametrize("by", ["accuracy", "loss"])
def test_a_run_tests_its_best_epoch_also_when_it_was_interrupted(
    by, tiny_config, tmp_path, monkeypatch
):
    config = tiny_config(test_best=by, keep_checkpoints=1, checkpoint_every_steps=15)
    asked = []

    def scores(self, given):  # the second epoch of three is the best
        asked.append(given)
        return [1.0, 3.0, 2.0][: len(self.validation_accuracy)]

    monkeypatch.setattr(Record, "scores", scores)
    with helpers.killed(at=50):
        helpers.train(config, tmp_path)
    outcome = helpers.train(config, tmp_path)
    assert set(asked) == {by}
    assert outcome.best_epoch == 2
    (tmp_path / "config.json").write_text(to_json(resolve(config)))
    built = helpers.build(config)
    best = Evaluator(built)(workdir.restore(tmp_path, 40).state, "test")
    assert outcome.best == best
    assert best.loss != outcome.test_loss
    result = results.write_result(built, outcome, tmp_path)
    assert result["best_test_accuracy"] == best.accuracy
    assert json.loads((tmp_path / "result.json").read_text())["best_epoch"] == 2
    assert f"{best.accuracy:.2f} % after epoch 2" in printed.summary(result, tmp_path)


def test_a_run_ends_although_the_checkpoint_of_its_best_epoch_is_damaged(
    tiny_config, tmp_path, monkeypatch, capsys
):
    config = tiny_config(test_best="loss", keep_checkpoints=1)
    scores = [1.0, 3.0, 2.0]
    monkeypatch.setattr(
        Record, "scores", lambda self, _: scores[: len(self.validation_accuracy)]
    )
    best, finish = tmp_path / "checkpoints" / "40", Replica.finish

    def damaged(*arguments):
        for path in best.rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        return finish(*arguments)

    monkeypatch.setattr(Replica, "finish", damaged)
    outcome = helpers.train(config, tmp_path)
    assert (outcome.best, outcome.record.best_epoch("loss")) == (None, 2)
    line = capsys.readouterr().err.splitlines()[-1]
    said = "the result has no test accuracy of epoch 2, the best by validation: "
    assert line.startswith(f"{said}the checkpoint {best} is damaged (")
    result = results.write_result(helpers.build(config), outcome, tmp_path)
    assert "best_epoch" not in result
    assert "after epoch" not in printed.summary(result, tmp_path)
    (tmp_path / "config.json").write_text(to_json(resolve(config)))
    with pytest.raises(ValueError, match=r"checkpoints/40 is damaged \(") as error:
        workdir.restore(tmp_path, 40)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_best_epoch_is_tested_later_if_its_checkpoint_cannot_be_read_now(
    tiny_config, tmp_path, monkeypatch
):
    """What a disk does not give now is not lost: the same command ends the run."""
    config = tiny_config(test_best="loss")
    scores = [1.0, 3.0, 2.0]
    monkeypatch.setattr(
        Record, "scores", lambda self, _: scores[: len(self.validation_accuracy)]
    )
    expected = train_config(config, str(tmp_path / "whole"))
    with monkeypatch.context() as patched:

        def busy(*arguments):
            raise OSError(f"{tmp_path}/40 cannot be read: Input/output error")

        patched.setattr(Checkpoints, "restore_step", busy)
        message = "Input/output error; all is trained and saved, .* tests epoch 2, the"
        with pytest.raises(OSError, match=message):
            train_config(config, str(tmp_path / "busy"))
    assert not (tmp_path / "busy" / "result.json").exists()
    found = train_config(config, str(tmp_path / "busy"))
    assert found["best_epoch"] == 2
    assert found["best_test_accuracy"] == expected["best_test_accuracy"]
    assert found["state_sha256"] == expected["state_sha256"]


def test_the_last_epoch_may_be_the_best(tiny_config, tmp_path):
    """Then it is tested once more, and no checkpoint is read."""
    outcome = helpers.train(tiny_config(epochs=1, test_best="loss"), tmp_path)
    assert outcome.best_epoch == 1
    assert outcome.best.accuracy == outcome.test_accuracy
    assert outcome.record.validation_loss[-1] > 0


def test_without_it_nothing_more_is_kept_or_tested(tiny_config, tmp_path):
    outcome = helpers.train(tiny_config(epochs=1), tmp_path)
    assert outcome.best is None
    assert helpers.build(tiny_config()).keep_best == 0


def test_what_cannot_be_is_refused(tiny_config, streamed_config):
    with pytest.raises(ValueError, match="unknown test_best 'last'; possible: accur"):
        resolve(tiny_config(test_best="last"))
    message = "test_best=loss: imagenet2012 has no validation images beside those"
    with pytest.raises(ValueError, match=message):
        resolve(streamed_config(test_best="loss"))
    assert np.isfinite(resolve(tiny_config(test_best="loss")).learning_rate)
