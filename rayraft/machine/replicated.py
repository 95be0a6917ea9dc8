"""What the log drives: a state machine together with the sessions of its clients."""

from __future__ import annotations

import hashlib
import struct
from typing import BinaryIO

import msgspec

from rayraft.machine.protocol import StateMachine
from rayraft.machine.recursion import make_room
from rayraft.machine.requests import (
    LAST,
    NEW_SESSION,
    RequestKey,
    Status,
    decode_batch,
    reply,
    request_header,
    request_packet,
    session_id,
)
from rayraft.machine.sessions import SessionTable
from rayraft.raft.types import Entry, EntryKind

_LENGTH = struct.Struct("<Q")


class ReplicatedMachine:
    """Applies entries in order of the log."""

    __slots__ = ("machine", "sessions")

    def __init__(self, machine: StateMachine, sessions: SessionTable | None = None) -> None:
        self.machine = machine
        self.sessions = SessionTable() if sessions is None else sessions

    @property
    def time(self) -> int:
        """The newest time in the log (ms), the same on every replica."""
        return self.sessions.time

    def apply(self, entry: Entry) -> list[tuple[RequestKey, bytes]]:
        """Apply one entry; the reply to each request in it."""
        if entry.kind is not EntryKind.COMMAND or not entry.data:  # a witness gets entries without their data
            return []
        batch = decode_batch(entry.data)
        self.sessions.advance(batch.time)
        make_room()
        return [self._apply_request(entry.index, place, request) for place, request in enumerate(batch.requests)]

    def _apply_request(self, index: int, place: int, request: bytes) -> tuple[RequestKey, bytes]:
        header = request_header(request)
        if header.session == NEW_SESSION:
            session = session_id(header.number, index, place)
            self.sessions.open(session, ttl=header.answered)
            return header.key, reply(Status.OK, session.to_bytes(8, "little"))
        if header.number == LAST:
            return header.key, reply(Status.OK if self.sessions.close(header.session) else Status.SESSION_EXPIRED)
        answer = self.sessions.answer(header)
        if answer is None:
            try:
                answer = reply(Status.OK, self.machine.apply(request_packet(request)))
            except msgspec.DecodeError as error:  # in the log it would end every node, at every restart
                answer = reply(Status.FAILED, f"a malformed request: {error}".encode())
            self.sessions.record(header, answer)
            answer += self.machine.take_places()
        return header.key, answer

    def save(self, stream: BinaryIO) -> None:
        sessions = self.sessions.dump()
        stream.write(_LENGTH.pack(len(sessions)))
        stream.write(sessions)
        self.machine.save(stream)

    def restore(self, stream: BinaryIO) -> None:
        (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
        self.sessions.load(stream.read(length))
        self.machine.restore(stream)

    def digest(self) -> bytes:
        """Of the state and of the sessions: both are replicated."""
        return hashlib.blake2b(self.sessions.digest() + self.machine.digest(), digest_size=16).digest()
