"""A script that test_hosts.py runs in two processes: COORDINATOR INDEX FOLDER."""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from iterand_jax import Subnetwork, iterand
from iterand_jax.data.feeds import Placement
from iterand_jax.runtime import hosts
from iterand_jax.training import parallel
from iterand_jax.training.checkpoint import Checkpoints

ODD = np.array([-0.0, np.nan, 1.5], np.float32)


class State(NamedTuple):
    """The part of a state that a refresh takes."""

    trainable: dict
    frozen: dict


def main(coordinator, index, folder):
    hosts.join(coordinator, 2, index, heartbeat_seconds=60)
    assert hosts.is_first() == (index == 0)
    assert not hosts.are_alone()
    what_the_first_has_all_have()
    an_error_of_one_is_an_error_of_all(index)
    mesh = parallel.device_mesh()
    assert [device.process_index for device in mesh.devices] == [0, 0, 1, 1]
    placement = Placement(parallel.replicated(mesh), parallel.batch_sharded(mesh))
    each_process_makes_its_rows_of_a_batch(placement)
    the_redraw_is_that_of_a_process_alone(placement, mesh)
    a_checkpoint_of_states_that_differ_is_refused(index, folder)
    print(index, "done", flush=True)


def what_the_first_has_all_have():
    own = {"a": ODD, "b": np.array(7)}
    tree = own if hosts.is_first() else jax.tree.map(np.zeros_like, own)
    received = hosts.arrays_of_first(tree)
    assert received["a"].tobytes() == ODD.tobytes()
    assert received["b"] == 7
    value = {"of": ["the", "first"], "n": 1.5, "long": "é" * 2000}
    assert hosts.from_first(lambda: value if hosts.is_first() else None) == value
    assert hosts.largest(15 * jax.process_index()) == 15


def an_error_of_one_is_an_error_of_all(index):
    try:
        with hosts.together():
            if index == 1:
                raise OSError("no data here")
    except Exception as error:
        print(index, type(error).__name__, error)


def each_process_makes_its_rows_of_a_batch(placement):
    rows = np.arange(24.0).reshape(8, 3)
    own = placement.own(rows)
    assert len(own) == 4
    whole = jax.jit(lambda x: x, out_shardings=placement.replicated)
    np.testing.assert_array_equal(whole(placement.put_batch(own)), rows)


def the_redraw_is_that_of_a_process_alone(placement, mesh):
    method = iterand(Subnetwork(), k_per=1, sampling_rate=0.5)
    kernel = np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30)
    params = {"Dense_0": {"kernel": kernel}}
    alone = jax.tree.map(np.asarray, method.init(jax.random.key(3), params))
    expected, count = method.refresh(jax.random.key(3), 4, *alone)
    state = State(*placement.put_whole(alone))
    root = jax.jit(lambda: jax.random.key(3), out_shardings=placement.replicated)()
    for make in (parallel.compile_refresh, parallel.compile_refresh_without_pmap):
        frozen, redrawn = make(method, mesh, root, state)(root, 4, *state)
        assert int(redrawn) == count > 0
        jax.tree.map(np.testing.assert_array_equal, frozen, expected)
        for leaf in jax.tree.leaves(frozen):
            assert leaf.sharding == placement.replicated


def a_checkpoint_of_states_that_differ_is_refused(index, folder):
    checkpoints = Checkpoints(folder, keep=2)
    state = {"w": {"kernel": ODD}, "step": np.int32(1)}
    assert checkpoints.restore(state) is None
    checkpoints.save(1, state, {"n": 1})
    checkpoints.wait()
    restored, record = checkpoints.restore(state)
    assert restored["w"]["kernel"].tobytes() == ODD.tobytes()
    assert record == {"n": 1}
    try:
        checkpoints.save(2, state | {"w": {"kernel": ODD * (-1) ** index}}, {})
    except hosts.DifferingProcessesError as error:
        print(index, error)
    checkpoints.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
