"""A cluster of our cores that takes the commands of the reference library's interaction scenarios.

Real `Raft` cores over memory stores, a network that is a list, and a clock for each node that only the tick commands
move. Every command is answered with a `Record` of what happened, in the notation of `tests.reference_output`.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rayraft.raft.membership import ChangeRefused, decode_configuration
from rayraft.raft.progress import Progress, ProgressState
from rayraft.raft.raft import Raft
from rayraft.raft.ready import Joint, NotLeader, ProposalRefused, RaftConfig, Ready, Role
from rayraft.raft.types import (
    AnyMessage,
    AppendEntries,
    AppendResponse,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    NodeId,
    RequestVote,
    SnapshotMeta,
    VoteResponse,
)
from rayraft.storage.memory import MemoryLogStore
from tests import reference_output, scenarios
from tests.reference_output import Aspect, Item, LogEntry, Record
from tests.scenarios import ScenarioError, Stanza

TICK = 1.0
ELECTION_TICKS = 3
MANY = 1 << 40
ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}


# --- the core in the notation of `reference_output` -------------------------------------------------------------------


def log_entry(entry: Entry) -> LogEntry:
    text = "conf" if entry.kind is EntryKind.CONFIGURATION else f'"{entry.data.decode()}"'
    return LogEntry(entry.term, entry.index, text)


def configuration_text(c: Configuration) -> str:
    return reference_output.configuration_text(c.voters, c.outgoing, c.learners, c.learners_next, c.auto_leave)


def snapshot_text(snapshot: SnapshotMeta) -> str:
    return reference_output.snapshot_text(snapshot.index, snapshot.term, configuration_text(snapshot.configuration))


def kind_of(message: AnyMessage) -> str:
    match message:
        case RequestVote():
            return "MsgPreVote" if message.pre_vote else "MsgVote"
        case VoteResponse():
            return "MsgPreVoteResp" if message.pre_vote else "MsgVoteResp"
        case AppendEntries():
            return "MsgApp"
        case AppendResponse():
            return "MsgAppResp"
        case Heartbeat():
            return "MsgHeartbeat"
        case HeartbeatResponse():
            return "MsgHeartbeatResp"
        case InstallSnapshot():
            return "MsgSnap"
        case _:
            return f"Msg{type(message).__name__}"


def items_of(message: AnyMessage) -> Iterator[Item]:
    kind, term = kind_of(message), message.term
    match message:
        case RequestVote():
            yield reference_output.vote_request_item(kind, term, message.last_term, message.last_index)
        case VoteResponse():
            yield reference_output.vote_response_item(kind, term, rejected=not message.granted)
        case AppendEntries():
            entries = [log_entry(entry) for entry in message.entries]
            yield from reference_output.append_items(term, message.prev_term, message.prev_index, entries)
        case AppendResponse():
            yield reference_output.response_item(term, message.index, rejected=not message.success)
        case Heartbeat():
            yield reference_output.heartbeat_item(term, message.commit)
        case InstallSnapshot():
            yield Item(f"{kind} {term} {snapshot_text(message.snapshot)}")
        case _:
            yield reference_output.plain_item(kind, term)


def progress_text(progress: Progress, *, learner: bool) -> str:
    text = f"{progress.node}: State{progress.state.name.title()} match={progress.match} next={progress.next}"
    text += " learner" if learner else ""
    text += " paused" if progress.paused else ""
    if progress.state is ProgressState.SNAPSHOT:
        return f"{text} pendingSnap={progress.snapshot_index}"
    if progress.inflights:
        text += f" inflight={len(progress.inflights)}" + ("[full]" if progress.inflights.full else "")
    return text


def comparable_line(line: str) -> str:
    """A printed line without what is not compared (see the top)."""
    entry = reference_output.read_entry(line)
    line = str(entry) if entry else line.replace(" inactive", "")
    return re.sub(r" next=\d+", "", line) if "StateSnapshot" in line else line


# --- the cluster ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Envelope:
    message: AnyMessage
    notice: bool = False  # it only brings the news of a commit, or answers such a message


@dataclass(slots=True)
class Member:
    store: MemoryLogStore
    raft: Raft
    slow_disk: bool = False  # writes wait for process-append-thread
    now: float = 0.0
    role: Item | None = None
    vote: Item | None = None
    commit: int = 0
    unfinished: Ready | None = None
    configuration: Configuration = field(default_factory=Configuration)  # as of what was applied
    heartbeats: dict[NodeId, deque[bool]] = field(default_factory=lambda: defaultdict(deque))  # unanswered: a notice?


class Cluster:
    """Answers the commands of a scenario; what happens on the way goes to ``record``."""

    def __init__(self) -> None:
        self.members: dict[NodeId, Member] = {}
        self.wire: list[Envelope] = []
        self.record = Record()
        self.printed: list[str] = []
        self.quiet = False
        self._commands: dict[str, Callable[[Stanza], None]] = {
            "_breakpoint": lambda _: None,
            "add-nodes": self.add_nodes,
            "campaign": lambda s: self._one(s).raft.campaign(),
            "compact": self.compact,
            "deliver-msgs": self.deliver_messages,
            "forget-leader": self.forget_leader,
            "log-level": self.log_level,
            "process-append-thread": lambda s: self._each(s, self.finish_write),
            "process-apply-thread": lambda s: self._each(s, lambda _: False),
            "process-ready": lambda s: self._each(s, self.process_ready),
            "propose": self.propose,
            "propose-conf-change": self.propose_configuration,
            "raft-log": self.raft_log,
            "raft-state": self.raft_state,
            "report-unreachable": lambda s: self._one(s).raft.report_unreachable(self._nodes(s)[1]),
            "send-snapshot": self.send_snapshot,
            "set-randomized-election-timeout": self.set_election_timeout,
            "stabilize": self.stabilize,
            "status": self.status,
            "tick-election": lambda s: self._tick(s, ELECTION_TICKS),
            "tick-heartbeat": lambda s: self._tick(s, 1),
            "transfer-leadership": self.transfer_leadership,
        }

    def run(self, stanza: Stanza) -> tuple[Record, list[str]]:
        """What the command did, and the lines it printed."""
        if stanza.command not in self._commands:
            raise ScenarioError(f"{stanza.where}: no such command: {stanza.command}")
        self.record, self.printed = Record(), []
        self._commands[stanza.command](stanza)
        for member in self.members.values():
            member.raft.check()
        return self.record, self.printed

    # --- arguments ----------------------------------------------------------------------------------------------------

    def _nodes(self, stanza: Stanza) -> list[NodeId]:
        return [int(word) for word in stanza.positional]

    def _one(self, stanza: Stanza) -> Member:
        return self.members[int(stanza.positional[0])]

    def _chosen(self, stanza: Stanza) -> list[Member]:
        return [self.members[node] for node in self._nodes(stanza)] or list(self.members.values())

    def _each(self, stanza: Stanza, act: Callable[[Member], bool]) -> None:
        for member in self._chosen(stanza):
            act(member)

    # --- members ------------------------------------------------------------------------------------------------------

    def add_nodes(self, stanza: Stanza) -> None:
        unknown = stanza.options.keys() - ADD_NODES_OPTIONS
        if unknown:
            raise ScenarioError(f"{stanza.where}: add-nodes has no option {', '.join(sorted(unknown))}")
        voters, learners = (tuple(map(int, stanza.options.get(key, ()))) for key in ("voters", "learners"))
        configuration = Configuration(voters, learners=learners)
        for _ in range(int(stanza.positional[0])):
            self._add_node(len(self.members) + 1, configuration, stanza)

    def _add_node(self, node: NodeId, configuration: Configuration, stanza: Stanza) -> None:
        index = int(stanza.option("index", "0"))
        store = MemoryLogStore(Configuration() if index else configuration)
        if index:
            store.install(SnapshotMeta(index, 1, configuration), HardState(commit=index))
        raft = Raft(settings(node, stanza), store, random.Random(node), 0.0)
        member = Member(store, raft, slow_disk=is_on(stanza, "async-storage-writes"), configuration=configuration)
        self.members[node] = member
        self._note_start(member)
        self._configured(member, configuration)

    def _note_start(self, member: Member) -> None:
        raft, log = member.raft, member.raft.log
        member.role = reference_output.role_item(raft.leader, ROLES[raft.role])
        member.vote = reference_output.vote_item(raft.term, raft.vote)
        member.commit = log.commit
        self.record.add(Aspect.ROLES, raft.id, member.role)
        self.record.add(Aspect.VOTES, raft.id, member.vote)
        state = f"term: {raft.term}, commit: {log.commit}, applied: {log.applied}"
        state += f", lastindex: {log.last_index()}, lastterm: {log.last_term()}"
        self.record.set(Aspect.START, raft.id, state)

    def _configured(self, member: Member, configuration: Configuration) -> None:
        member.configuration = configuration
        text = configuration_text(configuration)
        self.record.set(Aspect.CONFIGURATION, member.raft.id, text)
        self.record.add(Aspect.CONFIGURATIONS, member.raft.id, text)

    def forget_leader(self, stanza: Stanza) -> None:
        """See the top of `tests.interaction`."""
        raft = self._one(stanza).raft
        if raft.role is Role.FOLLOWER:
            raft.leader = 0

    def set_election_timeout(self, stanza: Stanza) -> None:
        member = self._one(stanza)
        member.raft._election_due = member.now + int(stanza.option("timeout")) * TICK

    def compact(self, stanza: Stanza) -> None:
        node, index = self._nodes(stanza)
        store = self.members[node].store
        store.compact(store.snapshot(), index + 1)
        self._print_log(store)

    # --- the work of a node -------------------------------------------------------------------------------------------

    def process_ready(self, member: Member) -> bool:
        """One turn as `Ready` prescribes it; False where there was nothing to do."""
        if member.unfinished is not None:
            return False  # our core writes once at a time
        worked = self._turn(member)
        raft = member.raft
        if raft.is_leader and member.unfinished is None and raft.next_deadline <= member.now:
            raft.tick(member.now)  # the news of a commit is due
            worked |= self._turn(member, notices=True)
        return worked

    def _turn(self, member: Member, *, notices: bool = False) -> bool:
        raft = member.raft
        ready = raft.ready()
        changed = self._note_state(member)
        if ready is None:
            return changed
        for entry in ready.entries:
            self.record.add(Aspect.WRITTEN, raft.id, str(log_entry(entry)))
        for entry in ready.committed:
            self.record.add(Aspect.COMMITTED, raft.id, str(log_entry(entry)))
        self._send(member, ready.messages, notices=notices)
        member.unfinished = ready
        if not (member.slow_disk and ready.must_sync):
            self.finish_write(member)
        return True

    def _note_state(self, member: Member) -> bool:
        """What the node says of itself, where that is new."""
        raft = member.raft
        role = reference_output.role_item(raft.leader, ROLES[raft.role])
        vote = reference_output.vote_item(raft.term, raft.vote)
        commit = raft.log.commit
        changed = (role, vote, commit) != (member.role, member.vote, member.commit)
        if role != member.role:
            self.record.add(Aspect.ROLES, raft.id, role)
            self.record.set(Aspect.ROLE, raft.id, str(role))
        if vote != member.vote:
            self.record.add(Aspect.VOTES, raft.id, vote)
        if (vote, commit) != (member.vote, member.commit):
            self.record.set(Aspect.COMMIT, raft.id, str(commit))
        member.role, member.vote, member.commit = role, vote, commit
        return changed

    def finish_write(self, member: Member) -> bool:
        """The rest of a turn: everything is durable and applied now."""
        ready, member.unfinished = member.unfinished, None
        if ready is None:
            return False
        store, raft = member.store, member.raft
        if ready.snapshot is not None:
            assert ready.hard_state is not None
            store.install(ready.snapshot, ready.hard_state)
            self.record.add(Aspect.INSTALLED, raft.id, snapshot_text(ready.snapshot))
            self._configured(member, ready.snapshot.configuration)
        if ready.must_sync:
            store.write(ready.hard_state, ready.entries)
            store.sync()
        written = store.hard_state()
        durable = reference_output.vote_item(written.term, written.vote)
        assert durable == member.vote, "an answer would leave before its write"
        self._send(member, ready.messages_after)
        for entry in ready.committed:
            self._apply(member, entry)
        raft.advance(ready)
        return True

    def _apply(self, member: Member, entry: Entry) -> None:
        """The reference's machine keeps a snapshot of every state, and sends the newest."""
        if entry.kind is EntryKind.CONFIGURATION:
            self._configured(member, decode_configuration(entry.data))
        snapshot = SnapshotMeta(entry.index, entry.term, member.configuration)
        member.store.compact(snapshot, member.store.first_index())

    def _tick(self, stanza: Stanza, ticks: int) -> None:
        member = self._one(stanza)
        for _ in range(ticks):
            member.now += TICK
            member.raft.tick(member.now)

    # --- the network --------------------------------------------------------------------------------------------------

    def _send(self, member: Member, messages: Sequence[AnyMessage], *, notices: bool = False) -> None:
        for message in messages:
            notice = notices and isinstance(message, Heartbeat)
            if isinstance(message, HeartbeatResponse) and (unanswered := member.heartbeats[message.dst]):
                notice = unanswered.popleft()
            self.wire.append(Envelope(message, notice))
            self._note_message(Aspect.SENT, self.wire[-1])

    def _note_message(self, aspect: Aspect, envelope: Envelope) -> None:
        channel = f"{envelope.message.src}->{envelope.message.dst}"
        if not envelope.notice:
            for item in items_of(envelope.message):
                self.record.add(aspect, channel, item)
        if aspect is Aspect.SENT and isinstance(envelope.message, AppendEntries | Heartbeat):
            self.record.set(Aspect.TOLD, channel, str(envelope.message.commit))

    def _take(self, node: NodeId, kind: str = "") -> list[Envelope]:
        taken = [e for e in self.wire if e.message.dst == node and kind in ("", kind_of(e.message))]
        self.wire = [e for e in self.wire if all(e is not other for other in taken)]
        return taken

    def deliver(self, member: Member, kind: str = "") -> bool:
        taken = self._take(member.raft.id, kind)
        for envelope in taken:
            self._note_message(Aspect.RECEIVED, envelope)
            if isinstance(envelope.message, Heartbeat) and envelope.message.term >= member.raft.term:
                member.heartbeats[envelope.message.src].append(envelope.notice)
            member.raft.step(envelope.message)
        return bool(taken)

    def deliver_messages(self, stanza: Stanza) -> None:
        kind = stanza.option("type")
        for word in stanza.options.get("drop", ()):
            for envelope in self._take(int(word), kind):
                self._note_message(Aspect.DROPPED, envelope)
        for node in self._nodes(stanza):
            self.deliver(self.members[node], kind)

    def stabilize(self, stanza: Stanza) -> None:
        members = self._chosen(stanza)
        steps = (self.process_ready, self.deliver, self.finish_write)
        for _ in range(1000):
            worked = [step(member) for step in steps for member in members]  # each takes its turn, so no generator
            if not any(worked):
                return
        raise AssertionError(f"{stanza.where}: the nodes talk without end")

    def send_snapshot(self, stanza: Stanza) -> None:
        src, dst = self._nodes(stanza)
        member = self.members[src]
        self.wire.append(Envelope(InstallSnapshot(member.raft.term, src, dst, member.store.snapshot())))
        self._note_message(Aspect.SENT, self.wire[-1])

    # --- what clients and operators do --------------------------------------------------------------------------------

    def propose(self, stanza: Stanza) -> None:
        self._propose(int(stanza.positional[0]), stanza.positional[1].encode())

    def _propose(self, node: NodeId, data: bytes) -> None:
        try:
            self.members[node].raft.propose([data])
        except NotLeader as elsewhere:  # a client asks the leader itself; the reference forwards
            if elsewhere.leader in self.members:
                self.members[elsewhere.leader].raft.propose([data])
            else:
                self.record.refused += 1
        except ProposalRefused:
            self.record.refused += 1

    def propose_configuration(self, stanza: Stanza) -> None:
        member = self._one(stanza)
        changes = scenarios.changes_of(*stanza.input)
        try:
            joint = Joint(stanza.option("transition", "auto"))
            member.raft.propose_changes(changes, joint=joint, careful=False)
        except NotLeader:
            self.record.refused += 1
        except ChangeRefused:  # the reference logs an empty entry in its place: so do we, for the indexes to agree
            self._propose(member.raft.id, b"")

    def transfer_leadership(self, stanza: Stanza) -> None:
        self.members[int(stanza.option("from"))].raft.transfer_leadership(int(stanza.option("to")))

    # --- what is printed ----------------------------------------------------------------------------------------------

    def log_level(self, stanza: Stanza) -> None:
        self.quiet = stanza.positional[0].lower() == "none"

    def raft_state(self, stanza: Stanza) -> None:
        for node, member in self.members.items():
            raft = member.raft
            votes = "Voter" if node in raft.configuration.all_voters() else "Non-Voter"
            self.printed.append(f"{node}: {ROLES[raft.role]} ({votes}) Term:{raft.term} Lead:{raft.leader}")

    def raft_log(self, stanza: Stanza) -> None:
        self._print_log(self._one(stanza).store)

    def _print_log(self, store: MemoryLogStore) -> None:
        first, last = store.first_index(), store.last_index()
        if first > last:
            self.printed.append(f"log is empty: first index={first}, last index={last}")
        self.printed += [str(log_entry(entry)) for entry in store.entries(first, last + 1, MANY)]

    def status(self, stanza: Stanza) -> None:
        raft = self._one(stanza).raft
        lines = {
            node: progress_text(progress, learner=node in raft.configuration.learners)
            for node, progress in raft.progress.items()
        }
        if raft.is_leader and raft.id in raft.configuration.members():
            last = raft.log.last_index()
            lines[raft.id] = f"{raft.id}: StateReplicate match={raft.log.stable} next={last + 1}"
        self.printed += [comparable_line(lines[node]) for node in sorted(lines)]


ADD_NODES_OPTIONS = {
    "voters", "learners", "index", "inflight", "inflight-bytes", "prevote", "checkquorum", "async-storage-writes",
    "max-committed-size-per-ready",
    # Of no consequence here: the bytes of the first snapshot, which our core never sees; how reads are served, which no
    # command asks for; proposals that the reference lets pass and ours always checks; and what ours always does.
    "content", "read-only", "disable-conf-change-validation", "step-down-on-removal",
}  # fmt: skip


def is_on(stanza: Stanza, option: str) -> bool:
    return stanza.option(option, "false") == "true"


def settings(node: NodeId, stanza: Stanza) -> RaftConfig:
    """``inflight`` counts appends of one proposal each, which is how the reference sends them."""
    limited = "inflight" in stanza.options
    return RaftConfig(
        node_id=node,
        election_timeout=ELECTION_TICKS * TICK,
        heartbeat_interval=TICK,
        pre_vote=is_on(stanza, "prevote"),
        check_quorum=is_on(stanza, "checkquorum"),
        max_inflight_messages=int(stanza.option("inflight", str(MANY))),
        max_inflight_bytes=int(stanza.option("inflight-bytes", str(MANY))),
        max_append_bytes=1 if limited else MANY,
        max_apply_bytes=int(stanza.option("max-committed-size-per-ready", str(MANY))),
        commit_notice_delay=0.0,
    )
