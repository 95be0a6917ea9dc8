"""A disk that can lose power: a file system in a file, which ends without a flush when it is told to."""

from __future__ import annotations

import fcntl
import os
import shutil
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
            time.sleep(0.05)
        return ""

    def mount_again(self) -> str:
        """What is on the disk after a power loss, as a file system of its own.

        From a copy: a mount namespace that somebody else made meanwhile may still have the dead file system.
        """
        copy = self._image.with_suffix(".copy")
        problem = self.unmount() or _run("cp", "--sparse=always", self._image, copy)
        if problem:
            return problem
        os.replace(copy, self._image)
        return self.mount()

    def lose_power(self) -> None:
        """Nothing reaches the disk any more, and every sync fails; `mount_again` shows what is on it."""
        fd = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUT_DOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(fd)


def why_not() -> str | None:
    """Why there can be no such disk here; None when there can."""
    return None if shutil.which("mkfs.ext4") else "mkfs.ext4 is not installed"


def _run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)
    return (done.stderr.strip() or f"{words[0]} failed") if done.returncode else ""
