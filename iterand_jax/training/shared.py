"""What successive runs of a process share: data on the devices and compiled programs.

A run takes the programs of an earlier one that differs from it in its seed alone, and
the arrays of one whose feed has the same form. Neither changes a bit of the results:
seeds are arguments of the programs, and data are read only.
"""

import json

from iterand_jax.data.feeds import Feed
from iterand_jax.runtime import hosts
from iterand_jax.training.programs import Programs
from iterand_jax.training.run import DataRun

FEED = ("dataset", "augmentation", "batch_size", "eval_batch_size", "dtype")
"""The config fields that a feed is made of."""


class Shared:
    """Keeps the data of the last run, and the programs of the last `number` forms.

    Only data that stays on the devices is shared, and only by a process alone.
    """

    def __init__(self, number: int = 8):
        """Keeps nothing yet."""
        self._number = number
        self._data: tuple[str, Feed] | None = None
        self._programs: dict[str, Programs] = {}

    def feed(self, run: DataRun) -> Feed | None:
        """An open feed of the same form as a run's, None if there is none."""
        if self._data is None or self._data[0] != _data_of(run):
            return None
        return self._data[1]

    def programs(self, run: DataRun, replicas: int) -> Programs | None:
        """The programs of earlier runs like these, None if there are none.

        Args:
          run: one of those that train together.
          replicas: their number.
        """
        if self.feed(run) is None:
            return None
        return self._programs.get(_form_of(run, replicas))

    def keep(self, run: DataRun, replicas: int, programs: Programs) -> None:
        """Keeps what a finished run opened and compiled, and drops other data."""
        if not run.dataset.resident or not hosts.are_alone():
            return
        if self.feed(run) is None:
            self._programs.clear()  # their evaluation holds the other data
            self._data = _data_of(run), run.feed
        form = _form_of(run, replicas)
        self._programs.pop(form, None)
        self._programs[form] = programs
        while len(self._programs) > self._number:
            del self._programs[next(iter(self._programs))]


def _data_of(run: DataRun) -> str:
    config = run.config.to_dict()
    fields = {name: config[name] for name in FEED}
    return json.dumps([run.source.fingerprint, fields], sort_keys=True)


def _form_of(run: DataRun, replicas: int) -> str:
    config = run.config.to_dict() | {"seed": None, "replicas": replicas}
    return json.dumps([str(run.network), config], sort_keys=True)
