"""Reading again, a little at a time, what nobody reads: damage is found while other nodes still have the data."""

from __future__ import annotations

from rayraft.storage.rocks import RocksLogStore

SLICE_ENTRIES = 512
SLICE_BYTES = 256 << 10  # both together: about a millisecond of the thread that owns the log


class Scrub:
    """Goes round and round over one log; used by the thread that writes it.

    Every entry that stays in the log long enough is read once a round. The write-ahead log is read when a log is
    opened, and not here: until its records are in a table, memory has them too.
    """

    def __init__(self, store: RocksLogStore) -> None:
        self._store = store
        self._next = 0
        self.rounds = 0

    def step(self) -> None:
        """Read the next slice. Raises DamagedLog."""
        store = self._store
        low, last = max(self._next, store.first_index()), store.last_index()
        found = store.entries(low, min(low + SLICE_ENTRIES, last + 1), SLICE_BYTES)
        self._next = low + len(found)
        if self._next > last:
            store.check_heads()
            self._next, self.rounds = 0, self.rounds + 1
