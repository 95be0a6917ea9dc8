"""The labs of log compaction: the log stays short, and whoever fell behind it gets a snapshot."""

from __future__ import annotations

import pytest

from tests.labs.cluster import Cluster

INTERVAL = 10  # entries between two snapshots
MAX_LOG_BYTES = 2000  # the labs' limit; here the encoded entries on disk

seeds = pytest.mark.parametrize("seed", range(3))


def compacting(servers: int, seed: int, *, unreliable: bool = False) -> Cluster:
    return Cluster(servers, seed, unreliable=unreliable, snapshot_entries=INTERVAL, snapshot_trailing=0)


def check_size(lab: Cluster) -> None:
    sizes = {id: lab[id].log_bytes for id in lab.ids}
    assert max(sizes.values()) < MAX_LOG_BYTES, f"bytes of log: {sizes}"


def run_snapshots(seed: int, *, disconnect: bool = False, crash: bool = False, unreliable: bool = False) -> None:
    """30 times: one node is cut off or crashes, a snapshot's distance of commands passes, it comes back."""
    lab = compacting(3, seed, unreliable=unreliable)
    away = disconnect or crash
    lab.agree(lab.command(), 3)
    leader = lab.one_leader()
    for step in range(30):
        victim, sender = lab.after(leader, 1), leader
        if step % 3 == 1:
            victim, sender = sender, victim
        if disconnect:
            lab.disconnect(victim)
        if crash:
            lab.crash(victim)
        if away:
            lab.agree(lab.command(), 2)
        for _ in range(lab.rng.randrange(INTERVAL // 2, INTERVAL // 2 + INTERVAL)):
            lab.propose(sender, lab.command())
        lab.agree(lab.command(), 2 if away else 3)
        check_size(lab)
        if crash:
            lab.restart(victim)
        if away:
            lab.connect(victim)
            lab.agree(lab.command(), 3)
            leader = lab.one_leader()
    taken = [replica.counters.snapshots for id in lab.ids if (replica := lab[id].replica) is not None]
    assert sum(taken) > 0, "no snapshot was taken"
    if disconnect:
        installed = [r.counters.snapshots_installed for id in lab.ids if (r := lab[id].replica) is not None]
        assert sum(installed) > 0, "no snapshot was installed"
    lab.check()


@seeds
def test_snapshot_basic(seed: int) -> None:
    run_snapshots(seed)


@seeds
def test_snapshot_install(seed: int) -> None:
    run_snapshots(seed, disconnect=True)


@seeds
def test_snapshot_install_unreliable(seed: int) -> None:
    run_snapshots(seed, disconnect=True, unreliable=True)


@seeds
def test_snapshot_install_crash(seed: int) -> None:
    run_snapshots(seed, crash=True)


@seeds
def test_snapshot_install_unreliable_crash(seed: int) -> None:
    run_snapshots(seed, crash=True, unreliable=True)


@seeds
def test_snapshot_all_crash(seed: int) -> None:
    """All crash at once, again and again; the indexes go on from where they were."""
    lab = compacting(5, seed)
    lab.agree(lab.command(), 5)
    for _ in range(5):
        for _ in range(lab.rng.randrange(INTERVAL // 2, INTERVAL // 2 + INTERVAL)):
            lab.agree(lab.command(), 5)
        before = lab.agree(lab.command(), 5)
        lab.restart(*lab.ids)
        after = lab.agree(lab.command(), 5)
        assert after >= before + 1, f"index {after} after {before}"


@seeds
def test_snapshot_init(seed: int) -> None:
    """A snapshot survives a second restart, with only one entry written in between."""
    lab = compacting(5, seed)
    lab.agree(lab.command(), 5)
    for _ in range(INTERVAL + 1):
        lab.agree(lab.command(), 5)
    held = {id: lab[id].log.snapshot() for id in lab.ids}
    assert all(snapshot.index for snapshot in held.values())
    lab.restart(*lab.ids)
    lab.agree(lab.command(), 5)
    lab.restart(*lab.ids)
    assert all(lab[id].log.snapshot().index >= held[id].index for id in lab.ids)
    lab.agree(lab.command(), 5)
    assert all(lab[id].machine.applied == len(lab.ledger.entries) for id in lab.ids)
