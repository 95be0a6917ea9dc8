"""What must never happen, in exact form, checked at the very effect that would break it. (n) is the design's number.

election safety          term -> leader is a function over the whole history
one vote per term        (node, term) -> vote is a function, across restarts
leader append-only       a leader never writes at or below an index that its log has
log matching             (index, term) -> (entry, term of the entry before it) is a function over all logs, so that by
                         induction equal index and term mean equal prefixes
leader completeness      a leader's log has every entry that was committed in an earlier term; those who may vote and
                         lack a committed entry are no quorum, so every quorum has a node with all that is committed
commit rule              a leader commits up to an entry of its own term, which a quorum holds in its synced images
terms                    a term begins with a candidate that votes for itself: nothing else makes a new one
configurations           the configuration a node goes by and the one before it overlap in every two quorums
state machine safety     every node applies the same entries in order without gaps, and gives the same replies
reference replay         replies and final state are those of `Model`, which shares no code with the machine
durable before ack       a message leaves only if the synced image implies the term, vote or entries it admits
monotonic                term, commit and applied index never go back; across restarts not below what was durable
linearizable reads       a read is answered from a state that includes all that was committed anywhere when it began
linearizable history     one order explains all that the clients were answered (looked at when a run ends)
exactly once             `Model` says it of every (session, number); the client's reply is the first one
snapshot                 a snapshot is of a committed index, and its state and sessions are those of the model there
damage                   a flipped bit or a torn record is found by its checksum, and no process starts on it
lost disk                nothing runs, and nothing leaves, but from the very disk that the node was founded on
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol

from rayraft.machine.requests import RequestKey
from rayraft.machine.sessions import SessionTable
from rayraft.raft.raft import Raft
from rayraft.raft.types import (
    NO_NODE,
    AnyMessage,
    AppendEntries,
    AppendResponse,
    Configuration,
    Entry,
    Heartbeat,
    InstallSnapshot,
    NodeId,
    RequestVote,
    SnapshotMeta,
    VoteResponse,
)
from rayraft.simulation.clock import Scheduler
from rayraft.simulation.configurations import is_quorum, overlap
from rayraft.simulation.disk import SimulatedLog
from rayraft.simulation.model import Model, Replies

_OF_LEADERS = (AppendEntries, Heartbeat, InstallSnapshot)


class InvariantViolated(AssertionError):
    """``name`` is one of the names at the top of this file; ``step`` and ``time`` are the simulator's."""

    def __init__(self, name: str, message: str, step: int, time: float) -> None:
        super().__init__(f"{name}: {message} (step {step}, {time:.4f} s)")
        self.name = name
        self.step = step
        self.time = time


class Subject(Protocol):
    """What is looked at in a node."""

    id: NodeId
    store: SimulatedLog
    spoilt: str

    @property
    def raft(self) -> Raft | None: ...


class Machine(Protocol):
    """What is looked at in a machine."""

    sessions: SessionTable

    def digest(self) -> bytes: ...
    def state(self) -> dict[str, Any]: ...


class Memory:
    """The last that was seen of one node."""

    __slots__ = ("applied", "commit", "configuration", "disk", "led", "match", "promised_term", "term")

    def __init__(self, disk: SimulatedLog) -> None:
        self.disk = disk  # the one it was founded on
        self.configuration = disk.snapshot().configuration
        self.term = self.commit = self.applied = 0
        self.led = 0  # the last term it led in
        self.match: dict[NodeId, int] = {}  # what it knew, as a leader, that the others hold
        self.promised_term = 0  # the highest term in a message or on the synced disk: it survives the process


class Invariants:
    """One observer of all nodes; every method raises InvariantViolated."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.model = Model()
        self.log: list[Entry] = []  # applied somewhere, in order
        self.leaders: dict[int, NodeId] = {}
        self.subjects: dict[NodeId, Subject] = {}
        self._scheduler = scheduler
        self._campaigns = {0}  # terms that somebody has stood for election in
        self._votes: dict[tuple[NodeId, int], NodeId] = {}
        self._entries: dict[tuple[int, int], tuple[Entry, int]] = {}
        self._committed: list[int] = []  # the term of each committed entry
        self._committed_in: list[int] = []  # the term in which it was committed
        self._replies: list[Replies] = []
        self._digests: dict[int, bytes] = {}
        self._memory: dict[NodeId, Memory] = {}

    def watch(self, subject: Subject) -> None:
        self.subjects[subject.id] = subject
        self._memory[subject.id] = Memory(subject.store)

    def fail(self, name: str, message: str) -> InvariantViolated:
        return InvariantViolated(name, message, self._scheduler.events, self._scheduler.now)

    @property
    def committed(self) -> int:
        """The highest commit index that any node has known."""
        return len(self._committed)

    # --- the disk -----------------------------------------------------------------------------------------------------

    def writing(self, log: SimulatedLog, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        first = entries[0].index
        raft = self.subjects[log.node].raft
        if raft is not None and raft.is_leader and first <= log.last_index():
            raise self.fail("leader append-only", f"leader {log.node} writes at {first}, its log ends at later")
        if first <= len(self._committed) and first <= log.last_index():
            self._cut(log, first)
        before = log.term(first - 1)
        for entry in entries:
            known = self._entries.setdefault((entry.index, entry.term), (entry, before))
            if known[1] != before or (known[0] is not entry and known[0] != entry):
                raise self.fail("log matching", f"node {log.node} has another {entry} after term {before} than {known}")
            before = entry.term

    def _cut(self, log: SimulatedLog, first: int) -> None:
        """A node that holds what is committed at ``first`` is about to drop it: the rest must be quorums enough."""
        if log.term(first) == self._committed[first - 1]:
            self._in_every_quorum(first, self._memory[log.node].configuration, without=log.node)

    def _in_every_quorum(self, index: int, configuration: Configuration, without: NodeId = NO_NODE) -> None:
        term = self._committed[index - 1]
        lacking = [
            node
            for node, subject in self.subjects.items()
            if not subject.spoilt and (node == without or not subject.store.holds(index, term))
        ]
        if is_quorum(configuration, lacking):
            raise self.fail("leader completeness", f"a quorum of {lacking} lacks entry {index}, which is committed")

    def synced(self, log: SimulatedLog) -> None:
        state, memory = log.durable, self._memory[log.node]
        if state.term < memory.promised_term:
            raise self.fail("monotonic", f"node {log.node} stores term {state.term} after {memory.promised_term}")
        memory.promised_term = state.term
        if state.vote != NO_NODE:
            self._vote(log.node, state.term, state.vote)

    def _vote(self, node: NodeId, term: int, vote: NodeId) -> None:
        known = self._votes.setdefault((node, term), vote)
        if known != vote:
            raise self.fail("one vote per term", f"node {node} votes for {known} and {vote} in term {term}")

    # --- messages -----------------------------------------------------------------------------------------------------

    def sending(self, log: SimulatedLog, message: AnyMessage) -> None:
        durable, src, term = log.durable, log.node, message.term
        if log is not self._memory[src].disk:
            raise self.fail("lost disk", f"{message} leaves from another disk than that of node {src}")
        pre_vote = False
        kind = type(message)
        if kind in _OF_LEADERS:
            if self.leaders.get(term) != src:
                self._leading(src, term)
        elif isinstance(message, AppendResponse):
            if message.success:
                self._acknowledging(log, message)
        elif isinstance(message, RequestVote):
            pre_vote = message.pre_vote
            if not pre_vote:
                self._campaigns.add(term)
                self._vote(src, term, src)
                if durable.term == term and durable.vote != src:
                    raise self.fail("durable before ack", f"candidate {src} of term {term} has stored {durable}")
        elif isinstance(message, VoteResponse):
            pre_vote = message.pre_vote
            if message.granted and not pre_vote:
                self._vote(src, term, message.dst)
                if durable.term == term and durable.vote != message.dst:
                    raise self.fail("durable before ack", f"{message} leaves, stored is {durable}")
        if not pre_vote and durable.term < term:
            raise self.fail("durable before ack", f"{message} leaves, the stored term is {durable.term}")

    def _acknowledging(self, log: SimulatedLog, message: AppendResponse) -> None:
        if message.index >= log.dirty_from or message.index > log.last_index():
            raise self.fail(
                "durable before ack",
                f"{message} leaves, synced is only what is below {min(log.dirty_from, log.last_index() + 1)}",
            )

    def _leading(self, node: NodeId, term: int) -> None:
        known = self.leaders.setdefault(term, node)
        if known != node:
            raise self.fail("election safety", f"nodes {known} and {node} both lead in term {term}")

    # --- one node after each turn -------------------------------------------------------------------------------------

    def started(self, node: NodeId) -> None:
        """A process has begun, from what its disk holds."""
        subject, memory = self.subjects[node], self._memory[node]
        raft = subject.raft
        assert raft is not None
        stored = subject.store
        if stored is not memory.disk:
            raise self.fail("lost disk", f"node {node} starts from a disk that it was not founded on")
        if raft.term < memory.promised_term:
            raise self.fail("monotonic", f"node {node} starts in term {raft.term} after {memory.promised_term}")
        least = max(stored.snapshot().index, min(stored.hard_state().commit, stored.last_index()))
        if raft.log.commit < least or raft.log.applied != stored.snapshot().index:
            raise self.fail("monotonic", f"node {node} starts with commit {raft.log.commit}, stored is {least}")
        if raft.log.applied != memory.applied:
            raise self.fail("snapshot", f"node {node} starts at {raft.log.applied}, machine is at {memory.applied}")
        memory.term, memory.commit = raft.term, raft.log.commit
        memory.match.clear()

    def turned(self, node: NodeId) -> bool:
        """Look at a node after a turn, or after the part of it that it lived; whether it has begun to lead."""
        raft = self.subjects[node].raft
        assert raft is not None
        memory = self._memory[node]
        if raft.term < memory.term or raft.log.commit < memory.commit:
            raise self.fail(
                "monotonic",
                f"node {node} went from term {memory.term}, commit {memory.commit} to {raft.term}, {raft.log.commit}",
            )
        if raft.term > memory.term:
            self._new_term(node, raft)
            memory.match.clear()
        memory.term = raft.term
        if raft.is_leader:
            self._match_grows(raft, memory)
        if raft.configuration is not memory.configuration:
            self._new_configuration(node, raft.configuration)
        news = raft.is_leader and memory.led != raft.term
        if news:
            memory.led = raft.term
            self._leading(node, raft.term)
            self._complete(raft, bisect_left(self._committed_in, raft.term))
        if raft.log.commit > memory.commit:
            self.committing(node)
        return news

    def _match_grows(self, raft: Raft, memory: Memory) -> None:
        known = memory.match
        for other, progress in raft.progress.items():
            if progress.match < known.get(other, 0):
                raise self.fail("monotonic", f"leader {raft.id} forgets that {other} holds {known[other]}")
            known[other] = progress.match

    def _new_term(self, node: NodeId, raft: Raft) -> None:
        if raft.vote == node:
            self._campaigns.add(raft.term)
        elif raft.term not in self._campaigns:
            raise self.fail("terms", f"node {node} is in term {raft.term}, in which nobody stood for election")

    def _new_configuration(self, node: NodeId, new: Configuration) -> None:
        memory = self._memory[node]
        if not overlap(memory.configuration, new):
            raise self.fail("configurations", f"node {node} goes from {memory.configuration} to {new}")
        memory.configuration = new

    def _complete(self, raft: Raft, upto: int) -> None:
        """By log matching it is enough to look at the last of them."""
        if upto and upto >= raft.log.first_index() - 1 and raft.log.term(upto) != self._committed[upto - 1]:
            raise self.fail(
                "leader completeness",
                f"leader {raft.id} of term {raft.term} lacks entry {upto} of term {self._committed[upto - 1]}",
            )

    def committing(self, node: NodeId) -> None:
        """A node's commit index has risen."""
        raft, memory = self.subjects[node].raft, self._memory[node]
        assert raft is not None
        index, known = raft.log.commit, len(self._committed)
        memory.commit = index
        term = raft.log.term(index)
        if term is None:
            raise self.fail("commit rule", f"node {node} commits {index}, which its log does not have")
        if index <= known:
            if self._committed[index - 1] != term:
                raise self.fail("state machine safety", f"node {node} commits another entry at {index}")
            return
        if raft.is_leader and term != raft.term:
            raise self.fail("commit rule", f"leader {node} of term {raft.term} commits {index} of term {term}")
        self._held_by_quorum(index, term, raft.configuration)
        for i in range(known + 1, index + 1):
            of_entry = raft.log.term(i)
            if of_entry is None:
                raise self.fail("snapshot", f"node {node} has a snapshot of {i}, which nobody committed")
            self._committed.append(of_entry)
            self._committed_in.append(term)
        self._in_every_quorum(index, raft.configuration)
        for other in self.subjects.values():
            if other.raft is not None and other.raft.is_leader and other.raft.term > term:
                self._complete(other.raft, index)

    def _held_by_quorum(self, index: int, term: int, configuration: Configuration) -> None:
        """A disk that was lost since counts as what it was when it acknowledged: it never votes again."""
        holders = [node for node, memory in self._memory.items() if memory.disk.holds(index, term)]
        if not is_quorum(configuration, holders):
            raise self.fail("commit rule", f"entry {index} of term {term} is committed, only {holders} hold it durably")

    # --- the machine --------------------------------------------------------------------------------------------------

    def applying(self, node: NodeId, entry: Entry) -> None:
        memory, raft = self._memory[node], self.subjects[node].raft
        assert raft is not None
        if raft.log.commit > memory.commit:
            self.committing(node)
        index = entry.index
        if index != memory.applied + 1:
            raise self.fail("state machine safety", f"node {node} applies {index} after {memory.applied}")
        if index > len(self._committed) or self._committed[index - 1] != entry.term:
            raise self.fail("state machine safety", f"node {node} applies {entry}, which is not committed")
        if index <= len(self.log):
            known = self.log[index - 1]
            if known is not entry and known != entry:
                raise self.fail("state machine safety", f"node {node} applies {entry}, another one applied {known}")

    def applied(self, node: NodeId, entry: Entry, replies: Replies) -> None:
        index = self._memory[node].applied = entry.index
        if index <= len(self.log):
            if self._replies[index - 1] != replies:
                raise self.fail("state machine safety", f"node {node} answers differently at {index}: {replies}")
            return
        self.log.append(entry)
        self._replies.append(replies)
        wrong = self.model.apply(entry, replies)
        if wrong:
            raise self.fail("exactly once", f"node {node} at {index}: {wrong}")

    def saved(self, node: NodeId, machine: Machine) -> None:
        index, digest = self._memory[node].applied, machine.digest()
        if index > len(self._committed):
            raise self.fail("snapshot", f"node {node} saves a snapshot of {index}, which is not committed")
        self._same_as_model(node, index, machine)
        if self._digests.setdefault(index, digest) != digest:
            raise self.fail("state machine safety", f"node {node} has another state at {index} than an earlier one had")

    def _same_as_model(self, node: NodeId, index: int, machine: Machine) -> None:
        state, sessions = self.model.history[index]
        if machine.state() != state or any(machine.sessions.applied(one) != number for one, number in sessions.items()):
            raise self.fail("snapshot", f"the state of node {node} at {index} is not that of a replay of the log")

    def restored(self, node: NodeId, snapshot: SnapshotMeta, machine: Machine) -> None:
        memory, digest = self._memory[node], machine.digest()
        if snapshot.index > len(self._committed):
            raise self.fail("snapshot", f"node {node} restores {snapshot}, which is not committed")
        self._same_as_model(node, snapshot.index, machine)
        if snapshot.index < memory.applied:
            raise self.fail("monotonic", f"node {node} goes back from {memory.applied} to snapshot {snapshot.index}")
        if self._digests.get(snapshot.index) != digest:
            raise self.fail("snapshot", f"node {node} restores another state at {snapshot.index} than was saved")
        memory.applied = snapshot.index

    def stopped(self, node: NodeId) -> None:
        """The process is gone, and with it the state of its machine."""
        self._memory[node].applied = 0

    # --- clients ------------------------------------------------------------------------------------------------------

    def read_answered(self, node: NodeId, began_at: int) -> None:
        applied = self._memory[node].applied
        if applied < began_at:
            raise self.fail(
                "linearizable reads", f"node {node} answers from {applied}, {began_at} was committed when it was asked"
            )

    def command_answered(self, node: NodeId, key: RequestKey, answer: bytes) -> None:
        """A node says OK to a numbered request."""
        if self.model.first_reply.get(key) != answer:
            raise self.fail("exactly once", f"node {node} answers {key} with {answer!r}, not with the first reply")

    def equal_states(self) -> None:
        """At the end of a run, when all nodes have applied the same."""
        for subject in self.subjects.values():
            if self._memory[subject.id].applied != len(self.log):
                raise self.fail("state machine safety", f"node {subject.id} has not applied all of the log")
