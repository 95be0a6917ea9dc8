"""Snapshots in real nodes: the log is cut, restarts begin from them, and a node far behind gets one in chunks."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

import rayraft
from tests.ray.recorded import Recorded
from tests.ray.support import Ledger as SmallLedger
from tests.ray.support import Marker, assert_equal_states, report, signal_node, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]
SETTINGS = rayraft.Settings(snapshot_entries=100, snapshot_trailing=10)


def cut(handle: rayraft.Handle, node: int) -> int:
    found = report(handle, node)
    return found.replica.snapshot if found is not None and found.replica is not None else 0


def test_the_log_is_cut_and_a_killed_node_restarts_from_its_snapshot(start_group: Start) -> None:
    ledger = start_group(SmallLedger, "cut", settings=SETTINGS, timeout_s=60)
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(300)
        wait_until(lambda: all(cut(ledger, node) for node in (1, 2, 3)), what="a snapshot on every node")
        signal_node(ledger, 2)
        marker.wait_for_more(150)
    for node in (1, 3):
        found = report(ledger, node)
        assert found.replica.first_index > 1
        assert found.replica.counters.snapshots >= 1
    wait_until(lambda: cut(ledger, 2), what="the return of node 2")
    marker.assert_exactly_once()
    assert_equal_states(ledger)


class SlowToSave:
    """To take the state out of it takes minutes where a file says so."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __getstate__(self) -> dict[str, str]:
        if os.path.exists(self.file):
            time.sleep(300)
        return self.__dict__

    @rayraft.command
    def where(self) -> str:
        return self.file


def test_a_node_that_is_killed_while_its_copy_is_at_work_comes_back(start_group: Start, tmp_path: Path) -> None:
    """The copy once kept the connections of its node up, so that nobody saw that it was gone."""
    file = tmp_path / "slow"
    machine = start_group(SlowToSave, "copied", args=(str(file),), timeout_s=60)
    machine.where()
    file.touch()
    asking = threading.Thread(target=ask_for_snapshots, args=(machine,), daemon=True)
    asking.start()
    node = wait_until(lambda: next((node for node in (1, 2, 3) if saves(machine, node)), None), what="a copy")
    killed = signal_node(machine, node)
    file.unlink()
    wait_until(lambda: (found := report(machine, node)) and found.replica and found.pid != killed, what="its return")
    machine.where()


def saves(handle: rayraft.Handle, node: int) -> bool:
    found = report(handle, node)
    return found is not None and found.replica is not None and found.replica.saving


def ask_for_snapshots(handle: rayraft.Handle) -> None:
    with contextlib.suppress(rayraft.RayraftError, ray.exceptions.RayError):
        handle.cluster.take_snapshot()


@pytest.mark.slow
def test_a_node_far_behind_gets_the_snapshot_in_chunks(start_group: Start) -> None:
    store = start_group(rayraft.KeyValue, "behind", settings=SETTINGS, timeout_s=60)
    recorded = Recorded(store)
    leader = store.cluster.leader()
    follower = next(node for node in store.cluster.nodes if node != leader)
    pid = signal_node(store, follower, signal.SIGSTOP)
    try:
        for number in range(300):
            recorded.put(f"key-{number}", os.urandom(10_000))  # 3 MB: several chunks
        wait_until(lambda: report_index(store, leader) > 100, what="the cut of the leader's log")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(
        lambda: (found := report(store, follower)) and found.replica and found.replica.counters.snapshots_installed,
        what="the snapshot's arrival",
    )
    assert_equal_states(store)
    assert store.count() == 300
    for number in range(0, 300, 15):
        assert recorded.get(f"key-{number}") is not None
    recorded.assert_linearizable(at_least=320)


def report_index(handle: rayraft.Handle, node: int) -> int:
    found = report(handle, node)
    return found.replica.first_index if found is not None and found.replica is not None else 0


@pytest.mark.slow
def test_an_operator_can_ask_for_a_snapshot(start_group: Start) -> None:
    ledger = start_group(SmallLedger, "asked", nodes=1)
    bank = Recorded(ledger)
    bank.deposit("ann", 5)
    ledger.cluster.take_snapshot()
    wait_until(lambda: cut(ledger, 1), what="the snapshot")
    signal_node(ledger, 1)
    assert bank.balance_of("ann") == 5
    bank.assert_linearizable(at_least=2)
