"""Storage without a disk: for tests, and the disk of the simulator, where a crash loses what was not synced."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import BinaryIO, TypeAlias

from rayraft.raft.types import Configuration, Entry, EntryKind, HardState, SnapshotMeta
from rayraft.storage.rules import check_bounds, check_compact, check_install
from rayraft.storage.snapshot_format import HEADER_BYTES, verify_snapshot, write_snapshot

_Undo: TypeAlias = tuple[int, list[Entry], HardState]
_Name: TypeAlias = tuple[int, int]


class MemoryLogStore:
    """A log in a list. The object is the disk: it outlives `close` and `crash`, and the next owner finds it as it is.

    Invariants, in addition to those of `rayraft.storage.protocol`:

    1. ``_entries[i].index == _first + i``, with terms that do not fall and none below ``_base_term``.
    2. Undoing ``_undo`` from its end gives the synced image; each item is one unsynced `write`.
    3. ``commit`` is at most the last index, and no entry has a term above the hard state's. `write` does not insist,
       so that a test may build any log; the simulator calls `check`.
    """

    def __init__(self, initial: Configuration = Configuration()) -> None:  # noqa: B008 (immutable)
        self._snapshot = SnapshotMeta(configuration=initial)
        self._hard_state = HardState()
        self._first = 1
        self._base_term = 0
        self._entries: list[Entry] = []
        self._undo: list[_Undo] = []

    def hard_state(self) -> HardState:
        return self._hard_state

    def snapshot(self) -> SnapshotMeta:
        return self._snapshot

    def first_index(self) -> int:
        return self._first

    def last_index(self) -> int:
        return self._first + len(self._entries) - 1

    def term(self, index: int) -> int:
        offset = index - self._first
        if offset == -1:
            return self._base_term
        if not 0 <= offset < len(self._entries):
            raise KeyError(index)
        return self._entries[offset].term

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        if low >= high:
            return []
        start, stop = low - self._first, high - self._first
        if start < 0 or stop > len(self._entries):
            raise KeyError(low if start < 0 else high - 1)
        found = self._entries[start:stop]
        total = 0
        for count, entry in enumerate(found):
            total += entry.size
            if total > max_bytes and count:
                return found[:count]
        return found

    def configuration_indexes(self) -> list[int]:
        covered, wanted = self._snapshot.index, EntryKind.CONFIGURATION
        return [e.index for e in self._entries if e.kind is wanted and e.index > covered]

    def write(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """As the protocol says. Raises ValueError when the entries do not continue the log."""
        offset = len(self._entries)
        if entries:
            index = entries[0].index
            offset = index - self._first
            if offset > len(self._entries) or index <= self._snapshot.index:
                raise ValueError(
                    f"entry {index} does not continue the log after {self._snapshot.index}..{self.last_index()}"
                )
            for entry in entries:
                if entry.index != index:
                    raise ValueError(f"entry {entry.index} where {index} was expected")
                index += 1
        self._undo.append((offset, self._entries[offset:], self._hard_state))
        if entries:
            self._entries[offset:] = entries
        if hard_state is not None:
            self._hard_state = hard_state

    def sync(self) -> None:
        self._undo.clear()

    def compact(self, snapshot: SnapshotMeta, first_index: int) -> None:
        """As the protocol says. Raises ValueError when that would leave a gap or step back."""
        check_compact(self, snapshot, first_index)
        self.sync()
        self._snapshot = snapshot
        if first_index > self._first:
            self._base_term = self.term(first_index - 1)
            del self._entries[: first_index - self._first]
            self._first = first_index

    def install(self, snapshot: SnapshotMeta, hard_state: HardState) -> None:
        """As the protocol says. Raises ValueError for a snapshot older than the one recorded."""
        check_install(self, snapshot)
        self.sync()
        self._snapshot = snapshot
        self._hard_state = hard_state
        self._first = snapshot.index + 1
        self._base_term = snapshot.term
        self._entries = []

    def close(self) -> None:
        """Nothing to release; what was written stays, synced or not, as after the end of a process."""

    # --- the simulated disk -------------------------------------------------------------------------------------------

    @property
    def unsynced(self) -> int:
        """How many writes a crash may lose."""
        return len(self._undo)

    def crash(self, keep: int = 0) -> None:
        """Lose power: of the unsynced writes only the first ``keep`` reached the disk."""
        while len(self._undo) > keep:
            offset, replaced, self._hard_state = self._undo.pop()
            self._entries[offset:] = replaced
        self._undo.clear()

    def check(self) -> None:
        """Raise AssertionError unless the invariants hold."""
        term = self._base_term
        for index, entry in enumerate(self._entries, self._first):
            assert entry.index == index, f"entry {entry.index} at the place of {index} (1)"
            assert entry.term >= term, f"term falls from {term} to {entry.term} at {index} (1)"
            term = entry.term
        assert all(offset >= 0 for offset, _, _ in self._undo), "an undo before the log begins (2)"
        check_bounds(self, term)


class MemorySnapshotStore:
    """Snapshots in a dict, in the same form as in a file, so that damage is found in the same way."""

    def __init__(self) -> None:
        self._saved: dict[_Name, bytes] = {}
        self._parts: dict[_Name, bytearray] = {}

    def save(self, meta: SnapshotMeta, write: Callable[[BinaryIO], None]) -> int:
        file = io.BytesIO()
        write_snapshot(file, meta, write)
        self._saved[_name(meta)] = raw = file.getvalue()
        return len(raw)

    def size(self, meta: SnapshotMeta) -> int:
        return len(self._saved[_name(meta)])

    def read(self, meta: SnapshotMeta, offset: int, length: int) -> bytes:
        return self._saved[_name(meta)][offset : offset + length]

    def load(self, meta: SnapshotMeta) -> BinaryIO:
        file = io.BytesIO(self._saved[_name(meta)])
        verify_snapshot(file, meta, f"in memory, {_name(meta)}")
        file.seek(HEADER_BYTES)
        return file

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes, total: int = 0) -> int:
        name = _name(meta)
        if name in self._saved:
            return len(self._saved[name])
        if name not in self._parts:
            if offset:
                return 0
            self._parts = {name: bytearray()}
        part = self._parts[name]
        if offset == len(part):
            part += data
        return len(part)

    def finish(self, meta: SnapshotMeta) -> None:
        name = _name(meta)
        if name in self._saved:
            return
        raw = bytes(self._parts.pop(name))
        verify_snapshot(io.BytesIO(raw), meta, f"in memory, {name}")
        self._saved[name] = raw

    def discard_except(self, keep: SnapshotMeta) -> None:
        self._saved = {name: raw for name, raw in self._saved.items() if name == _name(keep)}
        self._parts = {name: part for name, part in self._parts.items() if name > _name(keep)}

    def crash(self) -> None:
        """Lose power: what was half received is gone."""
        self._parts.clear()


def _name(meta: SnapshotMeta) -> _Name:
    return meta.index, meta.term
