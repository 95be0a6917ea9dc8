"""Exactly once: which requests of which client were applied, and the replies that may be asked for again (thesis §6.3).

The table is part of the replicated state: every replica has the same one at the same index, and snapshots carry it.
"""

from __future__ import annotations

import hashlib
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any

import msgspec

from rayraft.machine.requests import RequestHeader, Status, reply

DEFAULT_TTL_MS = 3_600_000  # of a client that names none: part of the protocol, never a setting of one replica


class Session(msgspec.Struct, array_like=True):
    applied: int = 0  # the highest number applied; numbers are applied without gaps
    replies: dict[int, bytes] = msgspec.field(default_factory=dict)
    used: int = 0  # the log's time when it was opened or a request of it was applied last
    ttl: int = DEFAULT_TTL_MS
    confirmed: int = -1  # the highest number up to which the client has its replies; -1 in a table of an older version

    @property
    def deadline(self) -> int:
        """The last moment of the log's time at which it lives."""
        return self.used + self.ttl


class Dump(msgspec.Struct, array_like=True):
    time: int
    sessions: list[tuple[int, Session]]


class SessionTable:
    """The open sessions, least recently used first.

    1. A request is applied only if its number is one above the last applied of its session: once, and in order.
    2. The replies kept are those of numbers above what the client has confirmed, so a retry finds its first answer.
       Of more than ``max_reply_bytes`` in all, those of the session unused for the longest go, but never of the last.
    3. At most ``max_sessions`` exist; the one unused for the most commands goes first. Order of use comes from the
       log alone, never from a local clock, so every replica drops the same one.
    4. A session unused for longer than its time to live is gone. ``time`` (ms) and the time to live come from the log
       alone as well. ``_alarms`` has an alarm for each session, not after its deadline: no batch looks at them all.
    """

    __slots__ = ("_alarms", "_kept", "_kept_bytes", "_max_reply_bytes", "_max_sessions", "_sessions", "time")

    def __init__(self, max_sessions: int = 10_000, max_reply_bytes: int = 64 << 20) -> None:
        self._max_sessions = max_sessions
        self._max_reply_bytes = max_reply_bytes
        self._kept: dict[int, int] = {}  # bytes of the replies of sessions that have some, least recently used first
        self._kept_bytes = 0
        self._sessions: dict[int, Session] = {}
        self._alarms: list[tuple[int, int]] = []  # a heap of (time, session)
        self.time = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def advance(self, time: int) -> None:
        """The log's time goes on, never back; sessions that were idle for too long are gone."""
        self.time = max(self.time, time)
        while self._alarms and self._alarms[0][0] < self.time:
            session = self._alarms[0][1]
            known = self._sessions.get(session)
            if known is not None and known.deadline >= self.time:  # used since its alarm was set
                heapreplace(self._alarms, (known.deadline, session))
                continue
            heappop(self._alarms)
            self.close(session)

    def open(self, session: int, ttl: int = 0) -> None:
        """Start a session under an id that was never used (`session_id`).

        It lives for ``ttl`` ms of the log's time after its last use, 0 for `DEFAULT_TTL_MS`.
        """
        opened = self._sessions[session] = Session(used=self.time, ttl=ttl or DEFAULT_TTL_MS, confirmed=0)
        heappush(self._alarms, (opened.deadline, session))
        while len(self._sessions) > self._max_sessions:
            self.close(next(iter(self._sessions)))
        if len(self._alarms) > 2 * self._max_sessions:  # most are of sessions that had to go
            self._set_alarms()

    def close(self, session: int) -> bool:
        """Forget a session; whether it was known. Its alarm goes off in vain."""
        self._kept_bytes -= self._kept.pop(session, 0)
        return self._sessions.pop(session, None) is not None

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
        session.applied, session.used = header.number, self.time
        session.confirmed = max(session.confirmed, header.answered)
        replies = session.replies
        for number in [number for number in replies if number <= header.answered]:
            del replies[number]
        replies[header.number] = answer
        self._keep(header.session, session)

    def _keep(self, session: int, known: Session) -> None:
        """Account for its replies, the most recently used; others go where all are too much."""
        self._kept_bytes -= self._kept.pop(session, 0)
        size = self._kept[session] = _size(known)
        self._kept_bytes += size
        while self._kept_bytes > self._max_reply_bytes and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._kept_bytes -= self._kept.pop(oldest)
            self._sessions[oldest].replies.clear()

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(Dump(self.time, list(self._sessions.items())))

    def load(self, data: bytes) -> None:
        dump = msgspec.msgpack.decode(data, type=Dump)
        self.time, self._sessions = dump.time, dict(dump.sessions)
        self._kept, self._kept_bytes = {}, 0
        for session, known in dump.sessions:
            if known.confirmed < 0:
                known.confirmed = min(known.replies, default=known.applied + 1) - 1
            if known.replies:
                self._keep(session, known)
        self._set_alarms()

    def _set_alarms(self) -> None:
        self._alarms = [(known.deadline, session) for session, known in self._sessions.items()]
        heapify(self._alarms)

    def digest(self) -> bytes:
        """Of what the replicas agree on to the byte: which replies may be asked for, not what they are, or are kept.

        Equal results may pickle unlike, and to other sizes. Logs hold digests: another form would have every node that
        replays an older one take itself for wrong.
        """
        known = [
            (session, state.applied, list(range(state.confirmed + 1, state.applied + 1)), state.used, state.ttl)
            for session, state in self._sessions.items()
        ]
        return hashlib.blake2b(msgspec.msgpack.encode((self.time, known)), digest_size=16).digest()

    def check(self) -> None:
        assert len(self._sessions) <= self._max_sessions, "3: bounded"
        alarms = {session: time for time, session in self._alarms}
        kept = {number: _size(session) for number, session in self._sessions.items() if session.replies}
        assert list(kept.items()) == list(self._kept.items()), "2: what is kept is known, in order of use"
        assert sum(kept.values()) == self._kept_bytes, "2: and how much it is"
        assert self._kept_bytes <= self._max_reply_bytes or len(kept) == 1, "2: bounded"
        assert len(alarms) == len(self._alarms) <= 2 * self._max_sessions + 1, "4: one alarm each, bounded"
        for number, session in self._sessions.items():
            assert session.used <= self.time <= session.deadline, "4: none lives longer"
            assert alarms[number] <= session.deadline, "4: its alarm does not come too late"
            assert 0 <= session.confirmed <= session.applied, "2: what was answered is confirmed"
            numbers: list[Any] = sorted(session.replies)
            assert not numbers or numbers[0] == session.confirmed + 1, "2: what is not confirmed is kept, or nothing"
            assert not numbers or numbers[-1] == session.applied, "2: the last reply is kept"
            assert numbers == list(range(session.applied - len(numbers) + 1, session.applied + 1)), "2: without gaps"


def _size(session: Session) -> int:
    """Bytes of the replies that it keeps."""
    return sum(map(len, session.replies.values()))
