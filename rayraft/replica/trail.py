"""How far the log reaches back behind a snapshot."""

from __future__ import annotations

from collections import deque


class Trail:
    """The last applied entries that may stay behind a snapshot, so that a follower a little behind needs no snapshot.

    1. They follow one another without gaps, up to the last one applied.
    2. They are at most ``max_entries``, and at most ``max_bytes`` together.
    """

    __slots__ = ("_max_bytes", "_max_entries", "_sizes", "bytes")

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._sizes: deque[int] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, size: int) -> None:
        """The next entry was applied."""
        self._sizes.append(size)
        self.bytes += size
        while len(self._sizes) > self._max_entries or self.bytes > self._max_bytes:
            self.bytes -= self._sizes.popleft()

    def clear(self) -> None:
        """The state was replaced: the entries behind it are not there."""
        self._sizes.clear()
        self.bytes = 0

    def check(self) -> None:
        assert self.bytes == sum(self._sizes), "the sum is kept"
        assert len(self) <= self._max_entries, "2: entries"
        assert self.bytes <= self._max_bytes, "2: bytes"
