"""ReadIndex: linearizable reads without a log entry (thesis §6.4).

A read is safe at index ``i`` once a quorum has confirmed, after the read arrived, that the leader still leads and
``i`` was its commit index then. Reads that arrive together share one round of confirmations.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from rayraft.raft.types import NodeId

FOREVER = float("inf")


class ReadState(msgspec.Struct, frozen=True):
    """The reads ``tokens`` may be answered from any state at or after ``index``."""

    index: int
    tokens: list[Any]


class RemoteRead(msgspec.Struct, frozen=True):
    """The token of a follower's request at the leader."""

    node: NodeId
    id: int


class ReadRound(msgspec.Struct):
    id: int
    index: int
    tokens: list[Any]


class ReadRounds:
    """The reads that wait for confirmation.

    1. A read joins the next round, never one whose heartbeats already left.
    2. Round ids ascend; confirming a round confirms every earlier one.
    3. At most ``max_open`` rounds are under way, so that under load many reads share each of them.
    """

    __slots__ = ("_last_id", "_max_open", "_open", "_waiting")

    def __init__(self, max_open: int = 2) -> None:
        self._max_open = max_open
        self._waiting: list[Any] = []
        self._open: deque[ReadRound] = deque()
        self._last_id = 0

    def add(self, token: Any) -> None:
        self._waiting.append(token)

    @property
    def waiting(self) -> bool:
        """Whether there are reads that have joined no round yet."""
        return bool(self._waiting)

    def begin(self, commit: int) -> int | None:
        """Open a round at ``commit`` for the waiting reads, if there are any and a round may start: its id."""
        if not self._waiting or len(self._open) >= self._max_open:
            return None
        self._last_id += 1
        self._open.append(ReadRound(self._last_id, commit, self._waiting))
        self._waiting = []
        return self._last_id

    @property
    def pending_id(self) -> int:
        """The newest round that is not confirmed; heartbeats repeat it, so that a lost one delays but never hangs."""
        return self._open[-1].id if self._open else 0

    def confirm(self, upto: int) -> list[ReadState]:
        """A quorum has confirmed every round up to ``upto``."""
        confirmed = []
        while self._open and self._open[0].id <= upto:
            round_ = self._open.popleft()
            confirmed.append(ReadState(round_.index, round_.tokens))
        return confirmed

    def drop_all(self) -> list[Any]:
        """Leadership is gone: the tokens of every read that can no longer be confirmed here."""
        tokens = [token for round_ in self._open for token in round_.tokens] + self._waiting
        self._open.clear()
        self._waiting = []
        return tokens

    def check(self) -> None:
        ids = [round_.id for round_ in self._open]
        assert ids == sorted(ids), "2: ids ascend"
        assert len(ids) <= self._max_open, "3: bounded"


class ForwardedReads:
    """A follower's reads, whose index the leader gives.

    1. A read waits for the answer to a request that left after it arrived.
    2. One request is under way at a time, and is repeated until it is answered; reads that arrive meanwhile share the
       next one.
    """

    __slots__ = ("_asked", "_last_id", "_waiting", "repeat_at")

    def __init__(self, first_id: int) -> None:
        """``first_id`` is above every id that an earlier process of this node may have used."""
        self._last_id = first_id
        self._waiting: list[Any] = []
        self._asked: list[Any] = []
        self.repeat_at = FOREVER

    def add(self, token: Any) -> None:
        self._waiting.append(token)

    def request(self, now: float, patience: float) -> int | None:
        """The id of a request that is to leave now: a new one, or one that got no answer for ``patience`` seconds."""
        if self._asked:
            if now < self.repeat_at:
                return None
        elif self._waiting:
            self._asked, self._waiting = self._waiting, []
            self._last_id += 1
        else:
            return None
        self.repeat_at = now + patience
        return self._last_id

    def answered(self, id: int, index: int) -> ReadState | None:
        if id != self._last_id or not self._asked:
            return None  # a repeated answer
        tokens, self._asked, self.repeat_at = self._asked, [], FOREVER
        return ReadState(index, tokens)

    def drop_all(self) -> list[Any]:
        """The leader is gone: the tokens of every read that waits."""
        tokens, self._asked, self._waiting, self.repeat_at = self._asked + self._waiting, [], [], FOREVER
        return tokens
