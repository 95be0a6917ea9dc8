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
configurations           (8) the newest configuration in a log is in force; each overlaps the one before it in every
                         two quorums, and follows when that one and an entry of its leader's term are committed. Who
                         forms a quorum is found by counting voters, and nobody else
witness                  a witness stores no data, never leads and never applies
removed nodes            no member that knows of a removal takes a term over from the node that was removed
state machine safety     every node applies the same entries in order without gaps, and gives the same replies
reference replay         replies and final state are those of `Model`, which shares no code with the machine
durable before ack       a message leaves only if the synced image implies the term, vote or entries it admits
monotonic                term, commit and applied index never go back; across restarts not below what was durable
linearizable reads       a read is answered from a state that includes all that was committed anywhere when it began:
                         on the leader's word, on that of its lease, or by a follower
stale reads              a stale read is the value at an index that covers all that was committed ``max_age`` before
lease                    while a leader may serve by its lease, no leader of a later term exists
linearizable history     one order explains all that the clients were answered (looked at when a run ends)
exactly once             `Model` says it of every (session, number); the client's reply is the first one; a session
                         expires by the time in the log alone
snapshot                 a snapshot is of a committed index, and its state and sessions are those of the model there
damage                   a flipped bit or a torn record is found by its checksum, and no process starts on it
lost disk                nothing runs, and nothing leaves, but from the very disk that the node was founded on
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

from rayraft.machine.calls import decode_call, decode_results, unwrap
from rayraft.machine.requests import Consistency, RequestKey, query_packet, unpack
from rayraft.machine.sessions import SessionTable
from rayraft.raft.membership import decode_configuration
from rayraft.raft.raft import Raft
from rayraft.raft.types import (
    NO_NODE,
    AnyMessage,
    AppendEntries,
    AppendResponse,
    Configuration,
    Entry,
    EntryKind,
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
    witness: bool

    @property
    def raft(self) -> Raft | None: ...

    def clock_now(self) -> float: ...


class Machine(Protocol):
    """What is looked at in a machine."""

    sessions: SessionTable

    def digest(self) -> bytes: ...
    def state(self) -> dict[str, Any]: ...


class Memory:
    """The last that was seen of one node."""

    __slots__ = (
        "applied",
        "commit",
        "configuration",
        "disk",
        "leading",
        "led",
        "match",
        "promised_term",
        "settled",
        "term",
    )

    def __init__(self, disk: SimulatedLog) -> None:
        self.disk = disk  # the one it was founded on
        self.configuration = disk.snapshot().configuration
        self.settled = self.configuration  # the newest that is committed
        self.term = self.commit = self.applied = 0
        self.led = 0  # the last term it led in
        self.leading = 0  # the term it led in when its last turn ended
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
        self._configurations: list[tuple[int, Configuration]] = []  # committed ones, by their indexes
        self._campaigns: dict[int, set[NodeId]] = {0: set()}  # who has stood for election in each term
        self._spread = {0}  # terms that a node has rightly taken over from a candidate
        self._committed_at: list[float] = []  # when each entry was
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
        if not self._configurations:
            self._configurations.append((0, subject.store.snapshot().configuration))

    def fail(self, name: str, message: str) -> InvariantViolated:
        return InvariantViolated(name, message, self._scheduler.events, self._scheduler.now)

    @property
    def configuration(self) -> Configuration:
        """The newest that is committed anywhere."""
        return self._configurations[-1][1]

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
        witness = self.subjects[log.node].witness
        before = log.term(first - 1)
        for entry in entries:
            if witness:
                self._at_witness(log.node, entry)
                before = entry.term
                continue
            if entry.kind is EntryKind.CONFIGURATION and raft is not None and raft.is_leader:
                self._changing(raft, entry)
            known = self._entries.setdefault((entry.index, entry.term), (entry, before))
            if known[1] != before or (known[0] is not entry and known[0] != entry):
                raise self.fail("log matching", f"node {log.node} has another {entry} after term {before} than {known}")
            before = entry.term

    def _at_witness(self, node: NodeId, entry: Entry) -> None:
        if entry.data and entry.kind is not EntryKind.CONFIGURATION:
            raise self.fail("witness", f"witness {node} stores the data of {entry}")
        known = self._entries.get((entry.index, entry.term))
        if known is None or known[0].kind is not entry.kind:
            raise self.fail("witness", f"witness {node} stores {entry}, which no full node has written")

    def _changing(self, raft: Raft, entry: Entry) -> None:
        """A leader writes a configuration: (8) the one before it is committed, and overlaps; so is its own term."""
        if entry.term != raft.term:
            return
        known = raft.log.configurations
        before = [index for index in known.indexes if index < entry.index][-1]
        if before > raft.log.commit or raft.log.term(raft.log.commit) not in (None, raft.term):
            raise self.fail(
                "configurations",
                f"leader {raft.id} changes the members at {entry.index}; the change at {before} and all of its term are"
                f" committed only up to {raft.log.commit}",
            )
        if not overlap(known.at(before), decode_configuration(entry.data)):
            raise self.fail("configurations", f"leader {raft.id} goes from {known.at(before)} to {entry}")

    def _cut(self, log: SimulatedLog, first: int) -> None:
        """A node that holds what is committed at ``first`` is about to drop it: the rest must be quorums enough."""
        if log.term(first) == self._committed[first - 1]:
            self._in_every_quorum(first, self.configuration, without=log.node)

    def _in_every_quorum(self, index: int, configuration: Configuration, without: NodeId = NO_NODE) -> None:
        term = self._committed[index - 1]
        lacking = [
            node
            for node, subject in self.subjects.items()
            if not subject.spoilt and (node == without or not subject.store.holds(index, term))
        ]
        if is_quorum(configuration, lacking):
            raise self.fail("leader completeness", f"a quorum of {lacking} lacks entry {index}, which is committed")

    def kept(self, log: SimulatedLog, snapshot: SnapshotMeta) -> None:
        """A snapshot takes the place of entries: it must say who the members are at its index."""
        expected = next(one for index, one in reversed(self._configurations) if index <= snapshot.index)
        if snapshot.configuration != expected:
            raise self.fail("configurations", f"node {log.node} keeps {snapshot}, the members there are {expected}")

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
                self._campaigns.setdefault(term, set()).add(src)
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
        if self.subjects[node].witness:
            raise self.fail("witness", f"witness {node} leads in term {term}")
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
        memory.settled = raft.log.configurations.at(raft.log.commit)  # it may have forgotten what it knew committed
        memory.match.clear()
        self._in_force(raft, memory)

    def turned(self, node: NodeId, *, whole: bool = True) -> bool:
        """Look at a node after a turn, or after the part of it that it lived; whether it has begun to lead."""
        raft, memory = self.subjects[node].raft, self._memory[node]
        assert raft is not None
        term, log, leads = raft.term, raft.log, raft.is_leader
        if term < memory.term or log.commit < memory.commit:
            raise self.fail(
                "monotonic",
                f"node {node} went from term {memory.term}, commit {memory.commit} to {term}, {log.commit}",
            )
        if term > memory.term:
            self._new_term(node, raft, memory)
            memory.match.clear()
        memory.term = term
        configuration = raft.configuration
        if configuration is not memory.configuration and whole:
            self._in_force(raft, memory)
        news = leads and memory.led != term
        if leads:
            self._leads(node, raft, memory, news=news, whole=whole)
        if log.commit > memory.commit:
            self.committing(node)
        memory.settled = log.configurations.at(log.commit)
        memory.leading = term if leads else 0
        return news

    def _leads(self, node: NodeId, raft: Raft, memory: Memory, *, news: bool, whole: bool) -> None:
        self._match_grows(raft, memory)
        if news:
            memory.led = raft.term
            self._leading(node, raft.term)
            if node not in raft.configuration.all_voters() | raft.log.configurations.at(raft.log.commit).all_voters():
                raise self.fail("configurations", f"node {node} leads in term {raft.term}, and is no voter")
            self._complete(raft, bisect_left(self._committed_in, raft.term))
        if raft.config.max_clock_drift is not None:
            self._lease(node, raft, news=news, whole=whole)

    def _lease(self, node: NodeId, raft: Raft, *, news: bool, whole: bool) -> None:
        superseded = whole and raft.term < max(self.leaders)  # who dies in a turn may not have heard what time it is
        if superseded and raft.leading is not None and raft.leading.holds_lease(raft.now):
            raise self.fail("lease", f"leader {node} of term {raft.term} may serve, {max(self.leaders)} is led already")
        if news:
            for other, subject in self.subjects.items():
                old = subject.raft
                if old is not None and old.term < raft.term and holds_lease(old, subject.clock_now()):
                    raise self.fail("lease", f"node {node} leads in term {raft.term}, {other} may serve in {old.term}")

    def _match_grows(self, raft: Raft, memory: Memory) -> None:
        known = memory.match
        for other, progress in raft.progress.items():
            match, before = progress.match, known.get(other, 0)
            if match < before:
                raise self.fail("monotonic", f"leader {raft.id} forgets that {other} holds {before}")
            known[other] = match

    def _new_term(self, node: NodeId, raft: Raft, memory: Memory) -> None:
        term = raft.term
        if raft.vote == node:
            self._campaigns.setdefault(term, set()).add(node)
            return
        candidates = self._campaigns.get(term)
        if candidates is None:
            raise self.fail("terms", f"node {node} is in term {term}, in which nobody stood for election")
        if term not in self._spread:
            if all(is_outcast(candidate, memory.settled) for candidate in candidates):
                raise self.fail("removed nodes", f"node {node} takes term {term} over from {candidates}, who are gone")
            self._spread.add(term)

    def _in_force(self, raft: Raft, memory: Memory) -> None:
        """A node goes by another configuration: it must be the newest one on its disk."""
        store = self.subjects[raft.id].store
        indexes = store.configuration_indexes()
        newest = store.snapshot().configuration
        if indexes:
            newest = decode_configuration(store.entries(indexes[-1], indexes[-1] + 1, 0)[0].data)
        if raft.configuration != newest:
            raise self.fail("configurations", f"node {raft.id} goes by {raft.configuration}, stored is {newest}")
        memory.configuration = raft.configuration

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
        # One turn may commit, hear of a later term and, where one vote is enough, lead again.
        if raft.is_leader and term not in (raft.term, memory.leading):
            raise self.fail("commit rule", f"leader {node} of term {raft.term} commits {index} of term {term}")
        configuration = self._held_by_quorum(index, term, raft)
        for i in range(known + 1, index + 1):
            of_entry = raft.log.term(i)
            if of_entry is None:
                raise self.fail("snapshot", f"node {node} has a snapshot of {i}, which nobody committed")
            self._committed.append(of_entry)
            self._committed_in.append(term)
            self._committed_at.append(self._scheduler.now)
            entry = self._entries[i, of_entry][0]
            if entry.kind is EntryKind.CONFIGURATION:
                self._configurations.append((i, decode_configuration(entry.data)))
        self._in_every_quorum(index, configuration)
        for other in self.subjects.values():
            if other.raft is not None and other.raft.is_leader and other.raft.term > term:
                self._complete(other.raft, index)

    def _held_by_quorum(self, index: int, term: int, raft: Raft) -> Configuration:
        """By the configuration at ``index``, or a later one of that log; which of them is returned.

        A disk that was lost since counts as what it was when it acknowledged: it never votes again.
        """
        holders = [node for node, memory in self._memory.items() if memory.disk.holds(index, term)]
        known = raft.log.configurations
        for configuration in (known.at(index), *(known.at(later) for later in known.indexes if later > index)):
            if is_quorum(configuration, holders):
                return configuration
        raise self.fail("commit rule", f"entry {index} of term {term} is committed, only {holders} hold it durably")

    # --- the machine --------------------------------------------------------------------------------------------------

    def applying(self, node: NodeId, entry: Entry) -> None:
        memory, raft = self._memory[node], self.subjects[node].raft
        assert raft is not None
        if raft.log.commit > memory.commit:
            self.committing(node)
        index = entry.index
        if self.subjects[node].witness:
            if entry.data and entry.kind is EntryKind.COMMAND:
                raise self.fail("witness", f"witness {node} applies {entry}")
            memory.applied = max(memory.applied, memory.disk.snapshot().index)
        if index != memory.applied + 1:
            raise self.fail("state machine safety", f"node {node} applies {index} after {memory.applied}")
        if index > len(self._committed) or self._committed[index - 1] != entry.term:
            raise self.fail("state machine safety", f"node {node} applies {entry}, which is not committed")
        if index <= len(self.log):
            known = self.log[index - 1]
            if known is not entry and known != entry and not self.subjects[node].witness:
                raise self.fail("state machine safety", f"node {node} applies {entry}, another one applied {known}")

    def applied(self, node: NodeId, entry: Entry, replies: Replies) -> None:
        index = self._memory[node].applied = entry.index
        if self.subjects[node].witness:
            if replies:
                raise self.fail("witness", f"witness {node} answers {replies}")
            return
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
        if self.subjects[node].witness:
            if machine.state():
                raise self.fail("witness", f"witness {node} has the state {machine.state()}")
            return
        self._same_as_model(node, index, machine)
        if self._digests.setdefault(index, digest) != digest:
            raise self.fail("state machine safety", f"node {node} has another state at {index} than an earlier one had")

    def _same_as_model(self, node: NodeId, index: int, machine: Machine) -> None:
        state, sessions = self.model.history[index]
        table = machine.sessions
        if (
            machine.state() != state
            or len(table) != len(sessions)
            or any(table.applied(one) != number for one, number in sessions.items())
        ):
            raise self.fail("snapshot", f"the state of node {node} at {index} is not that of a replay of the log")

    def restored(self, node: NodeId, snapshot: SnapshotMeta, machine: Machine) -> None:
        memory, digest = self._memory[node], machine.digest()
        if snapshot.index > len(self._committed):
            raise self.fail("snapshot", f"node {node} restores {snapshot}, which is not committed")
        if self.subjects[node].witness:
            memory.applied = snapshot.index
            return
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

    def committed_by(self, time: float) -> int:
        """The highest index that was committed anywhere by then."""
        return bisect_right(self._committed_at, time)

    def read_answered(self, node: NodeId, how: Consistency, least: int, queries: bytes, answer: bytes) -> None:
        """``least`` is what the state must include; what was asked and answered is in the machine's own form."""
        name = "stale reads" if how is Consistency.STALE else "linearizable reads"
        applied = self._memory[node].applied
        if applied < least:
            raise self.fail(name, f"node {node} answers ({how.name}) from {applied}, it must include {least}")
        state, _ = self.model.history[applied]
        expected = [state.get(*decode_call(call)[1]) for call in unpack(query_packet(queries))]
        given = [unwrap(result) for result in decode_results(answer[1:])]
        if given != expected:
            raise self.fail(name, f"node {node} answers {given} at {applied}, not {expected}")

    def command_answered(self, node: NodeId, key: RequestKey, answer: bytes) -> None:
        """A node says OK to a numbered request."""
        if self.model.first_reply.get(key) != answer:
            raise self.fail("exactly once", f"node {node} answers {key} with {answer!r}, not with the first reply")


def holds_lease(raft: Raft, now: float) -> bool:
    """Whether it would serve a read on the word of its clock, which shows ``now``."""
    leading = raft.leading
    return (
        leading is not None
        and leading.established
        and not leading.lease_void
        and now < leading.lease_start() + raft.config.lease_duration
    )


def is_outcast(node: NodeId, configuration: Configuration) -> bool:
    """Whether ``node`` was a member once and is none by ``configuration``: ids ascend and do not come back."""
    return node <= configuration.highest_id and node not in set(configuration.members())
