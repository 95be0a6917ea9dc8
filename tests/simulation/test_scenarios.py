"""Single moments that the simulator's checks name, but chance reaches seldom: each was a bug once."""

from __future__ import annotations

import random

import pytest

from rayraft.machine.objects import ObjectMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.raft.ready import RaftConfig
from rayraft.raft.types import (
    AnyMessage,
    AppendEntries,
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
    )
    replica.receive(InstallSnapshot(1, 1, 2, meta, 0, len(content), content))
    replica.receive(AppendEntries(1, 1, 2, 10, 1, 11, (Entry(11, 1, EntryKind.NOOP),)))
    with pytest.raises(Crash):
        replica.turn(0.0)
    store.crash()
    store.check()  # RocksDB refuses to open what fails this
    assert store.hard_state() == HardState(1, 0, 10)
