"""A run that was interrupted, however often and in any way, ends like any other."""

import contextlib
import functools
import gc
import signal

import fsspec
import jax
import numpy as np
import pytest

from iterand_jax.training import loop
from iterand_jax.training.replica import Replica
from iterand_jax.training.train import train_config
from tests import helpers


def killed(at, within=""):
    return lambda folder: helpers.killed(at, within)


def signalled(at, number):
    return lambda folder: helpers.signalled(at, number)


class Single:
    """A run on the digits that is killed between two checkpoints.

    So steps are repeated, and their lines in the log are replaced.

    Attributes:
      interruptions: of each start but the last: a function of the folder that gives the
        context to train in.
      continues_from: the step of the checkpoint that the last start continues from.
    """

    interruptions = (killed(40),)
    continues_from = 30
    source = "digits"

    def __init__(self, request, method="iterand", **fields):
        self.request, self.method = request, method
        self.config = self.make_config(method=method, **fields)

    def fixture(self, name):
        return self.request.getfixturevalue(name)

    def make_config(self, **fields):
        return self.fixture("tiny_config")(**fields)

    def train(self, folder):
        """Trains to the end in a folder; returns the facts that must be equal."""
        outcome = helpers.train(self.config, folder, self.source)
        self.check(outcome)
        return helpers.facts(outcome)

    def check(self, outcome):
        """The outcome is one of this kind of runs."""
        assert (outcome.record.redrawn > 0) == (self.method == "iterand")


class StoppedThrice(Single):
    """By signals; what they stop is saved, so no step is repeated."""

    interruptions = (
        signalled(33, signal.SIGTERM),
        signalled(45, signal.SIGINT),
        signalled(46, signal.SIGHUP),
    )
    continues_from = 47

    def make_config(self, **fields):
        self.fixture("attended")
        return super().make_config(**fields)


class StoppedInADispatch(Single):
    """In the middle of a dispatch's steps, of which the next start does the rest."""

    continues_from = 34

    def make_config(self, **fields):
        return super().make_config(steps_per_dispatch=20, **fields)

    @property
    def interruptions(self):
        return [self.stopped]

    @contextlib.contextmanager
    def stopped(self, folder):
        dispatch = loop._Trainer._dispatch

        def stopped(self, step, end, batches):
            if step == 32:
                signal.raise_signal(signal.SIGTERM)
            return dispatch(self, step, min(end, step + 2), batches)

        with (
            helpers.replaced(loop._Trainer, "_dispatch", stopped),
            helpers.stopped(34, signal.SIGTERM),
        ):
            yield


class Replicas(Single):
    """Killed while some have saved a step and others have not."""

    def make_config(self, **fields):
        return super().make_config(seed=3, replicas=3, **fields)

    def train(self, folder):
        outcomes = helpers.train_together(self.config, folder)
        return [helpers.facts(outcome) for outcome in outcomes]

    @property
    def interruptions(self):
        return [self.killed_while_saving]

    @contextlib.contextmanager
    def killed_while_saving(self, folder):
        save = Replica.save

        def dying(self, programs, step):
            if step == 40 and self.run.config.seed == 4:
                self.checkpoints.wait()
                raise helpers.Killed
            save(self, programs, step)

        with (
            helpers.replaced(Replica, "save", dying),
            pytest.raises(helpers.Killed),
        ):
            yield
        saved = [
            max(int(path.name) for path in own.glob("checkpoints/*"))
            for own in sorted(folder.iterdir())
        ]
        assert saved == [40, 30, 30]


class Stages(Single):
    """Magnitude pruning that is killed in each of its stages.

    The early checkpoint, which is rewound to, is not the newest when the dense training
    ends.
    """

    interruptions = tuple(killed(30, f"stage_{stage}") for stage in range(3))
    continues_from = 20

    def make_config(self, **fields):
        return self.fixture("imp_config")(keep_checkpoints=1)

    def train(self, folder):
        result = train_config(self.config, str(folder))
        assert len({stage["state_sha256"] for stage in result["stages"]}) == 3
        return helpers.untimed(result)


class InABucket(Single):
    """On a machine that goes while it copies its last checkpoint."""

    continues_from = 20

    def __init__(self, request, method):
        super().__init__(request, method)
        self.store = fsspec.filesystem("memory")
        self.store.store.clear()

    def train(self, folder):
        facts = helpers.untimed(train_config(self.config, f"memory://{folder.name}"))
        folder.mkdir(exist_ok=True)
        self.store.get_file(f"/{folder.name}/metrics.jsonl", folder / "metrics.jsonl")
        return facts

    @property
    def interruptions(self):
        return [self.gone]

    @contextlib.contextmanager
    def gone(self, folder):
        with helpers.killed(40):
            yield
        parts = self.store.find(f"/{folder.name}/checkpoints/30/state")
        assert len(parts) > 1
        for path in parts[::2]:
            self.store.rm_file(path)


class WithStatistics(Single):
    """A network that keeps running statistics."""

    interruptions = (killed(20),)
    continues_from = 10

    def make_config(self, **fields):
        return self.fixture("normalized_config")(**fields)

    def check(self, outcome):
        super().check(outcome)
        layers = {"resnet_of_two_blocks": 6, "resnet20": 21}[self.config.network.name]
        statistics = jax.tree.leaves_with_path(outcome.state.batch_stats)
        assert len(statistics) == 2 * layers
        for path, leaf in statistics:
            assert leaf.dtype == np.float32
            assert not np.array_equal(leaf, float(path[-1].key == "var") + 0 * leaf)


class OfReviews(Single):
    """Batches of several shapes, dropout and one logit."""

    interruptions = (killed(15),)
    continues_from = 12
    source = helpers.reviews_source()

    def make_config(self, **fields):
        return self.fixture("reviews_config")(**fields)

    def check(self, outcome):
        super().check(outcome)
        assert outcome.state.step == 20


class OfAStream(Single):
    """Images that are decoded while it trains, one of which cannot be."""

    interruptions = (killed(5),)
    continues_from = 4
    source = helpers.numbered_source(train=10, validation=4, bad={7})

    def make_config(self, **fields):
        return self.fixture("streamed_config")(**fields)

    def check(self, outcome):
        position = outcome.record.position
        assert position["next_step"] == 10
        assert len(position["bad_images"]) == 1
        assert outcome.state.epoch.examples == 10


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
exhaustive = functools.partial(pytest.param, marks=pytest.mark.exhaustive)
RESNET20 = {"network.name": "resnet20"}


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("kind", "method", "fields"),
    [
        (Single, "sgd", {}),
        (Single, "edge_popup", {}),
        pytest.param(Single, "iterand", {}, marks=pytest.mark.smoke),
        slow(StoppedThrice, "iterand", {}),
        slow(StoppedInADispatch, "iterand", {}),
        slow(Replicas, "iterand", {}),
        slow(Stages, "imp", {}),
        slow(InABucket, "iterand", {}),
        slow(WithStatistics, "iterand", {}),
        exhaustive(WithStatistics, "iterand", RESNET20),
        exhaustive(WithStatistics, "sgd", RESNET20),
        exhaustive(OfReviews, "sgd", {}),
        exhaustive(OfReviews, "edge_popup", {}),
        slow(OfReviews, "iterand", {}),
        slow(OfAStream, "iterand", {}),
    ],
)
# Orbax leaves coroutines unawaited when a file is damaged; not tested here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_equals_uninterrupted(
    kind, method, fields, request, tmp_path, capsys
):
    run = kind(request, method, **fields)
    whole = run.train(tmp_path / "whole")
    for interruption in run.interruptions:
        with interruption(tmp_path / "other"):
            run.train(tmp_path / "other")
    capsys.readouterr()
    other = run.train(tmp_path / "other")
    said = f"continuing from the checkpoint at step {run.continues_from}"
    assert said in capsys.readouterr().out
    assert other == whole
    logs = [
        {
            path.relative_to(tmp_path / name): helpers.metrics(path.parent)
            for path in (tmp_path / name).rglob("metrics.jsonl")
        }
        for name in ("whole", "other")
    ]
    assert logs[0] == logs[1] != {}
    gc.collect()
