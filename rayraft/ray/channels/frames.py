"""Calls and answers as bytes: as many as there are travel in one frame."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_HEADER = struct.Struct("<QBI")  # number, kind, bytes that follow
OVERHEAD = _HEADER.size


class Kind(enum.IntEnum):
    DELIVER = 0
    SUBMIT = 1
    QUERY = 2
    ANSWER = 3
    PART = 4  # of the item of that number; the last part has the item's own kind


class Item(NamedTuple):
    """A call, or the answer to the one of that number."""

    number: int
    kind: Kind
    data: bytes

    @property
    def size(self) -> int:
        """Bytes in a frame."""
        return OVERHEAD + len(self.data)


def cut(item: Item, size: int) -> Iterator[Item]:
    """The same in items of ``size`` bytes at most."""
    room, start = size - OVERHEAD, 0
    while len(item.data) - start > room:
        yield Item(item.number, Kind.PART, item.data[start : start + room])
        start += room
    yield Item(item.number, item.kind, item.data[start:]) if start else item


def pack(items: Iterable[Item]) -> bytes:
    parts: list[bytes] = []
    for number, kind, data in items:
        parts += _HEADER.pack(number, kind, len(data)), data
    return b"".join(parts)


def unpack(frame: bytes) -> Iterator[Item]:
    """Raises ValueError for what `pack` can not have made."""
    start, end = 0, len(frame)
    while start < end:
        if end - start < OVERHEAD:
            raise ValueError(f"a frame ends within a header, {end - start} bytes behind its last item")
        number, kind, size = _HEADER.unpack_from(frame, start)
        start += OVERHEAD
        if end - start < size:
            raise ValueError(f"a frame ends {size - (end - start)} bytes before its last item does")
        yield Item(number, Kind(kind), frame[start : start + size])
        start += size
