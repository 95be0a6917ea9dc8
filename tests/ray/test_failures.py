"""What is killed, paused or stopped: nothing acknowledged is lost, nothing is applied twice, replicas agree."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rayraft
from rayraft.history import Kind, Recording, Verdict, check
from rayraft.history.models import KeyValueEntry
from tests.ray.recorded import Recorded
from tests.ray.support import Ledger, Marker, assert_equal_states, report, running_nodes, signal_node, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]


@pytest.fixture
def ledger(start_group: Start) -> Iterator[rayraft.Handle]:
    handle = start_group(Ledger, "ledger", timeout_s=60)
    yield handle
    handle.close()


def test_leader_killed_under_load(ledger: rayraft.Handle) -> None:
    with Marker(ledger, "a") as one, Marker(ledger, "b", one.recording) as two:
        for _ in range(2):
            one.wait_for_more(30)
            leader = ledger.cluster.leader()
            killed = signal_node(ledger, leader)
            two.wait_for_more(30)
            wait_until(
                lambda node=leader, pid=killed: (found := report(ledger, node)) and found.replica and found.pid != pid,
                what="the killed node's return",
            )
    one.assert_exactly_once()
    two.assert_exactly_once()
    assert_equal_states(ledger)


@pytest.mark.slow
def test_minority_killed_and_back(ledger: rayraft.Handle) -> None:
    leader = ledger.cluster.leader()
    follower = next(node for node in ledger.cluster.nodes if node != leader)
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(20)
        signal_node(ledger, follower)
        marker.wait_for_more(200)
    wait_until(lambda: len(running_nodes(ledger)) == 3, what="the return of the follower")
    marker.assert_exactly_once()
    assert_equal_states(ledger)


def test_majority_killed_and_back(ledger: rayraft.Handle) -> None:
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(20)
        for node in ledger.cluster.nodes[:2]:
            signal_node(ledger, node)
        marker.wait_for_more(50)
    marker.assert_exactly_once()
    assert_equal_states(ledger)


def test_every_process_killed_at_once(ledger: rayraft.Handle) -> None:
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(20)
        for node in ledger.cluster.nodes:
            signal_node(ledger, node)
        marker.wait_for_more(50)
    marker.assert_exactly_once()
    assert_equal_states(ledger)
    reports = [report(ledger, node) for node in ledger.cluster.nodes]
    assert all(found is not None and found.recovery is not None and found.recovery > 0 for found in reports)


def test_a_paused_leader_is_replaced_and_rolls_back(ledger: rayraft.Handle) -> None:
    leader = ledger.cluster.leader()
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(20)
        pid = signal_node(ledger, leader, signal.SIGSTOP)
        try:
            marker.wait_for_more(50)
        finally:
            signal_node_back(pid)
        marker.wait_for_more(20)
    wait_until(
        lambda: (found := report(ledger, leader)) and found.replica and found.replica.leader not in (0, leader),
        what="the old leader to follow",
    )
    marker.assert_exactly_once()
    assert_equal_states(ledger)


def signal_node_back(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGCONT)


def test_without_a_majority_calls_end_with_a_named_error(ledger: rayraft.Handle) -> None:
    bank = Recorded(ledger)
    bank.deposit("ann", 1)
    pids = [signal_node(ledger, node, signal.SIGSTOP) for node in ledger.cluster.nodes[:2]]
    try:
        with pytest.raises(rayraft.CommandTimeout) as caught:
            bank.options(timeout_s=3).deposit("ann", 1)
        assert not caught.value.outcome_known
        with pytest.raises(rayraft.CommandTimeout):
            bank.options(timeout_s=1).balance_of("ann")
    finally:
        for pid in pids:
            signal_node_back(pid)
    assert bank.deposit("ann", 1) in (2, 3)
    assert bank.balance_of("ann") in (2, 3)
    bank.assert_linearizable(at_least=3)
    assert_equal_states(ledger)


FIRST = """
    import ray, rayraft, logging
    from tests.ray.support import Ledger
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ledger = rayraft.start(Ledger, name="phoenix", data_dir={directory!r}, allow_colocated=True)
    for number in range(50):
        print(ledger.mark(f"token-{{number}}"), flush=True)
"""
SECOND = """
    import ray, rayraft, logging
    from tests.ray.support import Ledger
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ledger = rayraft.start(Ledger, name="phoenix", data_dir={directory!r}, allow_colocated=True)
    print(len(ledger.seen()), set(ledger.seen().values()))
    ledger.cluster.shutdown()
"""


@pytest.mark.slow
def test_the_whole_ray_cluster_gone_and_started_again(tmp_path: Path) -> None:
    """The first driver ends without a shutdown, which ends its Ray cluster; a new one finds everything on disk."""

    def run(script: str) -> str:
        code = textwrap.dedent(script).format(directory=str(tmp_path / "data"))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False, cwd=Path.cwd()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    answers = [int(line) for line in run(FIRST).split()]
    count, times = run(SECOND).split()
    assert times == "{1}"
    calls = [*((Kind.INCREMENT, 1, answer) for answer in answers), (Kind.READ, None, int(count))]
    recording = Recording()
    for kind, given, answer in calls:
        recording.end(recording.begin("driver", kind, "tokens", given), answer)
    assert len(answers) == 50
    assert check(recording.history(), KeyValueEntry()).verdict is Verdict.LINEARIZABLE
