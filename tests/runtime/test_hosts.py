"""Processes that train together: how they join, and what they communicate."""

import threading
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from iterand_jax import launch
from iterand_jax.runtime import hosts
from tests import helpers

NOTHING = (None, None, None)
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_PROCID": "1"}


@pytest.fixture
def joined(monkeypatch):
    """A function (environment) -> the calls of jax.distributed.initialize."""
    for name in (*VARIABLES, *SLURM, "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    calls = []

    def initialize(*given, **options):
        calls.append((given, options))
        if options["cluster_detection_method"] != "deactivate" and not detects:
            raise ValueError("coordinator_address should be defined.")

    detects = []
    monkeypatch.setattr(jax.distributed, "initialize", initialize)

    def set_up(detected=True, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        detects.extend([True] * detected)
        return calls

    return set_up


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # One process, or a shell, inside an allocation of several tasks.
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        # Any container of a Kubernetes cluster has this.
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
)
def test_a_process_that_is_alone_asks_no_network(joined, environment):
    calls = joined(**environment)
    hosts.join()
    assert calls == []


@pytest.mark.parametrize("environment", [SLURM, {"OMPI_COMM_WORLD_SIZE": "4"}])
def test_what_a_launcher_knows_is_left_to_jax(joined, environment):
    calls = joined(**environment)
    hosts.join(heartbeat_seconds=7)
    ((given, options),) = calls
    assert given == NOTHING
    assert options == {
        "cluster_detection_method": None,
        "heartbeat_timeout_seconds": 7,
    }


def test_a_tpu_may_have_other_hosts_or_not(joined):
    calls = joined(detected=False)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "tpu,cpu")
    try:
        hosts.join()
    finally:
        jax.config.update("jax_platforms", before)
    assert [given for given, _ in calls] == [NOTHING]


def test_a_launcher_that_jax_does_not_understand_is_named(joined):
    joined(detected=False, OMPI_COMM_WORLD_SIZE="2")
    with pytest.raises(ValueError, match=r"^mpirun started .* give coordinator, proc"):
        hosts.join()


def test_all_that_is_given_is_taken_and_nothing_detected(joined):
    calls = joined(**SLURM)
    hosts.join("somewhere:1", 2, 0)
    assert calls[0][0] == ("somewhere:1", 2, 0)
    assert calls[0][1]["cluster_detection_method"] == "deactivate"


def test_the_environment_gives_what_flags_do_not(joined):
    environment = dict(zip(VARIABLES, ("there:2", "3", "2"), strict=True))
    calls = joined(**environment)
    hosts.join(process_id=1)
    assert calls[0][0] == ("there:2", 3, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1", 2, None), "needed together; got here:1, 2, None"),
        ((None, 2, 0), "needed together"),
        (("here", 2, 0), r"'here' has no port; possible: HOST:PORT"),
        (("here:1", 2, 2), "process_id 2 of 2 processes; possible: 0 to 1"),
    ],
)
def test_half_an_answer_is_refused(joined, given, message):
    joined()
    with pytest.raises(ValueError, match=message):
        hosts.join(*given)


def test_a_number_in_the_environment_is_one(joined):
    joined(JAX_NUM_PROCESSES="two")
    with pytest.raises(ValueError, match=r"\$JAX_NUM_PROCESSES is 'two'"):
        hosts.join()


def test_a_process_that_is_alone_agrees_with_itself():
    assert hosts.are_alone()
    assert hosts.is_first()
    assert hosts.largest(15) == 15
    assert hosts.from_first(lambda: {"a": None}) == {"a": None}
    tree = {"a": np.zeros(2)}
    assert hosts.arrays_of_first(tree) is tree
    hosts.check_same(tree)
    with pytest.raises(KeyError), hosts.together():
        {}["a"]
    with pytest.raises(SystemExit) as ended:
        hosts.leave(75)
    assert ended.value.code == 75


def test_only_processes_that_met_can_be_lost(monkeypatch):
    """What fails at the first exchange is the network, or one that never came."""
    error = jax.errors.JaxRuntimeError("NCCL: no socket interface found")
    assert not hosts.reports_a_lost_process(error)
    met = threading.Event()
    met.set()
    monkeypatch.setattr(hosts, "_met", met)
    assert hosts.reports_a_lost_process(error)
    assert not hosts.reports_a_lost_process(jax.errors.JaxRuntimeError("out of it"))
    assert not hosts.reports_a_lost_process(ValueError("Gloo"))


def test_processes_with_unequal_devices_are_refused(joined, monkeypatch):
    joined()
    devices = [types.SimpleNamespace(process_index=i) for i in (0, 1, 1, 1, 2, 2)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(ValueError, match="have 1, 3, 2 devices; possible: as many on"):
        hosts.join("somewhere:1", 3, 0)


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--processes=0", "processes"), ("--what", "--what")],
)
def test_the_launcher_refuses_bad_flags(flag, message, command, capsys):
    assert command(launch, flag, "--", "--workdir=w") == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_hold_the_same_and_notice_if_not(tmp_path):
    coordinator = f"localhost:{launch.free_port()}"
    environment = launch.environment(devices=2)
    command = ["-m", "tests.together", coordinator]
    processes = [
        helpers.started(*command, index, tmp_path / "c", env=environment)
        for index in range(2)
    ]
    said = [process.communicate(timeout=200) for process in processes]
    different = "w/kernel is not the same on process 1 as on process 0"
    for index, (output, errors) in enumerate(said):
        assert processes[index].returncode == 0, errors
        assert f"{index} {different}\n{index} done" in output
    assert "0 ValueError process 1: no data here" in said[0][0]
    assert "1 OSError no data here" in said[1][0]
    assert [path.name for path in Path(tmp_path / "c").iterdir()] == ["1"]
