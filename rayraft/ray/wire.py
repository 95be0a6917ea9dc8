"""Messages and requests as arguments of Ray calls."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rayraft.errors import WrongVersion
from rayraft.raft.types import AnyMessage

PROTOCOL_VERSION = 8  # another one where nodes could not agree on what a message means, or a command does
# Ray copies an argument below 100 KiB into the call; a larger one takes a detour through the object store.
MAX_ARGUMENT = 96 << 10

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[AnyMessage])


def check_version(group: str, protocol: int) -> None:
    """Whether this process may take part in a group that was started with ``protocol``. Raises WrongVersion."""
    if protocol != PROTOCOL_VERSION:
        raise WrongVersion(
            f"the nodes of {group!r} run rayraft with protocol {protocol}, and here protocol {PROTOCOL_VERSION} is "
            "installed, which can not run beside it: shut the group down, install one version everywhere, and start "
            "it again on its directories; or install the old version here"
        )


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
