"""The bytes between a client and the machine: requests, batches of them in a log entry, and replies.

A client encodes a request once; the leader and the log carry it unopened; only `apply` looks inside.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import msgspec

NEW_SESSION = 0
LAST = 0  # the number of the request that ends its session
_UNIQUE = 1 << 63  # in the nonce of an opening: see `session_id`
_PLACE_BITS = 20
RequestKey: TypeAlias = tuple[int, int]  # (session, number)

_HEADER = struct.Struct("<QQQ")
_QUERY_HEADER = struct.Struct("<Bd")
_HINT = struct.Struct("<QQ")
_PACKET = struct.Struct(">BI")  # how MessagePack begins a list
_LIST = 0xDD
_encoder = msgspec.msgpack.Encoder()
_packet_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


class RequestHeader(NamedTuple):
    """Who sent a request. Within a session requests are numbered 1, 2, 3, … and applied in that order, once each.

    ``answered`` is the highest number up to which the client has all its replies: they need not be kept any longer.
    In session `NEW_SESSION` the number is a random nonce and the request opens a session; ``answered`` is then how long
    it shall live unused, in milliseconds of the log's time (0: one hour). Number `LAST` ends its session.
    """

    session: int
    number: int
    answered: int

    @property
    def key(self) -> RequestKey:
        return self.session, self.number


def pack(calls: Sequence[bytes]) -> bytes:
    """A packet of encoded calls (`rayraft.machine.calls`): a list whose items are encoded already."""
    return b"".join((_PACKET.pack(_LIST, len(calls)), *calls))


def unpack(packet: bytes) -> list[bytes]:
    """The reverse of `pack`; the machine decodes a packet in one go instead (`rayraft.machine.calls.decode_calls`)."""
    return [bytes(call) for call in _packet_decoder.decode(packet)]


def encode_request(session: int, number: int, answered: int, commands: Sequence[bytes]) -> bytes:
    return _HEADER.pack(session, number, answered) + pack(commands)


def encode_opening(nonce: int, ttl_ms: int) -> bytes:
    """A request that opens a session; ``nonce`` is random, of 63 bits."""
    return _HEADER.pack(NEW_SESSION, nonce | _UNIQUE, ttl_ms)


def encode_ending(session: int) -> bytes:
    """A request that ends a session: nothing of it will be asked for again."""
    return _HEADER.pack(session, LAST, 0) + pack(())


def session_id(nonce: int, index: int, place: int) -> int:
    """Of the session that the opening with this nonce gets, as request ``place`` of the entry at ``index``.

    Each time the opening is applied, and in each group, it is another one. Of index and place alone it would be the
    same in any new group, and a client that still has a session of an older group of that name would be taken for the
    new group's. (A nonce without the mark is of a log that was written before.)
    """
    unique_here = index << _PLACE_BITS | place
    return nonce ^ unique_here if nonce & _UNIQUE else unique_here


def request_header(request: bytes) -> RequestHeader:
    return RequestHeader._make(_HEADER.unpack_from(request))


def request_packet(request: bytes) -> bytes:
    """The packet of commands in a request."""
    return request[_HEADER.size :]


def request_commands(request: bytes) -> list[bytes]:
    return unpack(request_packet(request))


class Consistency(enum.IntEnum):
    """What a query may return."""

    LINEARIZABLE = 0  # the leader's state, after a quorum has confirmed that it leads
    LEASE = 1  # the leader's state, on the word of its clock while its lease holds, otherwise as above
    FOLLOWER = 2  # linearizable too, from the state of whichever node is asked: the leader only gives an index
    STALE = 3  # the state of whichever node is asked, if it is known to be no older than the caller allows


class QueryHeader(NamedTuple):
    """``max_age`` is how old the state may be, in seconds; for STALE only."""

    consistency: Consistency
    max_age: float


def encode_queries(packet: bytes, consistency: Consistency = Consistency.LINEARIZABLE, max_age: float = 0.0) -> bytes:
    """A packet of queries (`pack`) and how consistent their answers must be."""
    return _QUERY_HEADER.pack(consistency, max_age) + packet


def consistency_of(data: bytes) -> int | None:
    """A `Consistency`, or None for bytes that are no queries: what is looked at first, so without opening the rest."""
    return data[0] if len(data) >= _QUERY_HEADER.size else None


def query_header(data: bytes) -> QueryHeader:
    """Raises ValueError for bytes that are no queries."""
    try:
        consistency, max_age = _QUERY_HEADER.unpack_from(data)
    except struct.error as error:
        raise ValueError(str(error)) from error
    return QueryHeader(Consistency(consistency), max_age)


def query_packet(data: bytes) -> bytes:
    return data[_QUERY_HEADER.size :]


class CommandBatch(msgspec.Struct, frozen=True, array_like=True):
    """The data of one COMMAND entry: the leader's wall clock in milliseconds, and the requests in order."""

    time: int
    requests: list[bytes]


_batch_decoder = msgspec.msgpack.Decoder(CommandBatch)


def encode_batch(batch: CommandBatch) -> bytes:
    return _encoder.encode(batch)


def decode_batch(data: bytes) -> CommandBatch:
    return _batch_decoder.decode(data)


class Status(enum.IntEnum):
    """The first byte of every reply."""

    OK = 0  # the encoded results follow
    SESSION_EXPIRED = 1
    OUT_OF_ORDER = 2  # an earlier number of the session was not applied yet: send again
    NOT_LEADER = 3  # the hint of `decode_hint` follows; whether a command was logged is not known
    BUSY = 4  # nothing was done: send again later
    FAILED = 5  # the node can not serve; a message in UTF-8 follows
    REFUSED = 6  # an order that can not be carried out; the reason in UTF-8 follows
    TOO_STALE = 7  # this node's state may be older than the query allows: ask another one


def reply(status: Status, body: bytes = b"") -> bytes:
    return bytes((status,)) + body


def not_leader(leader: int, term: int) -> bytes:
    return reply(Status.NOT_LEADER, _HINT.pack(leader, term))


def decode_hint(body: bytes) -> tuple[int, int]:
    """(leader or 0, term) of a NOT_LEADER reply."""
    leader, term = _HINT.unpack(body)
    return leader, term
