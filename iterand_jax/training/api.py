"""Training from Python: `iterand_jax.train`."""

import contextlib
import dataclasses
import functools
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from iterand_jax.configs import default, load
from iterand_jax.data import own
from iterand_jax.data.feeds import plan_sizes
from iterand_jax.runtime import modes
from iterand_jax.runtime.checks import check_at_least
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.training import exporting
from iterand_jax.training import workdir as workdirs
from iterand_jax.training.config import NOTHING_GIVEN, Given, resolve
from iterand_jax.training.fields import check as check_fields
from iterand_jax.training.logs import read_lines
from iterand_jax.training.run import Run
from iterand_jax.training.run_log import Callback
from iterand_jax.training.step import State
from iterand_jax.training.train import train_config

__all__ = ["Result", "train"]

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The result of a finished training run.

    Attributes:
      record: the contents of result.json: accuracies, counts, seconds, versions.
      history: the log records, as in metrics.jsonl.
      params: the effective parameters, 0.0 where pruned, on the host.
      masks: a pytree like params, nonzero where kept, None for leaves that are not
        pruned; None for a method that prunes nothing.
      variables: the variables for `network.apply`: params and batch statistics.
      run: the network, method and config.
      state: the training state after the last step.
    """

    record: dict[str, Any]
    history: list[dict[str, Any]]
    params: PyTree
    masks: PyTree | None
    variables: dict[str, PyTree]
    run: Run = dataclasses.field(repr=False)
    state: State = dataclasses.field(repr=False)
    words: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)

    @property
    def test_accuracy(self) -> float:
        """Test accuracy in %; the test set is evaluated once, after the last step."""
        return self.record["test_accuracy"]

    @functools.cached_property
    def ticket(self) -> Ticket:
        """The subnetwork as a ticket; its `save` writes a file.

        Raises:
          ValueError: the method's params are not weights * masks.
        """
        ticket = exporting.ticket_of(self.run, self.state, self.words)
        exporting.check_params(self.run, self.state, ticket)
        return ticket


@modes.fixed()
def train(
    what: str | ConfigDict | nn.Module,
    data: Mapping[str, Any] | tuple[Any, Any] | None = None,
    *,
    test: tuple[Any, Any] | None = None,
    test_fraction: float | None = None,
    method: str | None = None,
    steps: int | None = None,
    workdir: str | Path | None = None,
    data_dir: str | None = None,
    callbacks: Sequence[Callback] = (),
    **fields: Any,
) -> Result:
    """Trains a config, or a custom network on arrays, to the end.

        result = train("digits", {"epochs": 3, "network.width": 0.25})
        result = train(MyNetwork(), (x, y), test=(x_test, y_test), steps=600)

    It prints the same output as the command line and, like it, resumes from the
    checkpoints of a workdir.

    Args:
      what: the name or file of a config, a config, or a Flax Linen module, which is
        called with a batch of x and returns logits (N, classes).
      data: for a config, fields to change, {"network.width": 0.25}; for a module,
        (x, y): uint8 images (N, H, W, C) or floats (N, ...), and labels from 0.
      test: the test set (x, y), for a module.
      test_fraction: the fraction of (x, y) to hold out when there is no test set.
      method: a registered name, "iterand" by default.
      steps: the minimum number of steps, rounded up to whole epochs, for a module.
      workdir: the folder of the run; None for a temporary one, removed at the end.
      data_dir: where datasets are stored; None for $TFDS_DATA_DIR or TFDS's default.
      callbacks: functions called with each log record: a line of metrics.jsonl
        plus its "seed".
      **fields: further fields of the config: sparsity=0.7, batch_size=64.

    Raises:
      ValueError: an invalid argument or config field; one line that says what is
        possible.
      InterruptedRunError: on Ctrl-C or SIGTERM; the last step is saved in the workdir.

    >>> train("digits", {"replicas": 2})
    Traceback (most recent call last):
    ...
    ValueError: replicas=2: train returns one run; possible: 1
    """
    of_module = {"test": test, "test_fraction": test_fraction, "steps": steps}
    if method is not None:
        fields = _together(fields, {"method": method})
    config, given = _config_of(what, data, of_module, fields)
    resolved = resolve(config, given)
    if resolved.replicas != 1:
        raise ValueError(
            f"replicas={resolved.replicas}: train returns one run; possible: 1"
        )
    with _folder(workdir) as folder:
        record = train_config(
            config, str(folder), data_dir, callbacks=callbacks, given=given
        )
        *_, last = workdirs.members(folder, resolved)
        run, state, _ = workdirs.restore(last, given=given)
        history = read_lines(last / "metrics.jsonl")
        words = exporting.words_of(last, resolved.to_dict(), given)
    return _result(run, state, record=record, history=history, words=words)


def _config_of(
    what: Any, data: Any, of_module: Mapping[str, Any], fields: dict[str, Any]
) -> tuple[ConfigDict, Given]:
    """The config with all fields set, not resolved, and what is given as values."""
    if isinstance(what, nn.Module):
        return _of_module(what, data, **of_module, fields=fields)
    fields = _together(_fields_of(data, of_module), fields)
    config = load(what) if isinstance(what, str) else ConfigDict(what).lock()
    _update(config, fields)
    return config, NOTHING_GIVEN


def _result(run: Run, state: State, **ended: Any) -> Result:
    """The result of a run that ended in a state, with its trees on the host."""
    params = jax.tree.map(np.asarray, run.params(state))
    statistics = {"batch_stats": state.batch_stats} if state.batch_stats else {}
    return Result(
        params=params,
        masks=jax.tree.map(np.asarray, run.masks(state)),
        variables={"params": params, **statistics},
        run=run,
        state=state,
        **ended,
    )


def _fields_of(data: Any, of_module: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that `data` sets.

    Raises:
      ValueError: it is no mapping, or there are arguments that a module has.
    """
    for name, value in of_module.items():
        if value is not None:
            raise ValueError(
                f"{name}={value!r} is not used with a config; possible: its fields"
            )
    if not (data is None or isinstance(data, Mapping)):
        raise ValueError(
            f"a config takes a mapping of fields, not {type(data).__name__}"
        )
    return {**(data or {})}


def _together(fields: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Both; raises ValueError for a field that has two values."""
    for name, value in others.items():
        if name in fields and fields[name] != value:
            raise ValueError(
                f"{name}={fields[name]!r} and {name}={value!r}: pass only one of them"
            )
    return {**fields, **others}


def _of_module(
    network: nn.Module,
    data: Any,
    test: tuple[Any, Any] | None,
    test_fraction: float | None,
    steps: int | None,
    fields: dict[str, Any],
) -> tuple[ConfigDict, Given]:
    """The config for a module on arrays, and the module and dataset as values."""
    if not isinstance(data, tuple) or len(data) != 2:
        raise ValueError(
            f"a module is trained on (x, y), a pair of arrays; got "
            f"{type(data).__name__}"
        )
    x, y = map(np.asarray, data)
    dataset = own.from_arrays(x, y, test=test, test_fraction=test_fraction)
    sizes = dataset.open("").sizes
    config = default.get_config()
    config.network.name = type(network).__name__
    config.dataset.name = "arrays"
    if "mean" in dataset.options:
        pixels = x.reshape(-1, x.shape[-1]) / 255
        # Normalized by the statistics of the training images, per channel.
        config.dataset.mean = tuple(map(float, pixels.mean(axis=0)))
        config.dataset.std = tuple(max(float(s), 1e-3) for s in pixels.std(axis=0))
    else:
        config.dataset.mean = config.dataset.std = None
    config.augmentation = "none" if dataset.augmentations else None
    config.batch_size = min(128, max(1, sizes["train"] // 4))
    own_names = config.network.name, config.dataset.name
    _update(config, fields)
    if own_names != (config.network.name, config.dataset.name):
        raise ValueError(
            f"network.name={config.network.name} and dataset.name="
            f"{config.dataset.name} cannot be set: a module and its arrays are given"
        )
    check_fields(config)
    _, steps_per_epoch = plan_sizes(
        sizes,
        batch_size=config.batch_size,
        validation_fraction=config.dataset.validation_fraction,
        partial_batches=bool(config.dataset.partial_batches),
    )
    if steps is not None:
        if "epochs" in fields:
            raise ValueError(
                f"steps={steps} and epochs={fields['epochs']}: pass only one of them"
            )
        check_at_least(1, steps, "steps is the length of the training")
        config.epochs = math.ceil(steps / steps_per_epoch)
    return config, Given(network, dataset)


def _update(config: ConfigDict, fields: Mapping[str, Any]) -> None:
    try:
        config.update_from_flattened_dict(fields)
    except Exception as error:  # of ConfigDict: of many kinds
        reason = " ".join(str(error).split())
        raise ValueError(f"invalid field of the config: {reason}") from error


@contextlib.contextmanager
def _folder(workdir: str | Path | None) -> Iterator[Path]:
    if workdir is not None:
        yield Path(workdir).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="iterand_jax_") as folder:
        yield Path(folder)
