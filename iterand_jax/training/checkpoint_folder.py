"""A folder of checkpoints, as Orbax reads and writes it in one process."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from iterand_jax.training import checkpoint_damage as damage
from iterand_jax.training import orbax_log
from iterand_jax.trees import leaves_of, path_string, sha256

PyTree = Any
_LOGGER = logging.getLogger(__name__)
_CHECKSUM = "record_sha256"


def zeros(abstract: PyTree) -> PyTree:
    """NumPy zeros of the same shapes and dtypes."""
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), abstract)


def saved_steps(folder: Path) -> list[int]:
    """The steps of the finished checkpoints in a folder, without opening them."""
    if not folder.is_dir():
        return []
    steps = (path for path in folder.iterdir() if path.name.isdecimal())
    return sorted(int(path.name) for path in steps if path.is_dir())


class IncompatibleCheckpointError(ValueError):
    """An intact checkpoint whose state has other leaves than the run's."""


class _Best(preservation.PreservationPolicy):
    """Keeps the steps with the highest scores; on ties, the newest.

    Scores are in each checkpoint's record. Orbax's `BestN` reads them back only with
    `best_fn` and from a separate item: it would delete the best of a run that started
    before that item existed, and warn at each checkpoint that has no score.
    """

    def __init__(self, number: int, scores: Mapping[int, float]):
        self._number, self._scores = number, scores

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        scored = [step for step in steps if step in self._scores]
        ranked = sorted(scored, key=lambda step: (self._scores[step], step))
        best = ranked[-self._number :]
        return [step in best for step in steps]


class CheckpointFolder:
    """The checkpoints in one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        keep_best: int,
        keep_steps: Sequence[int],
        only_read: bool,
    ):
        """Opens or makes the folder; see `Checkpoints` for what is kept."""
        self._folder = folder.resolve()
        damage.check_name(self._folder)
        self._only_read = only_read
        if not only_read:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Leftovers of killed saves are useless and may fill the disk. (Orbax
            # removes them in the background, during the next save.)
            for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished)
        # Orbax reads this of each checkpoint when it opens the folder.
        for metadata in self._folder.glob("*/_CHECKPOINT_METADATA"):
            damage.check_regular(metadata)
        # Held open, so that no later folder can have its inode: see `_check_is_there`.
        self._held = None if only_read else os.open(self._folder, os.O_RDONLY)
        self._scores: dict[int, float] = {}  # of the steps that have one
        policies: list[Any] = [preservation.LatestN(keep)]
        if keep_best:
            policies.append(_Best(keep_best, self._scores))
        if keep_steps:
            policies.append(preservation.CustomSteps(keep_steps))
        # Only where checkpoints are ours: a program that imports this has its own logs.
        orbax_log.install()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation.AnyPreservationPolicy(policies),
                create=False,
                # A folder that its thread cannot make fails the save, but leaves the
                # threads of the save waiting for it, and the process with them, for
                # five minutes (Orbax 0.12.8).
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=0,
                    active_processes={0},
                    barrier_sync_key_prefix="first_process",
                ),
            ),
        )
        if keep_best:
            self._read_scores()

    def save(
        self,
        step: int,
        leaves: dict[str, np.ndarray],
        record: dict[str, Any],
        score: float | None,
    ) -> None:
        """Saves the leaves of a state by path, unless that step is saved."""
        if step in self.steps():
            return
        kept_with = {"sha256": sha256(leaves), "leaves": _forms(leaves), "score": score}
        whole = record | kept_with
        if score is not None:
            self._scores[step] = score
        with self._writing():
            self._check_is_there()
            orbax_log.LOG.hold()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves),
                    record=ocp.args.JsonSave(whole | {_CHECKSUM: _checksum(whole)}),
                ),
            )

    def restore(
        self, abstract: PyTree, at_most: int | None
    ) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest intact checkpoint; see `Checkpoints.restore`."""
        # 1. Drop checkpoints beyond the step from which the run is to continue.
        for step in self.steps():
            if at_most is not None and step > at_most:
                self._manager.delete(step)
        # 2. Try the others, newest first, until one is whole.
        damaged, steps = [], self.steps()
        for step in reversed(steps):
            try:
                restored = self._restore_step(step, abstract)
            except IncompatibleCheckpointError:
                raise  # it is whole, and so are the older ones: no reason to go back
            except Exception as error:
                # Orbax and TensorStore report damage by many kinds of errors. Two
                # causes are not damage: a run that is still training has deleted the
                # checkpoint while it was read, so look again ...
                if self._only_read:
                    self._manager.reload()
                    if self.steps() != steps:
                        return self.restore(abstract, at_most)
                # ... and the system did not let us read it, as for lack of rights.
                damage.check_is_damage(error, self._folder / str(step))
                reason = damage.first_line(error)
                damaged.append(f"{self._folder / str(step)} ({reason})")
                _LOGGER.warning("damaged checkpoint: %s", damaged[-1])
                continue
            # 3. Move the damaged newer ones away: the run will save those steps again.
            if not self._only_read:
                self._set_aside([s for s in self.steps() if s > step])
            return restored
        # 4. None is whole. A run may start from scratch only if there is no checkpoint
        # at all. Orbax overlooks one that is a file, as a bad copy may leave.
        files = [path for path in self._folder.iterdir() if path.is_file()]
        damaged += [str(path) for path in files if path.name.isdecimal()]
        if damaged:
            raise ValueError(
                f"no whole checkpoint to continue from; damaged: {'; '.join(damaged)}"
            )
        return None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, intact or damaged."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when all is on disk."""
        with self._writing():
            self._manager.wait_until_finished()
            self._check_is_there()
        orbax_log.LOG.show()

    def _check_is_there(self) -> None:
        """Raises FileNotFoundError if the folder was removed since it was opened.

        Orbax makes the folders that it misses, and would go on in a workdir that has
        nothing but its newest checkpoints.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._held is None or os.path.samestat(
                os.stat(self._folder), os.fstat(self._held)
            ):
                return
        raise FileNotFoundError(errno.ENOENT, "removed", str(self._folder))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            orbax_log.LOG.drop()
            reason = damage.reason(error)
            raise OSError(
                f"a checkpoint cannot be written in {self._folder}: {reason}; "
                f"{self._kept()}"
            ) from error

    def _kept(self) -> str:
        steps = saved_steps(self._folder)
        return f"that of step {steps[-1]:,} is whole" if steps else "there is none yet"

    def close(self) -> None:
        """Waits for pending writes and closes the manager."""
        try:
            with self._writing():
                self._manager.close()
            orbax_log.LOG.show()
        finally:
            if self._held is not None:
                os.close(self._held)
                self._held = None

    def restore_step(
        self, step: int, abstract: PyTree
    ) -> tuple[PyTree, dict[str, Any]]:
        """The checkpoint of a step; see `Checkpoints.restore_step`."""
        steps = self.steps()
        if step not in steps:
            raise ValueError(
                f"no checkpoint of step {step} in {self._folder}; possible: "
                f"{', '.join(map(str, steps)) or 'none'}"
            )
        try:
            return self._restore_step(step, abstract)
        except IncompatibleCheckpointError:
            raise
        except Exception as error:
            damage.check_is_damage(error, self._folder / str(step))
            path, reason = self._folder / str(step), damage.first_line(error)
            raise ValueError(f"the checkpoint {path} is damaged ({reason})") from error

    def _restore_step(
        self, step: int, abstract: PyTree
    ) -> tuple[PyTree, dict[str, Any]]:
        # The record first, since it lists the saved leaves: if they are not the run's,
        # Orbax would fail with an error that looks like damage.
        paths, treedef = jax.tree_util.tree_flatten_with_path(abstract)
        record = self._read_record(step)
        record.pop("score", None)
        wanted = _forms(leaves_of(abstract))
        self._check_leaves(step, record.pop("leaves", {}), wanted)
        targets = leaves_of(zeros(abstract))
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(targets))
        # Then the arrays, which must have the bytes that were saved.
        state = self._manager.restore(step, args=arguments).state
        leaves = {path: np.asarray(leaf) for path, leaf in state.items()}
        if sha256(leaves) != record.pop("sha256"):
            raise ValueError("the bytes do not have the checksum they were saved with")
        # Saved by path; put back in the order of the run's tree.
        ordered = [leaves[path_string(path)] for path, _ in paths]
        return jax.tree.unflatten(treedef, ordered), record

    def _read_record(self, step: int) -> dict[str, Any]:
        damage.check_files(self._folder / str(step))
        arguments = ocp.args.Composite(record=ocp.args.JsonRestore())
        record = self._manager.restore(step, args=arguments).record
        # Verify it before using it: one flipped bit turns "float32" into another dtype,
        # and a damaged checkpoint would look like one of another version.
        if record.pop(_CHECKSUM, None) != _checksum(record):
            raise ValueError("the record does not have the checksum it was saved with")
        return record

    def _read_scores(self) -> None:
        """Scores of an earlier process; a damaged checkpoint has none."""
        for step in self.steps():
            with contextlib.suppress(Exception):
                score = self._read_record(step).get("score")
                if score is not None:
                    self._scores[step] = score

    def _check_leaves(
        self, step: int, saved: dict[str, str], expected: dict[str, str]
    ) -> None:
        differing = [
            f"{path}: {saved.get(path, '(none)')} / {expected.get(path, '(none)')}"
            for path in sorted(saved.keys() | expected.keys())
            if saved.get(path) != expected.get(path)
        ]
        if differing:
            more = "" if len(differing) <= 3 else f"; {len(differing)} in all"
            raise IncompatibleCheckpointError(
                f"the checkpoint {self._folder / str(step)} is of another version of "
                f"the state (there / here): {'; '.join(differing[:3])}{more}"
            )

    def _set_aside(self, steps: list[int]) -> None:
        aside = self._folder.with_name("damaged_checkpoints")
        if steps and aside.is_symlink():  # to a folder whose steps would be replaced
            raise ValueError(
                f"{aside} is a symbolic link to {os.readlink(aside)}; damaged "
                f"checkpoints are moved to a folder"
            )
        for step in steps:
            target = aside / str(step)
            aside.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(self._folder / str(step), target)
        if steps:
            self._manager.reload()


def _checksum(record: dict[str, Any]) -> str:
    """A digest of a record, the same before it is written and after it is read."""
    read = json.loads(json.dumps(record))  # its keys are strings, its tuples lists
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _forms(leaves: dict[str, np.ndarray]) -> dict[str, str]:
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves.items()}
