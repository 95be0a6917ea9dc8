"""The bytes of a snapshot, in a file, in memory and on the wire: a header that names and seals it, then its content."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from rayraft.errors import DamagedSnapshot
from rayraft.raft.types import SnapshotMeta

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAGIC = b"rayraft\x01"  # the last byte is the version of this format
_FIELDS = struct.Struct(">8sQQQI")  # magic, index, term, bytes of content, crc32 of content
_CRC = struct.Struct(">I")  # crc32 of the fields
HEADER_BYTES = _FIELDS.size + _CRC.size
_CHUNK = 1 << 20


class _Header(NamedTuple):
    magic: bytes
    last_index: int
    term: int
    length: int
    crc: int

    def pack(self) -> bytes:
        fields = _FIELDS.pack(*self)
        return fields + _CRC.pack(zlib.crc32(fields))


class _Summing(io.RawIOBase):
    """Passes what is written on to ``target``, and keeps its length and checksum. Closing it leaves ``target`` open."""

    def __init__(self, target: BinaryIO) -> None:
        super().__init__()
        self._target = target
        self.length = 0
        self.crc = 0

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data)
        self._target.write(view)
        self.length += view.nbytes
        self.crc = zlib.crc32(view, self.crc)
        return view.nbytes


def write_snapshot(file: BinaryIO, meta: SnapshotMeta, write: Callable[[BinaryIO], None]) -> int:
    """Have ``write`` fill ``file``, which is empty and seekable; returns its size in bytes. Not synced."""
    file.write(bytes(HEADER_BYTES))
    summing = _Summing(file)
    content = io.BufferedWriter(summing, _CHUNK)  # small writes would each cost a checksum
    try:
        write(content)
        if not content.closed:
            content.close()
    except BaseException:
        summing.close()  # else the buffer would flush its rest into ``file`` whenever it is collected
        raise
    file.seek(0)
    file.write(_Header(_MAGIC, meta.index, meta.term, summing.length, summing.crc).pack())
    return HEADER_BYTES + summing.length


def verify_snapshot(file: BinaryIO, meta: SnapshotMeta, name: str) -> None:
    """Read ``file`` through. Raises DamagedSnapshot, which calls it ``name``, unless it is ``meta``'s, and whole."""
    head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise DamagedSnapshot(f"snapshot {name} is cut short: its header has {len(head)} of {HEADER_BYTES} bytes")
    header = _Header(*_FIELDS.unpack_from(head))
    if head != header.pack() or header.magic != _MAGIC:
        raise DamagedSnapshot(f"snapshot {name} has a damaged header, or is of another format")
    if (header.last_index, header.term) != (meta.index, meta.term):
        found = f"index {header.last_index}, term {header.term}"
        raise DamagedSnapshot(f"snapshot {name} is of {found}; {meta.index}, {meta.term} was expected")
    length = crc = 0
    while chunk := file.read(_CHUNK):
        length += len(chunk)
        crc = zlib.crc32(chunk, crc)
    if length != header.length:
        raise DamagedSnapshot(f"snapshot {name} has {length} bytes of content, its header says {header.length}")
    if crc != header.crc:
        raise DamagedSnapshot(f"snapshot {name} fails its checksum")
