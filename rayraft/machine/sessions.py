"""Exactly once: which requests of which client were applied, and the replies that may be asked for again (thesis §6.3).

The table is part of the replicated state: every replica has the same one at the same index, and snapshots carry it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from rayraft.machine.requests import RequestHeader, Status, reply


class Session(msgspec.Struct, array_like=True):
    applied: int = 0  # the highest number applied; numbers are applied without gaps
    replies: dict[int, bytes] = msgspec.field(default_factory=dict)


class SessionTable:
    """The open sessions, least recently used first.

    1. A request is applied only if its number is one above the last applied of its session: once, and in order.
    2. The replies kept are those of numbers above what the client has confirmed, so a retry finds its first answer.
    3. At most ``max_sessions`` exist; the one unused for the most commands goes first. Order of use comes from the
       log alone, never from a local clock, so every replica drops the same one.
    """

    __slots__ = ("_max_sessions", "_sessions")

    def __init__(self, max_sessions: int = 10_000) -> None:
        self._max_sessions = max_sessions
        self._sessions: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, session: int) -> None:
        """Start a session under an id that was never used: the caller takes it from the log's index."""
        self._sessions[session] = Session()
        while len(self._sessions) > self._max_sessions:
            del self._sessions[next(iter(self._sessions))]

    def applied(self, session: int) -> int | None:
        """The highest applied number of a session; None when it is not known (any more)."""
        known = self._sessions.get(session)
        return None if known is None else known.applied

    def answer(self, header: RequestHeader) -> bytes | None:
        """The reply when the request must not be applied; None when it is the next one of its session."""
        known = self._sessions.get(header.session)
        if known is None:
            return reply(Status.SESSION_EXPIRED)
        if header.number == known.applied + 1:
            return None
        if header.number > known.applied:
            return reply(Status.OUT_OF_ORDER)
        # A number whose reply is gone was confirmed by the client: this copy is late, nobody waits for it.
        return known.replies.get(header.number) or reply(Status.SESSION_EXPIRED)

    def record(self, header: RequestHeader, answer: bytes) -> None:
        """The request was applied with this answer; forget those that the client has confirmed."""
        session = self._sessions.pop(header.session)
        self._sessions[header.session] = session  # the most recently used is last
        session.applied = header.number
        replies = session.replies
        for number in [number for number in replies if number <= header.answered]:
            del replies[number]
        replies[header.number] = answer

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(list(self._sessions.items()))

    def load(self, data: bytes) -> None:
        self._sessions = dict(msgspec.msgpack.decode(data, type=list[tuple[int, Session]]))

    def digest(self) -> bytes:
        """Of what the replicas agree on to the byte. Of a reply that is its number: equal results may pickle unlike."""
        known = [(session, state.applied, sorted(state.replies)) for session, state in self._sessions.items()]
        return hashlib.blake2b(msgspec.msgpack.encode(known), digest_size=16).digest()

    def check(self) -> None:
        assert len(self._sessions) <= self._max_sessions, "3: bounded"
        for session in self._sessions.values():
            numbers: list[Any] = sorted(session.replies)
            assert not numbers or numbers[-1] == session.applied, "2: the last reply is kept"
            assert numbers == list(range(session.applied - len(numbers) + 1, session.applied + 1)), "2: without gaps"
