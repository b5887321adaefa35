"""Orbax checkpoints: all that is needed to resume bit for bit.

A checkpoint holds the state leaves by path, a host-side record (see `record.Record`),
and a SHA-256 of the leaves. Orbax writes it asynchronously under a temporary name and
renames it when it is complete, so a kill at any moment leaves earlier ones intact.

With several processes, the state is replicated on all of them and only process 0 reads
and writes. They compare their states before a save, and all resume from what it read.
"""

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.runtime import hosts
from iterand_jax.training.checkpoint_folder import CheckpointFolder, zeros
from iterand_jax.trees import leaves_of

PyTree = Any

# One for all folders: Orbax numbers the saves of a process, and two that begin at once
# in different threads would take one number.
_THREAD = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")


def state_leaves(state: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a state by path, copied to the host."""
    # A copy: the next step donates these buffers while the writer still reads.
    return {path: np.array(leaf, copy=True) for path, leaf in leaves_of(state).items()}


class Checkpoints:
    """The checkpoints of one run, in one folder.

    All processes of a run call the methods, at the same points.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        keep_best: int = 0,
        keep_steps: Sequence[int] = (),
        only_read: bool = False,
    ):
        """Opens or makes the folder.

        It keeps the newest `keep` checkpoints, the `keep_best` with the highest scores,
        and those of `keep_steps`. With `only_read` nothing in the folder is changed, as
        another process may be training: checkpoints that it deletes are skipped.
        """
        self._folder: Any = None  # the first process has it
        self._pending: concurrent.futures.Future | None = None
        self.seconds = 0.0  # from the last save's begin until it was on disk
        with hosts.together():
            if hosts.is_first():
                self._folder = CheckpointFolder(
                    folder,
                    keep=keep,
                    keep_best=keep_best,
                    keep_steps=keep_steps,
                    only_read=only_read,
                )

    def save(
        self,
        step: int,
        state: PyTree,
        record: dict[str, Any],
        score: float | None = None,
        *,
        copied: bool = False,
    ) -> None:
        """Saves after a step, in the background once the state is copied.

        It first waits for the previous save, so that at most one copy is held. With
        several processes only the writing is in the background.

        Args:
          step: the number of steps done.
          state: a tree of arrays.
          record: the host-side record, JSON-serializable.
          score: ranks the checkpoint for `keep_best`; without a score it never counts.
          copied: whether these arrays are never modified or donated.

        Raises:
          DifferingProcessesError: the processes do not hold the same state.
          OSError: the previous save failed; earlier checkpoints are intact.
        """
        self._settle()
        if hosts.are_alone():
            leaves = leaves_of(state) if copied else state_leaves(state)
            arguments = step, leaves, record, score, time.perf_counter()
            self._pending = _THREAD.submit(self._write, *arguments)
            return
        leaves = state_leaves(state)
        hosts.check_same(leaves)
        hosts.from_first(lambda: self._folder.save(step, leaves, record, score))

    def _write(
        self,
        step: int,
        leaves: dict[str, Any],
        record: dict[str, Any],
        score: float | None,
        begun: float,
    ) -> None:
        on_host = {path: np.asarray(leaf) for path, leaf in leaves.items()}
        self._folder.save(step, on_host, record, score)
        self._folder.wait()
        self.seconds = time.perf_counter() - begun

    def _settle(self) -> None:
        """Returns when the last save has ended; raises its error, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(
        self, abstract: PyTree, at_most: int | None = None
    ) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest intact checkpoint as (state of NumPy arrays, record), or None.

        A damaged one is reported and, unless `only_read`, moved to a sibling folder;
        then the previous one is tried.

        Args:
          abstract: the state's structure, with shapes and dtypes for leaves.
          at_most: the newest step wanted, if not the newest there is; checkpoints
            beyond it are deleted.

        Raises:
          IncompatibleCheckpointError: the newest intact one has other leaves.
          ValueError: there are checkpoints, but all are damaged.
          OSError: they cannot be read (e.g. permissions), which is not damage.
        """
        self._settle()
        return _of_first(lambda: self._folder.restore(abstract, at_most), abstract)

    def restore_step(
        self, step: int, abstract: PyTree
    ) -> tuple[PyTree, dict[str, Any]]:
        """The checkpoint of a step, as `restore` gives the newest.

        Raises:
          ValueError: there is none of this step, or it is damaged or incompatible.
        """
        self._settle()
        found = _of_first(lambda: self._folder.restore_step(step, abstract), abstract)
        assert found is not None
        return found

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, intact or damaged."""
        self._settle()
        return hosts.from_first(lambda: self._folder.steps())

    def wait(self) -> None:
        """Returns when all is on disk; raises OSError if it could not be written."""
        self._settle()
        hosts.from_first(lambda: self._folder.wait())

    def close(self) -> None:
        """Waits for pending writes and closes the manager."""
        try:
            self._settle()
        finally:
            if self._folder is not None and hosts.are_alone():
                # Orbax raises a save's error once for each thread that waits for it.
                _THREAD.submit(self._folder.close).result()
            elif self._folder is not None:
                self._folder.close()


def _of_first(
    read: Callable[[], tuple[PyTree, dict[str, Any]] | None], abstract: PyTree
) -> tuple[PyTree, dict[str, Any]] | None:
    """What process 0 reads, broadcast to all processes."""
    found = None
    with hosts.together():
        if hosts.is_first():
            found = read()
    record = hosts.from_first(lambda: found and found[1])
    if record is None:
        return None
    return hosts.arrays_of_first(found[0] if found else zeros(abstract)), record
