"""Where curves.png plots the records of the log."""

import json

import pytest

from iterand_jax.training import curves

RESULT = {
    "network": "conv2",
    "width": 1.0,
    "dataset": "digits",
    "dataset_official": True,
    "method": "iterand",
    "distribution": "signed_constant",
    "sparsity": 0.5,
    "seed": 3,
    "steps": 60,
    "epochs": 2,
    "test_accuracy": 91.0,
}


LARGE = (1, 1e308), (2, -1e308)  # the scale of both has no float


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws the log of two epochs of 30 steps; returns the figure."""

    def draw(**different):
        lines = [
            {"kind": "step", "step": step, "train_loss": 1.0, "train_accuracy": 50.0}
            | ({"mask_churn": step / 1000} if not different else {})
            for step in (20, 40, 60)
        ]
        lines += [
            {
                "kind": "epoch",
                "step": step,
                "train_loss": 2.0,
                "train_accuracy": 60.0,
                "validation_loss": 3.0,
                "validation_accuracy": 70.0,
                "learning_rate": rate,
            }
            for step, rate in ((30, 0.4), (60, 0.1))
        ]
        lines += [lines[0] | {"step": 70, "train_loss": 10**400}]  # no floats
        lines += [lines[-2] | {"step": 10**400}]
        lines += [lines[0] | {"step": 70 + n, "train_loss": x} for n, x in LARGE]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "metrics.jsonl").write_text(text)
        made = []
        new = curves.new_figure
        monkeypatch.setattr(
            curves, "new_figure", lambda *size: made.append(new(*size)) or made[0]
        )
        path = curves.draw(tmp_path, RESULT | different, k_per=25)
        assert path.read_bytes().startswith(b"\x89PNG")
        return made[0]

    return draw


def points(axes):
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
    }


def test_a_value_is_drawn_at_the_steps_that_it_is_of(drawn):
    loss, accuracy, churn, rate = drawn().axes
    for axes, (window, epoch, validation) in (
        (loss, (1, 2, 3)),
        (accuracy, (50, 60, 70)),
    ):
        lines = points(axes)
        assert lines["train, mean over 20 steps"] == ([10, 30, 50], [window] * 3)
        assert lines["train, mean over an epoch"] == ([15, 45], [epoch] * 2)
        assert lines["validation"] == ([30, 60], [validation] * 2)
    (changed,) = churn.get_lines()
    assert list(changed.get_xdata()) == [10, 30, 50]
    assert list(changed.get_ydata()) == [2, 4, 6]
    (stairs,) = rate.patches
    assert list(stairs.get_data().edges) == [0, 30, 60]
    assert list(stairs.get_data().values) == [0.4, 0.1]
    (moments,) = rate.get_lines()
    assert list(moments.get_xdata()) == [25, 50]


def test_the_title_is_a_line(drawn):
    title = drawn()._suptitle.get_text()
    assert title == (
        "conv2 (width 1) on digits, iterand, signed_constant, sparsity 0.5, seed 3"
    )


def test_what_prunes_nothing_has_no_churn_and_no_sparsity(drawn):
    different = {"method": "sgd", "sparsity": None, "dataset_official": False}
    figure = drawn(**different)
    assert len(figure.axes) == 3
    assert figure._suptitle.get_text() == (
        "conv2 (width 1) on digits (not the official data), sgd, signed_constant, "
        "seed 3"
    )
