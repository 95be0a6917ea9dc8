"""Messages and requests as arguments of Ray calls."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rayraft.raft.types import AnyMessage

PROTOCOL_VERSION = 7
# Ray copies an argument below 100 KiB into the call; a larger one takes a detour through the object store.
MAX_ARGUMENT = 96 << 10

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[AnyMessage])


def encode_messages(messages: Sequence[AnyMessage]) -> bytes:
    return _encoder.encode(messages)


def decode_messages(data: bytes) -> list[AnyMessage]:
    return _decoder.decode(data)


def split(data: bytes) -> list[bytes]:
    """Arguments that Ray inlines; `join` puts them together again."""
    if len(data) <= MAX_ARGUMENT:
        return [data]
    return [data[start : start + MAX_ARGUMENT] for start in range(0, len(data), MAX_ARGUMENT)]


def join(parts: Sequence[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)
