"""Queries of every consistency on real nodes, and what they say when they can not be answered."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator

import pytest

import rayraft
from tests.ray.recorded import Recorded
from tests.ray.support import Ledger, report, signal_node, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]


@pytest.fixture(scope="module")
def settings() -> rayraft.Settings:
    return rayraft.Settings(max_clock_drift=0.1)


@pytest.fixture
def ledger(start_group: Start, settings: rayraft.Settings) -> Iterator[rayraft.Handle]:
    handle = start_group(Ledger, "readers", settings=settings, timeout_s=60)
    yield handle
    handle.close()


def reads_of(handle: rayraft.Handle) -> dict[int, int]:
    return {
        node: found.replica.counters.reads for node in (1, 2, 3) if (found := report(handle, node)) and found.replica
    }


def test_every_kind_of_read_sees_what_was_acknowledged_before_it(
    ledger: rayraft.Handle,
) -> None:
    bank = Recorded(ledger)
    readers = [bank, *(bank.options(read=kind) for kind in ("lease", "follower"))]
    for amount in range(1, 11):
        total = bank.deposit("ann", 1)
        assert total == amount
        assert [reader.balance_of("ann") for reader in readers] == [amount] * 3
    bank.assert_linearizable(at_least=40)
    stale = ledger.options(max_staleness_s=30)
    wait_until(lambda: stale.balance_of("ann") == 10, what="the last deposit at every node that was asked")

    copy = pickle.loads(pickle.dumps(ledger.options(read="follower", timeout_s=7)))
    assert copy.balance_of("ann") == 10
    assert copy._reads == ledger.options(read="follower")._reads
    copy.close()
    followers_answer_and_the_leader_is_spared(ledger)


def followers_answer_and_the_leader_is_spared(ledger: rayraft.Handle) -> None:
    leader = ledger.cluster.leader()
    before = reads_of(ledger)
    followers = ledger.options(read="follower")
    for _ in range(30):
        followers.balance_of("ann")
    gained = {node: count - before[node] for node, count in reads_of(ledger).items()}
    assert sum(gained.values()) >= 30
    assert sum(count for node, count in gained.items() if node != leader) >= 10  # one that just failed is spared


def test_a_read_goes_on_while_a_leader_is_paused(ledger: rayraft.Handle) -> None:
    bank = Recorded(ledger)
    bank.deposit("ann", 5)
    leader = ledger.cluster.leader()
    pid = signal_node(ledger, leader, signal.SIGSTOP)
    try:
        for kind in ("linearizable", "lease", "follower"):
            assert bank.options(read=kind).balance_of("ann") == 5
        bank.deposit("ann", 1)
        assert bank.options(read="follower").balance_of("ann") == 6
    finally:
        os.kill(pid, signal.SIGCONT)
    bank.assert_linearizable(at_least=6)


@pytest.mark.slow
def test_without_a_majority_only_an_old_enough_state_is_served(ledger: rayraft.Handle) -> None:
    bank = Recorded(ledger)
    bank.deposit("ann", 5)
    leader = ledger.cluster.leader()
    stopped = [signal_node(ledger, node, signal.SIGSTOP) for node in (1, 2, 3) if node != leader]
    try:
        wait_until(lambda: not (found := report(ledger, leader)) or not found.replica or not found.replica.serves)
        with pytest.raises(rayraft.TooStale):
            ledger.options(max_staleness_s=0.001).balance_of("ann")
        with pytest.raises(rayraft.CommandTimeout):
            bank.options(timeout_s=1.0).balance_of("ann")
        assert ledger.options(max_staleness_s=600, timeout_s=60).balance_of("ann") == 5
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert bank.deposit("ann", 1) == bank.balance_of("ann") == 6
    bank.assert_linearizable(at_least=3)
