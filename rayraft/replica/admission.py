"""The leader's door: which requests may enter the log now, and who waits for which reply."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

from rayraft.machine.requests import LAST, NEW_SESSION, RequestHeader, RequestKey, Status, reply, request_header
from rayraft.machine.sessions import SessionTable

Answer: TypeAlias = Callable[[bytes], None]

MAX_EARLY = 64  # requests of one session that may wait for an earlier one: more than any client keeps in flight


class Admission:
    """Orders the requests of each session and remembers who waits.

    1. Requests of a session enter the log in the order of their numbers, each once in this leadership.
    2. Everyone who asked with a key gets the same reply, exactly once; after `refuse_all` nobody waits.
    3. What waits is bounded: `MAX_EARLY` requests out of turn per session.

    The table of applied sessions decides for good (`SessionTable`); this only spares the log what it would refuse.
    """

    def __init__(self, sessions: SessionTable) -> None:
        self._sessions = sessions
        self._waiting: dict[RequestKey, list[Answer]] = {}
        self._proposed: dict[int, int] = {}  # session -> the highest number given to the log in this leadership
        self._early: dict[int, dict[int, tuple[bytes, Answer]]] = {}

    @property
    def open_requests(self) -> int:
        return len(self._waiting)

    def admit(self, request: bytes, answer: Answer) -> list[bytes]:
        """The requests that may enter the log now, in order: this one if it is next, and those that waited for it."""
        try:
            header = request_header(request)
        except struct.error:
            answer(reply(Status.FAILED, b"a malformed request"))
            return []
        waiting = self._waiting.get(header.key)
        if waiting is not None:  # a retry of what is on its way
            waiting.append(answer)
            return []
        last = self._last_number(header.session)
        if header.session == NEW_SESSION or header.number == LAST or last is None:
            # Only the log can say that a session is gone: a leader deposed unawares does not know the newest ones.
            self._waiting[header.key] = [answer]
            return [request]
        if header.number <= last:
            answer(self._sessions.answer(header) or reply(Status.BUSY))
            return []
        if header.number > last + 1:
            self._hold(header, request, answer)
            return []
        return self._enter(header, request, answer)

    def _last_number(self, session: int) -> int | None:
        """The highest number known to be in the log. A session's numbers are only ever appended in order."""
        applied = self._sessions.applied(session)
        return None if applied is None else max(applied, self._proposed.get(session, 0))

    def _hold(self, header: RequestHeader, request: bytes, answer: Answer) -> None:
        early = self._early.setdefault(header.session, {})
        if len(early) >= MAX_EARLY:
            answer(reply(Status.BUSY))
            return
        replaced = early.get(header.number)
        if replaced is not None:
            replaced[1](reply(Status.BUSY))
        early[header.number] = (request, answer)

    def _enter(self, header: RequestHeader, request: bytes, answer: Answer) -> list[bytes]:
        session, number = header.key
        admitted = [request]
        self._waiting[header.key] = [answer]
        early = self._early.get(session)
        while early and number + 1 in early:
            number += 1
            request, answer = early.pop(number)
            self._waiting[session, number] = [answer]
            admitted.append(request)
        if early is not None and not early:
            del self._early[session]
        self._proposed[session] = number
        return admitted

    def answered(self, key: RequestKey, data: bytes) -> None:
        """A request was applied; tell those who wait for it, if any do here."""
        for answer in self._waiting.pop(key, ()):
            answer(data)

    def refuse_all(self, data: bytes) -> None:
        """Leadership is gone (or has just begun): whoever waits must ask again."""
        waiting, early = self._waiting, self._early
        self._waiting, self._early, self._proposed = {}, {}, {}
        for answers in waiting.values():
            for answer in answers:
                answer(data)
        for held in early.values():
            for _, answer in held.values():
                answer(data)

    def prune(self) -> None:
        """Forget the numbers of sessions that have nothing under way; the table of applied requests knows them.

        What waits out of turn in a session that is gone is sent back.
        """
        done = [
            session for session, number in self._proposed.items() if self._sessions.applied(session) in (None, number)
        ]
        for session in done:
            del self._proposed[session]
        gone = [session for session in self._early if self._sessions.applied(session) is None]
        for _, answer in [held for session in gone for held in self._early.pop(session).values()]:
            answer(reply(Status.BUSY))
