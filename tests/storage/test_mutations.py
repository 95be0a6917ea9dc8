"""Mistakes planted in the stores: each fails the machine that compares the store with a plain model."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, BinaryIO

import pytest
from hypothesis.stateful import RuleBasedStateMachine

from rayraft.errors import DamagedLog, DamagedSnapshot
from rayraft.raft.types import Entry, HardState, SnapshotMeta
from rayraft.storage import memory, rocks, snapshots
from rayraft.storage.memory import MemoryLogStore, MemorySnapshotStore
from rayraft.storage.rocks import RocksLogStore
from rayraft.storage.snapshots import FileSnapshotStore
from tests.stateful import run_machine
from tests.storage.test_log_model import MemoryMachine, RocksMachine
from tests.storage.test_snapshot_model import FileSnapshots, MemorySnapshots

Plant = Callable[[pytest.MonkeyPatch], None]
# How a machine shows it: its own checks, or the store refuses what it has made itself.
DIFFERENCE = (AssertionError, pytest.fail.Exception, KeyError, ValueError, DamagedLog, DamagedSnapshot)


run = partial(run_machine, examples=600, steps=30)


# --- the log ----------------------------------------------------------------------------------------------------------


def a_crash_keeps_the_hard_state(patch: pytest.MonkeyPatch) -> None:
    """Of an unsynced write the entries are lost, the vote is not: a disk that promises too much."""
    crash = MemoryLogStore.crash

    def mutant(self: MemoryLogStore, keep: int = 0) -> None:
        written = self._hard_state
        crash(self, keep)
        self._hard_state = written

    patch.setattr(MemoryLogStore, "crash", mutant)


def a_write_only_appends(patch: pytest.MonkeyPatch) -> None:
    """What follows the entries that were replaced stays."""
    write = MemoryLogStore.write

    def mutant(self: MemoryLogStore, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        rest = self._entries[entries[-1].index + 1 - self._first :] if entries else []
        write(self, hard_state, entries)
        self._entries += rest

    patch.setattr(MemoryLogStore, "write", mutant)


def compaction_forgets_the_term_before(patch: pytest.MonkeyPatch) -> None:
    """The consistency check of the first entry after a snapshot would meet a wrong term."""
    compact = MemoryLogStore.compact

    def mutant(self: MemoryLogStore, snapshot: SnapshotMeta, first_index: int) -> None:
        compact(self, snapshot, first_index)
        self._base_term = 0

    patch.setattr(MemoryLogStore, "compact", mutant)


def a_sync_that_does_not_reach_the_disk(patch: pytest.MonkeyPatch) -> None:
    """The write-ahead log is handed to the system, and no more."""
    sync = RocksLogStore.sync

    def mutant(self: RocksLogStore) -> None:
        self._fsync = False
        sync(self)

    patch.setattr(RocksLogStore, "sync", mutant)


def replaced_entries_stay_on_disk(patch: pytest.MonkeyPatch) -> None:
    """A conflict cuts the log in memory, but the records of its old end are not deleted."""
    true_batch = rocks.WriteBatch

    class Batch:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            batch = true_batch(*args, **kwargs)
            return Keeping(batch)

    class Keeping:
        def __init__(self, batch: Any) -> None:
            self.batch = batch

        def __getattr__(self, name: str) -> Any:
            return getattr(self.batch, name)

        def __len__(self) -> int:
            return len(self.batch)

        def delete_range(self, low: bytes, high: bytes) -> None: ...

    put = RocksLogStore._put
    patch.setattr(rocks, "WriteBatch", Batch)
    patch.setattr(RocksLogStore, "_put", lambda self, batch, low, last: put(self, batch.batch, low, last))


def a_hard_state_that_is_only_remembered(patch: pytest.MonkeyPatch) -> None:
    """The vote is kept in the object, not in the batch."""
    write = RocksLogStore.write

    def mutant(self: RocksLogStore, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        if hard_state is None or entries:
            write(self, hard_state, entries)
        else:
            self._hard_state = hard_state

    patch.setattr(RocksLogStore, "write", mutant)


LOG: list[tuple[Plant, type[RuleBasedStateMachine]]] = [
    (a_crash_keeps_the_hard_state, MemoryMachine),
    (a_write_only_appends, MemoryMachine),
    (compaction_forgets_the_term_before, MemoryMachine),
    (a_sync_that_does_not_reach_the_disk, RocksMachine),
    (replaced_entries_stay_on_disk, RocksMachine),
    (a_hard_state_that_is_only_remembered, RocksMachine),
]


# --- snapshots --------------------------------------------------------------------------------------------------------


def chunks_anywhere(patch: pytest.MonkeyPatch) -> None:
    """A late or early chunk is appended as if it were the next one."""
    receive = MemorySnapshotStore.receive

    def mutant(self: MemorySnapshotStore, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        return receive(self, meta, len(self._parts.get((meta.index, meta.term), b"")), data)

    patch.setattr(MemorySnapshotStore, "receive", mutant)


def nothing_is_verified(patch: pytest.MonkeyPatch) -> None:
    """A damaged snapshot is taken for a whole one."""
    for module in (memory, snapshots):
        patch.setattr(module, "verify_snapshot", lambda file, meta, name: None)


def halves_survive_the_owner(patch: pytest.MonkeyPatch) -> None:
    """What was half received is still there after a crash, under a source that may send something else."""
    patch.setattr(MemorySnapshotStore, "crash", lambda self: None)


def a_failed_save_under_the_final_name(patch: pytest.MonkeyPatch) -> None:
    """The file has its name before it is whole."""

    def mutant(self: FileSnapshotStore, meta: SnapshotMeta, write: Callable[[BinaryIO], None]) -> int:
        with open(self._path(meta), "wb") as file:
            return snapshots.write_snapshot(file, meta, write)

    patch.setattr(FileSnapshotStore, "save", mutant)


def discarding_keeps_halves(patch: pytest.MonkeyPatch) -> None:
    """Only whole snapshots are deleted."""

    def mutant(self: FileSnapshotStore, keep: SnapshotMeta) -> None:
        for path in self._directory.iterdir():
            if path.suffix == ".snapshot" and path != self._path(keep):
                path.unlink()

    patch.setattr(FileSnapshotStore, "discard_except", mutant)


def load_from_the_header(patch: pytest.MonkeyPatch) -> None:
    """The content is handed out with its header in front."""
    load = MemorySnapshotStore.load

    def mutant(self: MemorySnapshotStore, meta: SnapshotMeta) -> BinaryIO:
        load(self, meta)
        return io.BytesIO(self._saved[meta.index, meta.term])

    patch.setattr(MemorySnapshotStore, "load", mutant)


SNAPSHOTS: list[tuple[Plant, type[RuleBasedStateMachine]]] = [
    (chunks_anywhere, MemorySnapshots),
    (nothing_is_verified, MemorySnapshots),
    (nothing_is_verified, FileSnapshots),
    (halves_survive_the_owner, MemorySnapshots),
    (load_from_the_header, MemorySnapshots),
    (a_failed_save_under_the_final_name, FileSnapshots),
    (discarding_keeps_halves, FileSnapshots),
]

ALL = LOG + SNAPSHOTS


@pytest.mark.parametrize(
    ("plant", "machine"), ALL, ids=[f"{plant.__name__}-{machine.__name__}" for plant, machine in ALL]
)
def test_the_model_finds(plant: Plant, machine: type[RuleBasedStateMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(DIFFERENCE):
        run(machine)
