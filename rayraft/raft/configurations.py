"""The configurations of a log: a node always uses the newest one in its log, committed or not (§6, thesis §4.1)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from rayraft.raft.membership import decode_configuration
from rayraft.raft.types import Configuration, Entry, EntryKind, NodeId


class Configurations:
    """Which configuration is in force at which index, from the last snapshot to the end of the log.

    1. ``indexes`` ascend strictly. The first is that of the snapshot, or of a newer configuration that was applied.
    2. The newest is in force; when its entry is truncated, the one before it is in force again.
    """

    __slots__ = ("_found", "indexes", "newest")

    def __init__(self, index: int, configuration: Configuration, entries: Iterable[Entry] = ()) -> None:
        self.indexes = [index]
        self._found = [configuration]
        self.newest = configuration
        self.append(entries)

    @property
    def newest_index(self) -> int:
        return self.indexes[-1]

    def at(self, index: int) -> Configuration:
        """The configuration in force at ``index``, which is at or above the first that is known."""
        return self._found[max(0, bisect_right(self.indexes, index) - 1)]

    def append(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                self.indexes.append(entry.index)
                self.newest = decode_configuration(entry.data)
                self._found.append(self.newest)

    def truncate(self, first: int) -> None:
        """The entries from ``first`` on are gone."""
        while len(self.indexes) > 1 and self.indexes[-1] >= first:
            self.indexes.pop()
            self._found.pop()
        self.newest = self._found[-1]

    def forget_before(self, index: int) -> None:
        """Nobody will ask for what was in force before ``index``."""
        while len(self.indexes) > 1 and self.indexes[1] <= index:
            del self.indexes[0], self._found[0]

    def has_removed(self, node: NodeId, upto: int) -> bool:
        """Whether ``node`` was a member and is none by the configuration of ``upto``, which is committed: for good.

        A later one that is not committed changes nothing about it: ids do not come back.
        """
        settled = self.at(upto)
        return node <= settled.highest_id and not settled.has_member(node)

    def check(self) -> None:
        assert self.indexes == sorted(set(self.indexes)), "1: indexes ascend"
        assert self.newest is self._found[-1], "2: the newest is in force"
