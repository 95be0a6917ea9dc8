"""Reads on their way through a replica: from the inbox to the core, and from there to the machine (thesis §6.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import (
    Consistency,
    Status,
    consistency_of,
    not_leader,
    query_header,
    query_packet,
    reply,
)
from rayraft.raft.raft import Raft
from rayraft.raft.reads import ReadState
from rayraft.raft.ready import NotLeader
from rayraft.replica.admission import Answer


@dataclass(slots=True, eq=False)
class PendingRead:
    queries: bytes
    answer: Answer


class Reading:
    """The reads that wait for an answer.

    1. Each is answered exactly once.
    2. A read is answered from a state at or after the index at which the core confirmed it; a stale read from one
       that is no older than its caller allows.
    """

    def __init__(self, raft: Raft, machine: ReplicatedMachine) -> None:
        self._raft = raft
        self._machine = machine
        self._arrived: list[PendingRead] = []
        self._confirmed: list[ReadState] = []  # at an index that may not be applied yet
        self._open: dict[PendingRead, None] = {}  # all that wait, here or in the core, in order
        self.answered = 0

    def at_once(self, queries: bytes, now: float) -> bytes | None:
        """The answer where there is nothing to wait for; None: `take` it."""
        kind = consistency_of(queries)
        if kind == Consistency.LEASE:
            ready = self._raft.may_read(now)
        else:
            ready = kind == Consistency.STALE and now - self._raft.fresh_as_of <= query_header(queries).max_age
        return self._run(queries) if ready else None

    def take(self, queries: bytes, answer: Answer) -> None:
        pending = PendingRead(queries, answer)
        self._open[pending] = None
        self._arrived.append(pending)

    def begin(self) -> None:
        """Hand what has arrived to the core; stale reads need nothing of it."""
        if not self._arrived:
            return
        arrived, self._arrived = self._arrived, []
        ways: dict[Consistency, Callable[[PendingRead], None]] = {
            Consistency.LINEARIZABLE: self._raft.read_index,
            Consistency.LEASE: self._raft.lease_read,
            Consistency.FOLLOWER: self._raft.follower_read,
        }
        for pending in arrived:
            try:
                header = query_header(pending.queries)
                if header.consistency is Consistency.STALE:
                    self._answer_stale(pending)
                else:
                    ways[header.consistency](pending)
            except NotLeader as error:
                self._answer(pending, not_leader(error.leader, self._raft.term))
            except ValueError as error:
                self._answer(pending, reply(Status.FAILED, f"malformed queries: {error}".encode()))

    def _answer_stale(self, pending: PendingRead) -> None:
        self._answer(pending, self.at_once(pending.queries, self._raft.now) or reply(Status.TOO_STALE))

    def confirmed(self, states: list[ReadState]) -> None:
        self._confirmed += states

    def refused(self, tokens: list[PendingRead]) -> None:
        for pending in tokens:
            self._answer(pending, not_leader(self._raft.leader, self._raft.term))

    def answer_ready(self) -> None:
        """Run the reads whose index the machine has reached."""
        if not self._confirmed:
            return
        applied = self._raft.log.applied
        waiting = self._confirmed
        self._confirmed = [state for state in waiting if state.index > applied]
        for state in waiting:
            if state.index <= applied:
                for pending in state.tokens:
                    self._answer(pending, self._run(pending.queries))

    def _run(self, queries: bytes) -> bytes:
        raft = self._raft
        if raft.is_witness or (raft.removed and not raft.is_leader):  # a witness may learn late that it is one
            return reply(Status.FAILED, b"this node stores no data: ask another one")
        self.answered += 1
        try:
            return reply(Status.OK, self._machine.machine.query(query_packet(queries)))
        except msgspec.DecodeError as error:
            return reply(Status.FAILED, f"malformed queries: {error}".encode())

    def _answer(self, pending: PendingRead, data: bytes) -> None:
        if pending in self._open:  # else it was refused while the core still had it
            del self._open[pending]
            pending.answer(data)

    def refuse_all(self, data: bytes) -> None:
        self._arrived, self._confirmed = [], []
        for pending in list(self._open):
            self._answer(pending, data)
