"""Checkpoints by Orbax: all that is needed to continue bit for bit.

A checkpoint holds the leaves of the state by path, a record of the host's own numbers,
and a SHA-256 of the leaves. Orbax writes it in the background under another name and
renames it when it is whole, so a kill at any moment leaves the earlier ones intact.
"""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from iterand_jax.subnetwork import path_string

PyTree = Any
_LOGGER = logging.getLogger(__name__)


def state_leaves(state: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a state by path, copied to the host."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    # A copy: the next step donates these buffers while the writer still reads.
    return {path_string(path): np.array(leaf, copy=True) for path, leaf in leaves}


def sha256(leaves: dict[str, np.ndarray]) -> str:
    """A digest of the paths, dtypes, shapes and bytes of leaves."""
    digest = hashlib.sha256()
    for path in sorted(leaves):
        leaf = leaves[path]
        digest.update(f"{path}:{leaf.dtype}:{leaf.shape};".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, *, keep: int):
        """Opens or makes the folder; the newest `keep` checkpoints stay."""
        self._folder = folder.resolve()
        self._manager = ocp.CheckpointManager(
            self._folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
        )

    def save(self, step: int, state: PyTree, record: dict[str, Any]) -> None:
        """Saves after a step, in the background once the state is copied."""
        if step in self._manager.all_steps():
            return
        leaves = state_leaves(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves),
                record=ocp.args.JsonSave({**record, "sha256": sha256(leaves)}),
            ),
        )

    def restore(self, abstract: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest whole checkpoint as (state of NumPy arrays, record), or None.

        A damaged one is reported, moved to a folder beside this one, and the one before
        it is tried.

        Args:
          abstract: the state's structure, with shapes and dtypes for leaves.

        Raises:
          ValueError: there are checkpoints, and none is whole.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._restore_step(step, abstract)
            except Exception as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                damaged.append(f"{self._folder / str(step)} ({reason[0]})")
                _LOGGER.warning("damaged checkpoint: %s", damaged[-1])
                continue
            self._set_aside([s for s in self._manager.all_steps() if s > step])
            return restored
        if damaged:
            raise ValueError(
                f"no whole checkpoint to continue from; damaged: {'; '.join(damaged)}"
            )
        return None

    def wait(self) -> None:
        """Returns when all is on disk; raises if it could not be written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and ends the background work."""
        self._manager.close()

    def _restore_step(
        self, step: int, abstract: PyTree
    ) -> tuple[PyTree, dict[str, Any]]:
        paths, treedef = jax.tree_util.tree_flatten_with_path(abstract)
        targets = {path_string(p): np.zeros(a.shape, a.dtype) for p, a in paths}
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(targets),
                record=ocp.args.JsonRestore(),
            ),
        )
        leaves = {path: np.asarray(leaf) for path, leaf in restored.state.items()}
        if sha256(leaves) != restored.record.pop("sha256"):
            raise ValueError("the bytes do not have the checksum they were saved with")
        ordered = [leaves[path_string(path)] for path, _ in paths]
        return jax.tree.unflatten(treedef, ordered), restored.record

    def _set_aside(self, steps: list[int]) -> None:
        for step in steps:
            target = self._folder.with_name("damaged_checkpoints") / str(step)
            target.parent.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(self._folder / str(step), target)
        if steps:
            self._manager.reload()
