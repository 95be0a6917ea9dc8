"""How a record lies on disk: its checksum, then its msgpack form. The checksum covers the key as well, so that a
record that was moved to another key is as bad as a flipped bit."""

from __future__ import annotations

import struct
import zlib
from typing import Any, TypeVar

import msgspec

from rayraft.raft.types import Entry, HardState, SnapshotMeta

T = TypeVar("T")

FORMAT = 1  # of everything in the log's key space; kept in the anchor
ANCHOR = b"a"
HARD_STATE = b"h"
ENTRY_PREFIX = b"e"  # then the index, 8 bytes big-endian, so that keys sort as indexes do

_KEY = struct.Struct(">cQ")
_CRC_BYTES = 4
_encode = msgspec.msgpack.Encoder().encode


class Anchor(msgspec.Struct, frozen=True, array_like=True):
    """Where the log begins: the newest snapshot, the first index held, and the term of the index before that."""

    format: int
    owner: str
    snapshot: SnapshotMeta
    first: int
    base_term: int


class Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first fields of an `Entry`: what can be learnt of it without copying its data."""

    index: int
    term: int
    kind: int


class BadRecord(Exception):
    """A record fails its checksum or does not decode; the message says which."""


decode_anchor = msgspec.msgpack.Decoder(Anchor).decode
decode_hard_state = msgspec.msgpack.Decoder(HardState).decode
decode_entry = msgspec.msgpack.Decoder(Entry).decode
decode_head = msgspec.msgpack.Decoder(Head).decode


def entry_key(index: int) -> bytes:
    return _KEY.pack(ENTRY_PREFIX, index)


def pack(key: bytes, record: Any) -> bytes:
    """The bytes to store under ``key``."""
    payload = _encode(record)
    return zlib.crc32(payload, zlib.crc32(key)).to_bytes(_CRC_BYTES, "big") + payload


def unpack(key: bytes, value: bytes) -> memoryview:
    """The payload of what was stored under ``key``, not copied. Raises BadRecord."""
    payload = memoryview(value)[_CRC_BYTES:]
    if zlib.crc32(payload, zlib.crc32(key)) != int.from_bytes(value[:_CRC_BYTES], "big"):
        raise BadRecord(f"the record at key {key.hex()} fails its checksum")
    return payload
