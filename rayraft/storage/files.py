"""Files that survive a power loss: what must be synced, and in which order, before a name may be relied on."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

TEMPORARY = ".tmp"  # at the end of the name of a file that is being written, or was when its process ended


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable: those created, renamed or deleted. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(directory: Path) -> None:
    """Create ``directory`` and its missing parents, durably. Does nothing when it is there. Raises OSError."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def write_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``, durably: a reader finds the old file or all of the new one. Raises OSError.

    Several may do so at once: one of the files is there then.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk, say, where it is tried again and again
        raise
    sync_directory(path.parent)


def forget_temporary(directory: Path) -> None:
    """Remove what others have left half written in ``directory``, in which nobody writes now. Raises OSError."""
    for path in directory.glob("*" + TEMPORARY):
        path.unlink(missing_ok=True)
