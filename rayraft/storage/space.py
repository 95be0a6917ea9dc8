"""Room on a node's disk. Some is kept in reserve: a log on a disk that is full to the brim can not be opened."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rayraft.errors import DiskFailed, DiskFull

MAX_RESERVE = 64 << 20  # bytes; what a log writes while it is opened is of that order
RESERVE_PART = 20  # of a smaller disk, this part
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_WORDS = ("No space left", "Disk quota exceeded")


def room(directory: str | Path) -> tuple[int, int]:
    """(bytes that are free on the disk of ``directory``, bytes to keep in reserve there). Raises OSError."""
    found = os.statvfs(_existing(Path(directory)))
    return found.f_bavail * found.f_frsize, min(MAX_RESERVE, found.f_blocks * found.f_frsize // RESERVE_PART)


def check_room(directory: str | Path, wanted: int = 0) -> None:
    """Raise DiskFull unless ``wanted`` bytes fit and the reserve is left then."""
    free, reserve = room(directory)
    if free - wanted < reserve:
        raise disk_full(directory, f"{free >> 10} KiB are free, {(reserve + wanted) >> 10} KiB are needed")


def disk_full(directory: str | Path, reason: str) -> DiskFull:
    return DiskFull(
        f"the disk of {directory} is full: {reason}. Make room there; the node goes on by itself then",
        directory=str(directory),
    )


def disk_failed(path: str | Path, error: object, what: str = "") -> DiskFailed:
    """What to raise for ``error``, an OSError or the words of one, that came when ``path`` was written."""
    reason = f"{what} failed: {error}" if what else str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL or any(words in str(error) for words in _FULL_WORDS):
        return disk_full(path, reason)
    return DiskFailed(f"{path}: {reason}")


def _existing(directory: Path) -> Path:
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory
