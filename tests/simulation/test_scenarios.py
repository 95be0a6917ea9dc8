"""Single moments that the simulator's checks name, but chance reaches seldom: each was a bug once."""

from __future__ import annotations

import random

import pytest

from rayraft.machine.objects import ObjectMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import NEW_SESSION, encode_request
from rayraft.raft.ready import RaftConfig
from rayraft.raft.types import (
    AnyMessage,
    AppendEntries,
    AppendResponse,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshot,
    SnapshotMeta,
)
from rayraft.replica import Replica, ReplicaConfig
from rayraft.replica.snapshotter import InlineSnapshotter
from rayraft.simulation.effects import Crash
from rayraft.simulation.model import Notebook
from rayraft.storage.memory import MemoryLogStore, MemorySnapshotStore
from tests.harness import Group

GROUP = Configuration((1, 2, 3))


class DiesAfterInstall(MemoryLogStore):
    def install(self, snapshot: SnapshotMeta, hard_state: HardState) -> None:
        super().install(snapshot, hard_state)
        raise Crash


class Silent:
    def send(self, messages: list[AnyMessage]) -> None:
        pass


def test_a_crash_after_an_install_leaves_a_disk_that_opens() -> None:
    """A snapshot and a committed entry behind it come in one turn; the process ends between the two writes."""
    meta = SnapshotMeta(10, 1, GROUP)
    machine, snapshots = ReplicatedMachine(ObjectMachine(Notebook)), MemorySnapshotStore()
    snapshots.save(meta, machine.save)
    content = snapshots.read(meta, 0, 1 << 20)

    store, own = DiesAfterInstall(GROUP), MemorySnapshotStore()
    replica = Replica(
        ReplicaConfig(RaftConfig(2)),
        store,
        own,
        InlineSnapshotter(own),
        ReplicatedMachine(ObjectMachine(Notebook)),
        Silent(),
        rng=random.Random(1),
        now=0.0,
        wall_clock=lambda: 0.0,
        clock=lambda: 0.0,
    )
    replica.receive(InstallSnapshot(1, 1, 2, meta, 0, len(content), content))
    replica.receive(AppendEntries(1, 1, 2, 10, 1, 11, (Entry(11, 1, EntryKind.NOOP),)))
    with pytest.raises(Crash):
        replica.turn(0.0)
    store.crash()
    store.check()  # RocksDB refuses to open what fails this
    assert store.hard_state() == HardState(1, 0, 10)


class DiesBeforeCompact(MemoryLogStore):
    """From the second time on, the process ends before the log is cut."""

    cuts = 0

    def compact(self, snapshot: SnapshotMeta, first_index: int) -> None:
        self.cuts += 1
        if self.cuts > 1:
            raise Crash
        super().compact(snapshot, first_index)


def alone(store: MemoryLogStore, snapshots: MemorySnapshotStore, now: float) -> Replica:
    """A group of one, with a snapshot every ten entries."""
    return Replica(
        ReplicaConfig(RaftConfig(1), snapshot_entries=10, snapshot_trailing=0),
        store,
        snapshots,
        InlineSnapshotter(snapshots),
        ReplicatedMachine(ObjectMachine(Notebook)),
        Silent(),
        rng=random.Random(1),
        now=now,
        wall_clock=lambda: 0.0,
        clock=lambda: now,
    )


def open_sessions(replica: Replica, count: int) -> None:
    for number in range(count):
        replica.submit(encode_request(NEW_SESSION, number, 0, []), lambda answer: None)
        replica.turn(5.0 + number)


def test_a_crash_before_a_snapshot_is_recorded_leaves_the_one_before_it() -> None:
    """The new snapshot is durable, the log does not begin with it yet: a restart needs the old one."""
    store, snapshots = DiesBeforeCompact(Configuration((1,))), MemorySnapshotStore()
    replica = alone(store, snapshots, 0.0)
    with pytest.raises(Crash):
        open_sessions(replica, 60)
    first = store.snapshot()
    assert first.index >= 10
    store.crash()
    snapshots.crash()
    assert snapshots.size(first), "it is there"
    again = alone(store, snapshots, 100.0)
    assert again.raft.log.applied == first.index
    again.turn(102.0)
    assert again.machine.digest() == replica.machine.digest()


def test_an_answer_of_an_older_term_does_not_count() -> None:
    """Node 1 leads again; what node 2 acknowledged to it two terms ago is long replaced.

    Chance needs a leader that leads twice, and an answer that lives as long: no few hundred seeds have shown it.
    """
    group = Group(3)
    group.elect(1)
    group.settle()
    group.elect(2)
    group.settle()
    group.elect(1)
    group.settle()
    leader = group[1]
    committed = leader.log.commit
    group.isolate(1)
    group.propose(b"seen by nobody else", at=1)
    leader.step(AppendResponse(leader.term - 2, 2, 1, True, leader.log.last_index()))
    assert leader.log.last_index() > leader.log.commit == committed
