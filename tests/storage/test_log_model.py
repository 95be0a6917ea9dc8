"""Both log stores against a plain list, through every operation, crash and reopening."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rayraft.raft.types import Entry, HardState, SnapshotMeta
from rayraft.storage.memory import MemoryLogStore
from rayraft.storage.protocol import LogStore
from rayraft.storage.rocks import RocksLogStore
from tests.storage.helpers import ALL, THREE, entry, wal


class Model:
    """The log as a list of all entries from index 1, of which the first ones may be dropped."""

    def __init__(self) -> None:
        self.all: list[Entry] = []  # after an install, with stand-ins for what the snapshot covers
        self.first = 1
        self.hard_state = HardState()
        self.snapshot = SnapshotMeta(configuration=THREE)

    @property
    def last(self) -> int:
        return len(self.all)

    @property
    def term(self) -> int:
        return self.all[-1].term if self.all else 0

    def copy(self) -> Model:
        other = Model()
        other.__dict__.update(self.__dict__, all=list(self.all))
        return other


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.images = [self.model.copy()]  # the synced one, then one after each unsynced write
        self.store: LogStore = self.open()

    def open(self) -> LogStore:
        raise NotImplementedError

    def lose_power(self, keep: int, torn: int) -> None:
        """Of the unsynced writes only the first ``keep`` reached the disk, and perhaps a piece of the next one."""
        raise NotImplementedError

    @rule(
        back=st.integers(0, 6),
        count=st.integers(0, 8),
        more_term=st.integers(0, 2),
        vote=st.one_of(st.none(), st.integers(0, 3)),
        size=st.sampled_from([0, 10, 3000]),
    )
    def write(self, back: int, count: int, more_term: int, vote: int | None, size: int) -> None:
        m = self.model
        low = max(m.snapshot.index + 1, m.hard_state.commit + 1, m.last + 1 - back)
        term = max(m.hard_state.term, 1) + more_term
        entries = [entry(low + i, term, bytes(size)) for i in range(count)]
        kept = m.all[: low - 1] + entries if entries else m.all
        state = HardState(term, vote or 0, m.hard_state.commit + (len(kept) - m.hard_state.commit) // 2)
        hard_state = state if vote is not None or entries else None
        self.store.write(hard_state, entries)
        m.all = kept
        m.hard_state = hard_state or m.hard_state
        self.written()

    def written(self) -> None:
        """Called after each write that is not durable yet."""
        self.images.append(self.model.copy())

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self.durable()

    def durable(self) -> None:
        """Called when all that was written is durable."""
        self.images = [self.model.copy()]

    @rule(data=st.data(), torn=st.integers(0, 200))
    def crash(self, data: st.DataObject, torn: int) -> None:
        keep = data.draw(st.integers(0, len(self.images) - 1), label="keep")
        self.lose_power(keep, torn)
        self.model = self.images[keep].copy()
        self.durable()

    @precondition(lambda self: self.model.last > self.model.snapshot.index)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        m = self.model
        index = data.draw(st.integers(m.snapshot.index + 1, m.last), label="snapshot")
        first = data.draw(st.integers(1, index + 1), label="first")
        m.snapshot = SnapshotMeta(index, m.all[index - 1].term, THREE)
        self.store.compact(m.snapshot, first)
        m.first = max(m.first, first)
        self.durable()

    @rule(ahead=st.integers(0, 5))
    def install(self, ahead: int) -> None:
        m = self.model
        index = max(m.snapshot.index, m.last // 2) + ahead
        if index == 0:
            return
        m.snapshot = SnapshotMeta(index, max(m.term, 1), THREE)
        m.hard_state = HardState(max(m.hard_state.term, m.snapshot.term), 0, index)
        self.store.install(m.snapshot, m.hard_state)
        m.all = [entry(i, m.snapshot.term, b"") for i in range(1, index + 1)]
        m.first = index + 1
        self.durable()

    @rule()
    def refuses_a_gap_and_what_a_snapshot_covers(self) -> None:
        for index in (self.model.last + 2, self.model.snapshot.index):
            with pytest.raises(ValueError, match="does not continue"):
                self.store.write(None, [entry(index, self.model.hard_state.term)])

    @rule(low=st.integers(0, 40), count=st.integers(1, 20), limit=st.sampled_from([0, 100, 5000, ALL]))
    def read(self, low: int, count: int, limit: int) -> None:
        m, high = self.model, low + count
        if low < m.first or high - 1 > m.last:
            with pytest.raises(KeyError):
                self.store.entries(low, high, limit)
            return
        found = self.store.entries(low, high, limit)
        assert found == m.all[low - 1 : low - 1 + len(found)]
        assert found, "cut to none"
        assert len(found) == 1 or sum(e.size for e in found) <= limit
        cut_at = m.all[low - 1 + len(found)] if len(found) < count else None
        assert cut_at is None or sum(e.size for e in found) + cut_at.size > limit

    @invariant()
    def agrees(self) -> None:
        m, s = self.model, self.store
        assert (s.first_index(), s.last_index()) == (m.first, m.last)
        assert s.hard_state() == m.hard_state
        assert s.snapshot() == m.snapshot
        for index in {m.first - 1, m.first, m.last} & set(range(m.first - 1, m.last + 1)):
            assert s.term(index) == (m.all[index - 1].term if index else 0)
        for index in (m.first - 2, m.last + 1):
            with pytest.raises(KeyError):
                s.term(index)
        assert s.entries(m.first, m.first, ALL) == []
        s.check()  # type: ignore[attr-defined]


class MemoryMachine(LogMachine):
    def open(self) -> MemoryLogStore:
        return MemoryLogStore(THREE)

    @invariant()
    def knows_what_is_unsynced(self) -> None:
        assert isinstance(self.store, MemoryLogStore)
        assert self.store.unsynced == len(self.images) - 1

    def lose_power(self, keep: int, torn: int) -> None:
        assert isinstance(self.store, MemoryLogStore)
        self.store.crash(keep)


class WatchedDatabase:
    """RocksDB, and how much of its write-ahead log was truly synced."""

    def __init__(self, db: Any, size: Callable[[], int]) -> None:
        self._db = db
        self._size = size
        self.synced = size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def flush_wal(self, sync: bool) -> None:
        self._db.flush_wal(sync)
        if sync:
            self.synced = self._size()


class RocksMachine(LogMachine):
    """A power loss is a copy of the directory in which the write-ahead log ends after what was synced, or later."""

    def open(self) -> RocksLogStore:
        self.directory = Path(tempfile.mkdtemp())
        self.lives = 0
        return self.reopened(create=True)

    @property
    def path(self) -> Path:
        return self.directory / str(self.lives)

    def reopened(self, *, create: bool = False) -> RocksLogStore:
        store = RocksLogStore(self.path, THREE, create=create)
        self.database = WatchedDatabase(store._db, self.wal_size)
        vars(store)["_db"] = self.database
        self.sizes = [self.wal_size()]  # of the write-ahead log, with each of the images
        return store

    def wal_size(self) -> int:
        return wal(self.path).stat().st_size

    def written(self) -> None:
        super().written()
        self.sizes.append(self.wal_size())

    def durable(self) -> None:
        super().durable()
        self.sizes = [self.wal_size()]

    def lose_power(self, keep: int, torn: int) -> None:
        old, log = self.path, wal(self.path)
        size = self.database.synced if keep == 0 else self.sizes[keep]
        if keep + 1 < len(self.sizes):
            size = min(size + torn, max(size, self.sizes[keep + 1] - 1))
        self.lives += 1
        shutil.copytree(old, self.path)
        self.store.close()
        shutil.rmtree(old)
        os.truncate(self.path / "rocksdb" / log.name, size)
        self.store = self.reopened()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.reopened()
        self.durable()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)


TestMemoryLog = MemoryMachine.TestCase
TestMemoryLog.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestRocksLog = RocksMachine.TestCase
TestRocksLog.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
