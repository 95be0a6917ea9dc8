"""The log as the algorithm sees it: a stored prefix that is read on demand and a bounded tail in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rayraft.raft.configurations import Configurations
from rayraft.raft.types import Entry, EntryKind, HardState, SnapshotMeta


class LogReader(Protocol):
    """The reading half of a log store (see `rayraft.storage.protocol.LogStore` for the contract)."""

    def hard_state(self) -> HardState: ...
    def snapshot(self) -> SnapshotMeta: ...
    def first_index(self) -> int: ...
    def last_index(self) -> int: ...
    def term(self, index: int) -> int: ...
    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]: ...
    def configuration_indexes(self) -> list[int]: ...


class RaftLog:
    """The entries from `first_index` to `last_index`, and how far each of three watermarks has come.

    Invariants (`check` verifies them):

    1. ``applied <= commit <= last_index`` and ``first_index - 1 <= commit``.
    2. ``stable <= offered <= last_index``: what is durable, what was handed out to be written, what exists.
    3. The tail is contiguous, ends at ``last_index`` and holds at least every entry above ``stable``.
    4. Terms never decrease along the log.
    5. ``commit`` and ``applied`` never go back; entries up to ``commit`` are never replaced (§5.3, §5.4).
    6. ``configurations`` are those of the snapshot and of the entries above it, no more and no fewer.
    """

    __slots__ = (
        "_base_term",
        "_cache_bytes",
        "_offset",
        "_store",
        "_tail",
        "_tail_bytes",
        "applied",
        "commit",
        "configurations",
        "offered",
        "stable",
    )

    def __init__(self, store: LogReader, *, cache_bytes: int = 16 << 20) -> None:
        self._store = store
        self._cache_bytes = cache_bytes
        last = store.last_index()
        self._tail: list[Entry] = []
        self._tail_bytes = 0
        self._offset = last + 1  # index of the first entry of the tail
        self._base_term = store.term(last)  # term of the entry right below the tail
        self.stable = last
        self.offered = last
        start = store.snapshot().index
        stored = [store.entries(index, index + 1, 0)[0] for index in store.configuration_indexes()]
        self.configurations = Configurations(start, store.snapshot().configuration, stored)
        self.commit = max(start, min(store.hard_state().commit, last))
        self.applied = start

    # --- reading ------------------------------------------------------------------------------------------------------

    def first_index(self) -> int:
        return self._store.first_index()

    def last_index(self) -> int:
        return self._offset + len(self._tail) - 1

    def last_term(self) -> int:
        return self._tail[-1].term if self._tail else self._base_term

    def term(self, index: int) -> int | None:
        """The term at ``index``, or None where the log does not reach (compacted, or not there yet)."""
        if index >= self._offset:
            position = index - self._offset
            return self._tail[position].term if position < len(self._tail) else None
        if index == self._offset - 1:
            return self._base_term
        try:
            return self._store.term(index)
        except KeyError:
            return None

    def matches(self, index: int, term: int) -> bool:
        return self.term(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (§5.4.1)."""
        return (last_term, last_index) >= (self.last_term(), self.last_index())

    def entries(self, low: int, max_bytes: int, high: int | None = None) -> list[Entry]:
        """Entries from ``low`` up to, not including, ``high``; at least one, and no more than ``max_bytes`` of them."""
        high = self.last_index() + 1 if high is None else high
        if low >= high:
            return []
        if low < self._offset:
            return self._store.entries(low, min(high, self._offset), max_bytes)
        start = end = low - self._offset
        room = max_bytes
        tail = self._tail
        limit = high - self._offset
        while end < limit:
            room -= tail[end].size
            if room < 0 and end > start:
                break
            end += 1
        return tail[start:end]

    def last_index_of_term(self, term: int, upto: int) -> int | None:
        """The last index ``<= upto`` that has ``term``, by bisection: terms never decrease (invariant 4)."""
        low, high = self.first_index() - 1, min(upto, self.last_index())
        while low < high:
            middle = (low + high + 1) // 2
            if (self.term(middle) or 0) <= term:
                low = middle
            else:
                high = middle - 1
        return low if self.term(low) == term else None

    def conflict(self, prev_index: int) -> tuple[int, int]:
        """Where a leader should look next after it was refused at ``prev_index``: (conflict term, its first index)."""
        if prev_index > self.last_index():
            return 0, self.last_index() + 1
        term = self.term(prev_index)
        if term is None:  # compacted here, so committed: the leader can start right above
            return 0, self.commit + 1
        before = self.last_index_of_term_below(term, prev_index)
        return term, max(before, self.commit) + 1

    def last_index_of_term_below(self, term: int, upto: int) -> int:
        """The last index ``<= upto`` whose term is below ``term`` (``first_index - 1`` when there is none)."""
        low, high = self.first_index() - 1, upto
        while low < high:
            middle = (low + high + 1) // 2
            if (self.term(middle) or 0) < term:
                low = middle
            else:
                high = middle - 1
        return low

    # --- growing ------------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Add a leader's own entries, right after `last_index` (leaders only append, §5.3)."""
        self._tail.extend(entries)
        self.configurations.append(entries)
        self._tail_bytes += sum(entry.size for entry in entries)

    def accept(self, prev_index: int, prev_term: int, entries: Sequence[Entry]) -> int | None:
        """A follower's half of AppendEntries (figure 2): the last index that now matches the leader's, None if refused.

        Only a true conflict truncates; a late or repeated message never erases what a newer one appended.
        """
        if not self.matches(prev_index, prev_term):
            return None
        for position, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                self._replace_from(entries[position:])
                break
        return prev_index + len(entries)

    def _replace_from(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        if first <= self.commit:
            raise AssertionError(f"entry {first} conflicts with a committed one (commit {self.commit})")
        if first < self._offset:
            self._base_term = self.term(first - 1) or 0
            self._tail, self._tail_bytes, self._offset = [], 0, first
        elif first <= self.last_index():
            del self._tail[first - self._offset :]
            self._tail_bytes = sum(entry.size for entry in self._tail)
        self.configurations.truncate(first)
        self.offered = min(self.offered, first - 1)
        self.stable = min(self.stable, first - 1)
        self.append(entries)

    # --- watermarks ---------------------------------------------------------------------------------------------------

    def commit_to(self, index: int) -> bool:
        """Raise the commit index; True when it moved."""
        if index <= self.commit:
            return False
        if index > self.last_index():
            raise AssertionError(f"commit {index} is past the last entry {self.last_index()}: was the log lost?")
        self.commit = index
        return True

    def offer(self) -> list[Entry]:
        """The entries that were not handed out for writing yet; they count as handed out from now on."""
        if self.offered >= self.last_index():
            return []
        fresh = self._tail[self.offered + 1 - self._offset :]
        self.offered = self.last_index()
        return fresh

    def stable_to(self, index: int, term: int) -> None:
        """The write that ended at (``index``, ``term``) is durable; ignored if the entry was replaced since."""
        if index > self.stable and self.matches(index, term):
            self.stable = index

    def applied_to(self, index: int) -> None:
        if not self.applied <= index <= self.commit:
            raise AssertionError(f"applied {index} is outside [{self.applied}, {self.commit}]")
        self.applied = index
        self.configurations.forget_before(index)
        if self._tail_bytes > self._cache_bytes:
            self._trim()

    def _trim(self) -> None:
        """Forget the oldest half of the tail, where it is durable and applied: it can be read from the store."""
        droppable = min(self.stable, self.applied) + 1 - self._offset
        goal, dropped = self._cache_bytes // 2, 0
        while dropped < droppable and self._tail_bytes > goal:
            self._tail_bytes -= self._tail[dropped].size
            dropped += 1
        if dropped:
            self._base_term = self._tail[dropped - 1].term
            del self._tail[:dropped]
            self._offset += dropped

    def restore(self, snapshot: SnapshotMeta) -> None:
        """Start over from a snapshot that the leader sent (§7); the store follows before the next read of it."""
        self._tail, self._tail_bytes, self._offset = [], 0, snapshot.index + 1
        self._base_term = snapshot.term
        self.stable = self.offered = self.commit = snapshot.index
        self.configurations = Configurations(snapshot.index, snapshot.configuration)

    def check(self) -> None:
        """Verify the invariants stated at the top; AssertionError names the one that broke."""
        last = self.last_index()
        assert self.applied <= self.commit <= last, "1: applied <= commit <= last"
        assert self.first_index() - 1 <= self.commit, "1: compacted past the commit index"
        assert self.stable <= self.offered <= last, "2: stable <= offered <= last"
        assert self._offset <= self.stable + 1, "3: an entry that is not durable left the tail"
        for position, entry in enumerate(self._tail):
            assert entry.index == self._offset + position, "3: the tail is contiguous"
        terms = [entry.term for entry in self._tail]
        assert terms == sorted(terms), "4: terms never decrease"
        self.configurations.check()
        held = [entry.index for entry in self._tail if entry.kind is EntryKind.CONFIGURATION]
        oldest = max(self._offset, self.configurations.indexes[0] + 1)
        known = [index for index in self.configurations.indexes if index >= oldest]
        assert [index for index in held if index >= oldest] == known, "6: configurations are those of the log"
