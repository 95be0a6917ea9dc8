"""The file of a backup: a header that says what it holds, then a snapshot in the format that nodes keep them in.

1. A file under its own name is whole and durable: it was synced before it got that name.
2. Every byte is covered by a checksum; a file that is too short or too long is refused as well.
3. The snapshot has no sessions: what a client of the old group had under way fails (SessionExpired) in the new one
   where it may have been applied, and nothing of it is applied twice.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from rayraft.errors import DamagedBackup, DamagedSnapshot
from rayraft.raft.types import SnapshotMeta
from rayraft.storage.files import sync_directory
from rayraft.storage.snapshot_format import verify_snapshot
from rayraft.storage.space import disk_failed

_MAGIC = b"rayraft backup\x01\n"  # the byte before the last is the version of this format
_PREFIX = struct.Struct(f">{len(_MAGIC)}sII")  # magic, bytes of the header, crc32 of the header
_MAX_HEADER = 256 << 20  # of a damaged length; the class and the arguments of its constructor are in the header


class BackupHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. ``machine`` is pickled code: it is only opened to restore, never to look at the file."""

    group: str
    cluster_id: str
    index: int  # the state is the one after this entry: every command acknowledged before the backup began is in it
    term: int
    taken_at: float  # seconds since 1970, by the clock of whoever took it
    machine_name: str
    machine: bytes  # as `NodeSpec.machine`
    rayraft: str  # the version that wrote it
    snapshot_bytes: int

    @property
    def meta(self) -> SnapshotMeta:
        """Names the snapshot; its configuration is up to the new group."""
        return SnapshotMeta(self.index, self.term)


class BackupWriter:
    """Writes a backup in the order it arrives; leaving without `commit` leaves nothing behind. Raises DiskFailed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Not by the process id: in a container it is that of a backup that was killed.
        self._temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        with _disk(path):
            self._file = open(self._temporary, "xb")  # noqa: SIM115

    def __enter__(self) -> BackupWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write_header(self, header: BackupHeader) -> None:
        data = msgspec.msgpack.encode(header)
        self.write(_PREFIX.pack(_MAGIC, len(data), zlib.crc32(data)) + data)

    def write(self, data: bytes) -> None:
        """The next part of the snapshot."""
        with _disk(self._path):
            self._file.write(data)

    def commit(self) -> BackupHeader:
        """Verify what was written, and give it its name, durably. Raises DamagedBackup."""
        with _disk(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            header = verify_backup(self._temporary)
            os.replace(self._temporary, self._path)
            sync_directory(self._path.parent)
        return header


def verify_backup(path: Path) -> BackupHeader:
    """Read the whole file; what it holds. Raises DamagedBackup."""
    with open_backup(path) as (header, file):
        with contextlib.suppress(OSError):  # not of a pipe, and not everywhere
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        try:
            start = file.tell()
            verify_snapshot(file, header.meta, f"in {path}")
            found = file.tell() - start
        except DamagedSnapshot as error:
            raise DamagedBackup(f"{error}. The backup can not be used") from error
        if found != header.snapshot_bytes:
            raise DamagedBackup(f"{path} has a snapshot of {found} bytes, its header says {header.snapshot_bytes}")
        return header


@contextlib.contextmanager
def open_backup(path: Path) -> Iterator[tuple[BackupHeader, BinaryIO]]:
    """The header, and the file at the beginning of its snapshot, which is not verified. Raises DamagedBackup."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise DamagedBackup(f"{path} can not be read: {error}") from error
    with file:
        yield _read_header(file, path), file


def _read_header(file: BinaryIO, path: Path) -> BackupHeader:
    prefix = file.read(_PREFIX.size)
    if not prefix.startswith(_MAGIC[: len(prefix)]) or not prefix:
        raise DamagedBackup(f"{path} is no backup of rayraft, or of another format")
    if len(prefix) < _PREFIX.size:
        raise DamagedBackup(f"{path} is cut short: it ends in its first {_PREFIX.size} bytes")
    _, length, crc = _PREFIX.unpack(prefix)
    data = file.read(length) if length <= _MAX_HEADER else b""
    if len(data) != length or zlib.crc32(data) != crc:
        raise DamagedBackup(f"{path} has a damaged header, or is cut short there")
    try:
        return msgspec.msgpack.decode(data, type=BackupHeader)
    except msgspec.DecodeError as error:
        raise DamagedBackup(f"{path} has a header that can not be understood: {error}") from error


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_failed(path, error, "writing the backup") from error
