"""Damage to the disk of one node, as failing hardware does it, also while the node runs: bits flip in its files."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rayraft.chaos.machines import BedError
from rayraft.storage.records import HARD_STATE, BadRecord, unpack

_SET: Final = b"\x01\x01" + HARD_STATE  # how RocksDB writes a value down: its sign, the length of the key, the key


class Part(enum.Enum):
    LOG = "log"
    HARD_STATE = "hard state"
    SNAPSHOT = "snapshot"


def flip_bit(path: Path, offset: int) -> None:
    """One bit, in place: a process that has the file open goes on writing to it."""
    file = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(file, 1, offset)
        os.pwrite(file, bytes([byte ^ 1]), offset)
    finally:
        os.close(file)


def flip(node: Path, part: Part) -> Path:
    """Flip a bit in this part of the disk of ``node``; the file where it was. BedError: there is nothing to damage."""
    return _FLIPS[part](node)


def _flip_log(node: Path) -> Path:
    path = max(_logs(node), default=None)
    if path is None or not path.stat().st_size:
        raise BedError(f"{node} has written nothing since it came up")
    flip_bit(path, path.stat().st_size // 2)
    return path


def _flip_hard_state(node: Path) -> Path:
    """The newest record of term and vote that lies in one piece."""
    for path in sorted(_logs(node), reverse=True):
        data = path.read_bytes()
        found = data.rfind(_SET)
        while found >= 0:
            begin = found + len(_SET) + 1
            try:
                unpack(HARD_STATE, data[begin : begin + data[begin - 1]])
            except (BadRecord, IndexError):
                found = data.rfind(_SET, 0, found)
                continue
            flip_bit(path, begin + data[begin - 1] - 1)
            return path
    raise BedError(f"{node} has written no term or vote since it came up")


def _flip_snapshot(node: Path) -> Path:
    """The newest, which is the one that counts from the next turn on, and the others: old ones are deleted soon."""
    paths = sorted((node / "snapshots").glob("*.snapshot"))
    if not paths:
        raise BedError(f"{node} has no snapshot yet")
    for path in paths:
        flip_bit(path, path.stat().st_size // 2)
    return paths[-1]


def _logs(node: Path) -> list[Path]:
    """The files of the write-ahead log."""
    return list((node / "log" / "rocksdb").glob("*.log"))


_FLIPS: Final[dict[Part, Callable[[Path], Path]]] = {
    Part.LOG: _flip_log,
    Part.HARD_STATE: _flip_hard_state,
    Part.SNAPSHOT: _flip_snapshot,
}
