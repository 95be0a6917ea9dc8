"""A disk that can lose power: a file system in a file, which ends without a flush when it is told to."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

SHUT_DOWN: Final = 0x8004587D  # the ioctl of ext4 and others that ends a file system as a power loss would
WITHOUT_FLUSH: Final = 2
UNMOUNT_SECONDS: Final = 60.0


class LoopDisk:
    """An ext4 file system in a file. Each method returns what went wrong, or nothing."""

    def __init__(self, image: Path, mount: Path) -> None:
        self._image = image
        self.mount_point = mount

    def create(self, size: int) -> str:
        with open(self._image, "wb") as file:
            file.truncate(size)
        self.mount_point.mkdir(exist_ok=True)
        return _run("mkfs.ext4", "-q", "-F", self._image) or self.mount()

    def mount(self) -> str:
        return _run("mount", "-o", "loop", self._image, self.mount_point)

    def unmount(self) -> str:
        deadline = time.monotonic() + UNMOUNT_SECONDS
        while problem := _run("umount", self.mount_point):
            # A process that was just killed, or the child that saves its snapshot, may still hold it.
            if time.monotonic() > deadline:
                return problem
            time.sleep(0.1)
        return ""

    def lose_power(self) -> None:
        """Nothing reaches the disk any more, and every sync fails; `unmount` and `mount` show what is on it."""
        fd = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUT_DOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(fd)


def _run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)
    return (done.stderr.strip() or f"{words[0]} failed") if done.returncode else ""
