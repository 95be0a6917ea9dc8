"""The points between two effects of one turn, where a process may end or stand still."""

from __future__ import annotations

import enum

NEVER = 1 << 62


class Crash(BaseException):
    """The process ends here. Not an Exception: the code under test must not catch it."""


class Effect(enum.Enum):
    WRITE = "write"
    TRUNCATE = "truncation"
    SYNC = "sync"
    COMPACT = "compaction"
    INSTALL = "installation of a snapshot"
    SAVE = "saving of a snapshot"
    RECEIVE = "reception of a snapshot"
    DISCARD = "removal of snapshots"
    RESTORE = "restoring of the machine"
    APPLY = "apply"
    SEND = "send"
    ANSWER = "answer"


# At hand: looking a member up in its class takes Python 3.11 a call.
WRITE, TRUNCATE, SYNC, COMPACT, INSTALL, SAVE, RECEIVE, DISCARD, RESTORE, APPLY, SEND, ANSWER = Effect


class Effects:
    """Counts the effects of one process, and the time they take.

    Everything a node does to the outside passes `point` before and after it. ``elapsed`` is how long the present
    turn has taken so far: what is sent later in the turn leaves later.
    """

    __slots__ = ("_armed", "_crash_at", "_crash_in", "_stall", "_stall_in", "elapsed")

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.calm()

    def calm(self) -> None:
        self._crash_in = self._stall_in = NEVER
        self._crash_at: Effect | None = None
        self._stall = 0.0
        self._armed = False

    def crash_after(self, count: int, kind: Effect | None = None) -> None:
        """End the process at the ``count``-th point from here; with ``kind``, only points of that kind count."""
        self._crash_in, self._crash_at, self._armed = count, kind, True

    def stall_after(self, count: int, seconds: float) -> None:
        self._stall_in, self._stall, self._armed = count, seconds, True

    def point(self, kind: Effect) -> None:
        if not self._armed:
            return
        if self._crash_at is None or self._crash_at is kind:
            self._crash_in -= 1
            if self._crash_in <= 0:
                raise Crash
        self._stall_in -= 1
        if self._stall_in == 0:
            self.elapsed += self._stall
