"""Snapshots as files, one each, named by index and term."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rayraft.errors import DamagedSnapshot, DiskFull
from rayraft.raft.types import SnapshotMeta
from rayraft.storage.files import make_directory, sync_directory
from rayraft.storage.snapshot_format import HEADER_BYTES, verify_snapshot, write_snapshot
from rayraft.storage.space import check_room, disk_failed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SUFFIX = ".snapshot"
_PART = ".part"  # half received
_TEMPORARY = ".tmp"  # half saved
_BUFFER = 1 << 20
_SYNC_EVERY = 4 << 20  # a sync of the log waits 10 ms for as much, 40 for 16 MiB, 140 for 300 MB
_FREED_AT_ONCE = 2 << 20  # a sync of the log then waits 8 ms; for 8 MiB 20, and for a whole file 60 to 140
_FREE_PAUSE = 0.02  # s


class NoSnapshot(KeyError):
    """There is no file of that snapshot."""


class _GivingWay(io.BufferedWriter):
    """A snapshot can wait, the log on the same disk can not.

    So it is written only as long as the reserve of the disk is not touched (raises DiskFull), and synced every
    ``_SYNC_EVERY`` bytes: of many unwritten bytes a file system may write all before it ends a sync of the log.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"), _BUFFER)
        self._directory = path.parent
        self._unsynced = 0

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        check_room(self._directory, size)
        written = super().write(data)
        self._unsynced += size
        if self._unsynced >= _SYNC_EVERY:
            self._unsynced = 0
            self.flush()
            os.fdatasync(self.fileno())
        return written


class FileSnapshotStore:
    """The snapshots of one node. The directory is all of its state, so a forked child may save for its parent.

    1. A file under a name that ends in ``.snapshot`` is whole and durable: it was synced before it got that name.
    2. What is half received or half saved has another suffix. What is half saved does not outlive the owner; what is
       half received may be gone on with, since `finish` verifies the whole. One snapshot is half received at most.
    3. Neither takes the room that the log needs: what is half there goes before that.
    """

    def __init__(self, directory: str | Path) -> None:
        """Open or create the directory, and remove what an earlier owner left half saved. Raises DiskFailed."""
        self._directory = Path(directory)
        with _disk(self._directory):
            make_directory(self._directory)
            for path in self._directory.iterdir():
                if path.suffix == _TEMPORARY:
                    path.unlink(missing_ok=True)

    def save(self, meta: SnapshotMeta, write: Callable[[BinaryIO], None]) -> int:
        """As the protocol says. Raises DiskFailed, or DiskFull while there is still room for the log.

        What ``write`` raises passes through, unless it is an OSError.
        """
        final = self._path(meta)
        temporary = self._temporary(meta, os.getpid())
        with _disk(final):
            try:
                with _GivingWay(temporary) as file:
                    size = write_snapshot(file, meta, write)
                    _sync(file)
                os.replace(temporary, final)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            sync_directory(self._directory)
        return size

    def half_saved(self, meta: SnapshotMeta, process: int) -> int | None:
        """How much a child has saved by now; None before it began and when it is done."""
        with _disk(self._directory):
            return _size(self._temporary(meta, process))

    def abandon(self, meta: SnapshotMeta, process: int) -> None:
        """Remove what a child that has ended left half saved."""
        if self.half_saved(meta, process) is not None:
            _remove_beside([self._temporary(meta, process)])

    def size(self, meta: SnapshotMeta) -> int:
        size = _size(self._path(meta))
        if size is None:
            raise NoSnapshot(f"no snapshot {self._path(meta)}")
        return size

    def read(self, meta: SnapshotMeta, offset: int, length: int) -> bytes:
        with _disk(self._path(meta)), self._open(meta) as file:
            return os.pread(file.fileno(), length, offset)

    def load(self, meta: SnapshotMeta) -> BinaryIO:
        """As the protocol says. The file is read twice, so that nothing unverified is ever handed out."""
        file = self._open(meta)
        try:
            with _disk(self._path(meta)):
                verify_snapshot(file, meta, str(self._path(meta)))
                file.seek(HEADER_BYTES)
        except BaseException:
            file.close()
            raise
        return file

    def verify(self, meta: SnapshotMeta) -> None:
        """Read a saved snapshot from the disk, not from memory. Raises DamagedSnapshot; NoSnapshot when there is none.

        May run in a thread of its own.
        """
        with self._open(meta) as file, _disk(self._path(meta)):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            verify_snapshot(file, meta, str(self._path(meta)))

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes, total: int = 0) -> int:
        """As the protocol says; chunks that arrive after `finish` are ignored too. Raises DiskFailed."""
        whole = _size(self._path(meta))
        if whole is not None:
            return whole
        part = self._part(meta)
        with self._or_forget(part):
            held = _size(part) or 0
            if offset != held:
                return held
            if not held:
                self.forget_received()
            check_room(self._directory, max(total - held, len(data)))
            with open(part, "ab") as file:
                file.write(data)
            return held + len(data)

    def finish(self, meta: SnapshotMeta) -> None:
        """As the protocol says; nothing to do when the snapshot is there. KeyError when none was received."""
        part = self._part(meta)
        if _size(self._path(meta)) is not None:
            return
        if _size(part) is None:
            raise KeyError(f"nothing received for {self._path(meta)}")
        with self._or_forget(part):
            try:
                with open(part, "r+b") as file:
                    verify_snapshot(file, meta, str(part))
                    _sync(file)
            except DamagedSnapshot:
                part.unlink()
                raise
            os.replace(part, self._path(meta))
            sync_directory(self._directory)

    def discard_except(self, keep: SnapshotMeta) -> None:
        """As the protocol says; what a child is saving at the moment stays. Raises DiskFailed."""
        with _disk(self._directory):
            kept, old = self._path(keep), []
            for path in self._directory.iterdir():
                newer = path.suffix == _PART and path.stem > kept.stem
                if path.suffix in (_SUFFIX, _PART) and path != kept and not newer:
                    old.append(path.rename(path.with_name(f"{path.name}.old{_TEMPORARY}")))
        if old:
            _remove_beside(old)

    def forget_received(self) -> None:
        """What is half received makes room. Raises DiskFailed."""
        with _disk(self._directory):
            for path in self._directory.iterdir():
                if path.suffix == _PART:
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _or_forget(self, part: Path) -> Iterator[None]:
        try:
            with _disk(part):
                yield
        except DiskFull:
            self.forget_received()
            raise

    def _path(self, meta: SnapshotMeta) -> Path:
        return self._directory / f"{meta.index:020d}-{meta.term:020d}{_SUFFIX}"

    def _temporary(self, meta: SnapshotMeta, process: int) -> Path:
        """The process is in the name: a child that is still saving and its parent must not share a file."""
        return self._path(meta).with_suffix(f"{_SUFFIX}.{process}{_TEMPORARY}")

    def _part(self, meta: SnapshotMeta) -> Path:
        return self._path(meta).with_suffix(_PART)

    def _open(self, meta: SnapshotMeta) -> BinaryIO:
        try:
            return open(self._path(meta), "rb")
        except FileNotFoundError:
            raise NoSnapshot(f"no snapshot {self._path(meta)}") from None


def _remove_beside(files: Sequence[Path]) -> None:
    threading.Thread(target=_remove, args=(files,), name="rayraft-discard", daemon=True).start()


def _remove(files: Sequence[Path]) -> None:
    """Bit by bit: a file system lets go of some hundred megabytes in 0.1 s, and no log is synced meanwhile.

    What resists is removed when the store is opened the next time.
    """
    for path in files:
        with contextlib.suppress(OSError):
            for size in range(path.stat().st_size - _FREED_AT_ONCE, 0, -_FREED_AT_ONCE):
                os.truncate(path, size)
                time.sleep(_FREE_PAUSE)
            path.unlink(missing_ok=True)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_failed(path, error) from error
