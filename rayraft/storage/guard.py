"""A witness beside the log: how far it had been synced. It is how a cut synced tail is told from an unsynced one.

RocksDB drops a torn last record without a word, because after a crash that is what an unsynced write looks like. When
that record had been synced, a vote or an acknowledged entry is gone. So after every sync the sequence number that
RocksDB gave to the last synced write goes into a file of its own. Sequence numbers only grow, and truncation,
compaction and hard state consume them like entries do; so the rule needs no exceptions:

1. The file never runs ahead of the disk: it is written after the sync returned, and need not be synced itself.
2. Finding a lower sequence number than the file's in the log means that something synced is missing.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from rayraft.storage.files import write_file

_MARK = struct.Struct(">QQQ")
_CRC = struct.Struct(">I")


class Mark(NamedTuple):
    """A point in the log's history, and the indexes to name should it be missing."""

    sequence: int  # RocksDB's number of the last operation
    low: int  # the lowest index written since the mark before this one
    last: int  # the last index of the log


class Guard:
    """The file that holds the last synced `Mark`. Its few bytes lie in one sector, so they can not tear."""

    def __init__(self, path: Path) -> None:
        """Open an existing guard. Raises FileNotFoundError."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @staticmethod
    def create(path: Path) -> Guard:
        """A guard that vouches for nothing yet. Raises OSError."""
        write_file(path, _pack(Mark(0, 0, 0)))
        return Guard(path)

    def read(self) -> Mark | None:
        """The mark, or None when the file is damaged."""
        data = os.pread(self._fd, _MARK.size + _CRC.size, 0)
        if len(data) < _MARK.size + _CRC.size:
            return None
        mark = Mark(*_MARK.unpack_from(data))
        return mark if data == _pack(mark) else None

    def store(self, mark: Mark) -> None:
        """Vouch for ``mark``, which is durable already. Raises OSError."""
        os.pwrite(self._fd, _pack(mark), 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _pack(mark: Mark) -> bytes:
    data = _MARK.pack(*mark)
    return data + _CRC.pack(zlib.crc32(data))
