"""A group is kept complete without a person."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

import rayraft
from rayraft.ray.names import find_nodes, find_supervisor
from rayraft.ray.supervisor import Supervisor
from rayraft.storage.identity import read_identity
from tests.ray.machines import alone, machines
from tests.ray.support import Ledger, assert_equal_states, running_nodes, signal_node, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]
EAGER = rayraft.Settings(replace_after=1.0, rebuild_after=1.0)


def voters(handle: rayraft.Handle) -> tuple[int, ...]:
    found: tuple[int, ...] = handle.cluster.configuration().voters
    return found


def wait_for_voters(handle: rayraft.Handle, *wanted: int) -> None:
    try:
        wait_until(lambda: voters(handle) == wanted, 120.0, f"the voters {wanted}")
    except AssertionError as error:
        raise AssertionError(f"{error}; the supervisor says {handle.cluster.supervision()}") from None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_machine_is_replaced_and_told_when_it_returns(tmp_path: Path) -> None:
    alone(lose_a_machine, tmp_path)


def lose_a_machine(path: Path) -> None:
    with machines(4) as cluster:
        ledger = rayraft.start(
            Ledger,
            name="heals",
            data_dir=path / "{machine}",
            placement=["m1", "m2", "m3", "m0"],
            settings=EAGER,
            timeout_s=60,
        )
        ledger.deposit("ann", 7)
        cluster.lose("m3")
        wait_for_voters(ledger, 1, 2, 4)
        wait_until(lambda: running_nodes(ledger) == [1, 2, 4], timeout_s=120.0, what="the new node")
        assert (path / "m0" / "node-4" / "identity").exists()
        assert ledger.deposit("ann", 1) == 8

        cluster.lose("m2")  # and no machine is free
        refused = "no machine is free"
        wait_until(lambda: refused in str(ledger.cluster.supervision()), 120.0, f"the words: {refused}")
        assert ledger.deposit("ann", 1) == 9

        cluster.add("m3")  # takes the place of m2; its own old node is told that it is none
        wait_for_voters(ledger, 1, 4, 5)

        def told() -> bool:
            identity = read_identity(path / "m3" / "node-3")
            return identity is not None and identity.removed

        wait_until(told, 120.0, "that the old disk is told")
        assert ledger.deposit("ann", 1) == 10
        # The old nodes are removed before their actors end, which takes longer where the machine does not answer.
        wait_until(lambda: sorted(find_nodes("heals")) == [1, 4, 5], 120.0, "the end of the old nodes")
        assert_equal_states(rayraft.connect("heals"))  # which knows the members of now
        ledger.cluster.shutdown()
        assert find_supervisor("heals") is None


@pytest.mark.slow
def test_a_lost_disk_is_rebuilt_once_by_two_supervisors(start_group: Start, tmp_path: Path) -> None:
    ledger = start_group(Ledger, "twins", settings=EAGER, supervise=True, timeout_s=60)
    second = ray.remote(num_cpus=0)(Supervisor).remote("twins", EAGER.rules)
    ledger.deposit("ann", 7)
    ray.kill(ledger.cluster.actor(3), no_restart=True)
    shutil.rmtree(tmp_path / "twins" / "node-3")
    wait_until(lambda: 3 not in voters(ledger) and len(voters(ledger)) == 3, 120.0, "a new third voter")
    wait_until(lambda: ledger.cluster.configuration().learners == (), 120.0, "the end of the twin's attempt")
    assert len(voters(ledger)) == 3
    wait_until(lambda: sorted(find_nodes("twins")) == sorted(voters(ledger)), 120.0, "the end of the others")
    assert ledger.balance_of("ann") == 7
    ray.kill(second, no_restart=True)
    ledger.cluster.shutdown()


@pytest.mark.slow
def test_a_node_that_ray_gave_up_comes_back_and_so_does_the_supervisor(start_group: Start) -> None:
    ledger = start_group(Ledger, "phoenixes", supervise=True, timeout_s=60)
    wait_until(lambda: getattr(ledger.cluster.supervision(), "looks", 0), what="a first look")
    supervisor = find_supervisor("phoenixes")
    assert supervisor is not None
    pid = ray.get(supervisor.pid.remote(), timeout=60)
    os.kill(pid, signal.SIGKILL)
    ray.kill(ledger.cluster.actor(2), no_restart=True)
    wait_until(lambda: 2 not in find_nodes("phoenixes"), what="the end of node 2's actor")
    wait_until(lambda: 2 in find_nodes("phoenixes"), 120.0, "a new actor of node 2")
    wait_until(lambda: 2 in running_nodes(rayraft.connect("phoenixes")), what="node 2")
    assert ray.get(find_supervisor("phoenixes").pid.remote(), timeout=60) != pid
    assert voters(ledger) == (1, 2, 3)
    ledger.cluster.shutdown()


class Stubborn(Ledger):
    """Hangs once while it is made, in C and with the interpreter lock: nothing in its process can help it."""

    def __init__(self, trap: str) -> None:
        super().__init__()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(trap)
            ctypes.PyDLL(None).pause()


@pytest.mark.slow
def test_a_process_that_hangs_while_it_starts_is_ended(start_group: Start, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    settings = rayraft.Settings(restart_after=10.0)
    ledger = start_group(Stubborn, "stubborn", args=(str(trap),), settings=settings, supervise=True, timeout_s=60)
    ledger.deposit("ann", 7)
    trap.touch()
    signal_node(ledger, 3)
    wait_until(lambda: not trap.exists(), what="the trap")
    wait_until(lambda: 3 in running_nodes(ledger), 120.0, "node 3 after its process was ended")
    assert "Restart(node=3)" in str(ledger.cluster.supervision())
    assert voters(ledger) == (1, 2, 3)
    assert ledger.deposit("ann", 1) == 8
    assert_equal_states(ledger)
    ledger.cluster.shutdown()


@pytest.mark.slow
def test_a_process_that_stands_still_is_ended(start_group: Start) -> None:
    ledger = start_group(Ledger, "frozen", settings=rayraft.Settings(restart_after=5.0), supervise=True, timeout_s=60)
    ledger.deposit("ann", 7)
    signal_node(ledger, ledger.cluster.leader(), signal.SIGSTOP)
    wait_until(lambda: "Restart" in str(ledger.cluster.supervision()), 120.0, "the end of the process")
    wait_until(lambda: running_nodes(ledger) == [1, 2, 3], 120.0, "three nodes")
    assert ledger.deposit("ann", 1) == 8
    assert_equal_states(ledger)
    ledger.cluster.shutdown()
