"""The class that a node's log begins with, kept beside the log from the first upgrade on.

A class that was started by reference is what its file says; once that file has the new version, a node that replays
the log from before the upgrade would run the old commands with the new code. So before an upgrade is logged, every node
writes the founding class down by value, as its process knows it.
"""

from __future__ import annotations

from pathlib import Path

import cloudpickle

from rayraft.errors import DiskFailed, StorageError, UpgradeFailed
from rayraft.machine.classes import PYTHON, pack_class, unpack_class
from rayraft.storage.files import write_file

FOUNDING_FILE = "founding-class"


def keep_founding(directory: str, machine: bytes) -> None:
    """Write ``machine``, the cloudpickle of (class, args, kwargs), down, unless it was before.

    Raises UpgradeFailed when it can not be pickled by value, DiskFailed.
    """
    path = Path(directory) / FOUNDING_FILE
    if path.exists():
        return
    content = cloudpickle.loads(machine)
    packed = pack_class(content[0], content)
    try:
        write_file(path, packed)
    except OSError as error:
        raise DiskFailed(f"cannot write {path}: {error}") from error


def founding_machine(directory: str) -> bytes | None:
    """What the node's log began with; None where that was not kept, or by another version of Python.

    Raises StorageError.
    """
    path = Path(directory) / FOUNDING_FILE
    try:
        found = unpack_class(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, UpgradeFailed) as error:
        raise StorageError(f"{path} can not be read: {error}") from error
    return found.pickle if found.python == PYTHON else None
