"""A cluster of our cores that takes the commands of the reference library's interaction scenarios.

Real `Raft` cores over memory stores, a network that is a list, and a clock for each node that only the tick commands
move. Every command is answered with a `Record` of what happened, in the notation of `tests.reference_output`.
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rayraft.raft.leader import Leader
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
    TimeoutNow,
    VoteResponse,
)
from rayraft.storage.memory import MemoryLogStore
from tests import reference_output, scenarios
from tests.reference_output import Aspect, Item, Key, LogEntry, Record
from tests.scenarios import ScenarioError, Stanza

TICK = 1.0
LEAVE = "EntryConfChangeV2"  # a change that says nothing: the joint phase ends
ELECTION_TICKS = 3
MANY = 1 << 40
ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}


# --- the core in the notation of `reference_output` -------------------------------------------------------------------


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
class Write:
    """What a node has handed to its disk or to its machine, and will be told when that is done."""

    ready: Ready
    messages: Sequence[AnyMessage] = ()
    own: Sequence[tuple[str, Item]] = ()  # what the reference tells itself then: the channel and the message
    text: str = ""


@dataclass(slots=True)
class Member:
    store: MemoryLogStore
    raft: Raft
    slow_disk: bool = False  # writes wait for process-append-thread
    lease_reads: bool = False
    steps_down: bool = False  # on its removal
    transfers: bool = False  # it was told to hand over
    now: float = 0.0
    role: Item | None = None
    vote: Item | None = None
    commit: int = 0
    writes: deque[Write] = field(default_factory=deque)  # waiting for process-append-thread
    applies: deque[Write] = field(default_factory=deque)  # waiting for process-apply-thread
    done: list[Write] = field(default_factory=list)  # on their way back, to be delivered like any message
    committed: list[Entry] = field(default_factory=list)  # handed out to be applied, and not durable here yet
    configuration: Configuration = field(default_factory=Configuration)  # as of what was applied
    untold: Record | None = None  # what it did already and will tell in its next turn
    leading: Leader | None = None  # since when `told` counts
    told: dict[NodeId, int] = field(default_factory=dict)  # the commit index that appends have brought to a follower
    announced: int = 0  # the commit index of which all followers were told


class Cluster:
    """Answers the commands of a scenario; what happens on the way goes to ``record``."""

    def __init__(self) -> None:
        self.members: dict[NodeId, Member] = {}
        self.wire: list[AnyMessage] = []
        self.record = Record()
        self.printed: list[str] = []
        self.quiet = False
        self.changes: dict[tuple[int, int], str] = {}  # term and index of an entry -> the change that was asked for
        self._commands: dict[str, Callable[[Stanza], None]] = {
            "_breakpoint": lambda _: None,
            "add-nodes": self.add_nodes,
            "campaign": lambda s: self._one(s).raft.campaign(),
            "compact": self.compact,
            "deliver-msgs": self.deliver_messages,
            "forget-leader": self.forget_leader,
            "log-level": self.log_level,
            "process-append-thread": lambda s: self._each(s, self.finish_write),
            "process-apply-thread": lambda s: self._each(s, self.finish_apply),
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

    # --- in the notation of `reference_output` ------------------------------------------------------------------------

    def log_entry(self, entry: Entry) -> LogEntry:
        if entry.kind is EntryKind.CONFIGURATION:  # ours holds what the change makes, the reference the change
            return LogEntry(entry.term, entry.index, self.changes.get((entry.term, entry.index), LEAVE))
        return LogEntry(entry.term, entry.index, json.dumps(entry.data.decode(), ensure_ascii=False))

    def text_of(self, entries: Sequence[Entry]) -> str:
        return " ".join(str(self.log_entry(entry)) for entry in entries)

    def item_of(self, message: AnyMessage) -> Item:
        kind, term = kind_of(message), message.term
        match message:
            case RequestVote():
                return reference_output.vote_request_item(kind, term, message.last_term, message.last_index)
            case VoteResponse():
                return reference_output.vote_response_item(kind, term, rejected=not message.granted)
            case AppendEntries():
                entries = [self.log_entry(entry) for entry in message.entries]
                return reference_output.append_item(
                    term, message.prev_term, message.prev_index, message.commit, entries
                )
            case AppendResponse():
                return reference_output.response_item(term, message.index, rejected=not message.success)
            case Heartbeat():
                return reference_output.heartbeat_item(term, message.commit)
            case InstallSnapshot():
                return Item(f"{kind} {term} {snapshot_text(message.snapshot)}")
            case _:
                return reference_output.plain_item(kind, term)

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
        member = Member(store, raft, configuration=configuration)
        member.slow_disk = is_on(stanza, "async-storage-writes")
        member.lease_reads = stanza.option("read-only") == "lease-based"
        member.steps_down = is_on(stanza, "step-down-on-removal")
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
        """See the top of `tests.interaction`. Where reads rely on leases, a leader is not forgotten."""
        member = self._one(stanza)
        if member.raft.role is Role.FOLLOWER and not member.lease_reads:
            member.raft.leader = 0

    def set_election_timeout(self, stanza: Stanza) -> None:
        member = self._one(stanza)
        member.raft.elections.due = member.now + int(stanza.option("timeout")) * TICK

    def compact(self, stanza: Stanza) -> None:
        node, index = self._nodes(stanza)
        store = self.members[node].store
        store.compact(store.snapshot(), index + 1)
        self._print_log(store)

    # --- the work of a node -------------------------------------------------------------------------------------------

    def process_ready(self, member: Member) -> bool:
        """One turn; False where there was nothing to do.

        A lone voter that campaigns leads at once, in one write. In the reference its own vote counts after one write,
        its own entry after another: what ours did in one turn is told in three, in that order.
        """
        shown, self.record = self.record, Record()
        worked = self._turn(member)
        turn, self.record = self.record, shown
        earlier, member.untold = member.untold, None
        node = str(member.raft.id)
        if member.raft.is_leader and Key(Aspect.VOTES, node) in turn.streams:
            candidate = reference_output.role_item(0, ROLES[Role.CANDIDATE])
            shown.extend(turn.taken(Aspect.VOTES, Aspect.COMMIT))
            shown.add(Aspect.ROLES, node, candidate)
            shown.set(Aspect.ROLE, node, str(candidate))
            member.untold = turn
            return True
        if earlier is not None:
            shown.extend(earlier)
            if Key(Aspect.ROLES, node) in earlier.streams:
                member.untold = turn.taken(Aspect.COMMITTED, Aspect.COMMIT, Aspect.CONFIGURATIONS, Aspect.CONFIGURATION)
        shown.extend(turn)
        return worked or earlier is not None

    def _turn(self, member: Member) -> bool:
        """As `Ready` prescribes it."""
        raft, before = member.raft, (member.vote, member.commit)
        ready = raft.ready()
        changed = self._note_state(member)
        if ready is None:
            return self._hand_to_machine(member, []) or changed
        for entry in ready.entries:
            self.record.add(Aspect.WRITTEN, raft.id, str(self.log_entry(entry)))
        self._send(member, ready.messages)
        new_state = (member.vote, member.commit) != before
        if new_state or ready.must_sync or ready.snapshot is not None or ready.messages_after:
            self._hand_to_disk(member, ready, new_state=new_state)
        self._hand_to_machine(member, ready.committed)
        if not member.slow_disk:
            self._finish_all(member)
        return True

    def _hand_to_disk(self, member: Member, ready: Ready, *, new_state: bool) -> None:
        raft, last = member.raft, ready.entries[-1] if ready.entries else None
        own: list[tuple[str, Item]] = []
        if raft.role is Role.CANDIDATE and ready.hard_state and ready.hard_state.vote == raft.id:
            item = reference_output.vote_response_item("MsgVoteResp", raft.term, rejected=False)
            own.append((f"{raft.id}->{raft.id}", item))
        if last is not None and raft.is_leader:
            item = reference_output.response_item(raft.term, last.index, rejected=False)
            own.append((f"{raft.id}->{raft.id}", item))
        if raft.log.stable < raft.log.last_index():
            item = reference_output.stored_item(raft.term, raft.log.last_term(), raft.log.last_index())
            own.append((f"AppendThread->{raft.id}", item))
        text = self.text_of(ready.entries)
        waits = (AppendResponse, VoteResponse)
        early = [m for m in ready.messages_after if member.slow_disk and not isinstance(m, waits)]
        self._send(member, early)  # see the top of `tests.interaction`
        later = [m for m in ready.messages_after if m not in early]
        write = Write(Ready(ready.hard_state, ready.entries, ready.must_sync, ready.snapshot), later)
        state = f"(term {raft.term}, vote {raft.vote}, commit {raft.log.commit})" if new_state else ""
        write.own, write.text = own, f"{text} {state}".strip()
        member.writes.append(write)
        if member.slow_disk:
            self._note_work(Aspect.HANDED, member, write)

    def _hand_to_machine(self, member: Member, committed: Sequence[Entry]) -> bool:
        """Where the disk is slow, only what is durable already may be applied."""
        member.committed += committed
        limit = member.raft.log.stable if member.slow_disk else MANY
        ripe = [entry for entry in member.committed if entry.index <= limit]
        if not ripe:
            return False
        member.committed = member.committed[len(ripe) :]
        for entry in ripe:
            self.record.add(Aspect.COMMITTED, member.raft.id, str(self.log_entry(entry)))
        work = Write(Ready(committed=ripe), text=self.text_of(ripe))
        work.own = [(f"ApplyThread->{member.raft.id}", Item(f"applied {work.text}"))]
        member.applies.append(work)
        if member.slow_disk:
            self._note_work(Aspect.HANDED, member, work)
        return True

    def _note_work(self, aspect: Aspect, member: Member, work: Write) -> None:
        if work.text:
            thread = "apply" if work.ready.committed else "append"
            self.record.add(aspect, f"{thread} of {member.raft.id}", work.text)
        promised = Aspect.PROMISED if aspect is Aspect.HANDED else Aspect.SENT
        for channel, item in work.own:
            self.record.add(promised, channel, item)
        if aspect is Aspect.HANDED:
            for message in work.messages:
                self._note_message(Aspect.PROMISED, message)

    def _finish_all(self, member: Member) -> None:
        while self.finish_write(member) or self.finish_apply(member):
            pass
        self._hear_done(member)

    def _hear_done(self, member: Member) -> bool:
        """What the disk and the machine have finished reaches the core, as a message does."""
        done, member.done = member.done, []
        for work in done:
            if member.slow_disk:
                for channel, item in work.own:
                    self.record.add(Aspect.RECEIVED, channel, item)
            member.raft.advance(work.ready)
            send_at_once(member)
        return bool(done)

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
        """One write is durable now, and the messages that waited for it leave."""
        if not member.writes:
            return False
        write = member.writes.popleft()
        ready, store = write.ready, member.store
        if ready.snapshot is not None:
            assert ready.hard_state is not None
            store.install(ready.snapshot, ready.hard_state)
            self.record.add(Aspect.INSTALLED, member.raft.id, snapshot_text(ready.snapshot))
        if ready.must_sync:
            store.write(ready.hard_state, ready.entries)
            store.sync()
        durable = store.hard_state().term
        assert all(message.term <= durable + is_pre_vote(message) for message in write.messages), (
            "told before its write"
        )
        self._send(member, write.messages)
        if member.slow_disk:
            self._note_work(Aspect.DONE, member, write)
        member.done.append(write)
        return True

    def finish_apply(self, member: Member) -> bool:
        if not member.applies:
            return False
        work = member.applies.popleft()
        for entry in work.ready.committed:
            self._apply(member, entry)
        leading = member.raft.leading
        if member.steps_down and leading is not None and leading.transfer is not None and not member.transfers:
            leading.transfer.deadline = member.now
            leading.tick()
        if member.slow_disk:
            self._note_work(Aspect.DONE, member, work)
        member.done.append(work)
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

    def _send(self, member: Member, messages: Sequence[AnyMessage]) -> None:
        for message in messages:
            if isinstance(message, TimeoutNow) and not member.transfers:
                continue  # a leader that is removed hands over: see the top of `tests.interaction`
            self.wire.append(message)
            self._note_message(Aspect.SENT, message)

    def _note_message(self, aspect: Aspect, message: AnyMessage) -> None:
        self.record.add(aspect, f"{message.src}->{message.dst}", self.item_of(message))

    def _take(self, node: NodeId, kind: str = "") -> list[AnyMessage]:
        taken = [m for m in self.wire if m.dst == node and kind in ("", kind_of(m))]
        self.wire = [m for m in self.wire if all(m is not other for other in taken)]
        return taken

    def deliver(self, member: Member, kind: str = "") -> bool:
        taken = self._take(member.raft.id, kind)
        for message in taken:
            self._note_message(Aspect.RECEIVED, message)
            member.raft.step(message)
            if isinstance(message, InstallSnapshot) and member.raft._snapshot is message.snapshot:
                self._configured(member, message.snapshot.configuration)
            send_at_once(member, message)
        done = kind in ("", "MsgStorageAppendResp") and self._hear_done(member)
        return bool(taken) or done

    def deliver_messages(self, stanza: Stanza) -> None:
        kind = stanza.option("type")
        for word in stanza.options.get("drop", ()):
            for message in self._take(int(word), kind):
                self._note_message(Aspect.DROPPED, message)
        for node in self._nodes(stanza):
            self.deliver(self.members[node], kind)

    def stabilize(self, stanza: Stanza) -> None:
        members = self._chosen(stanza)
        steps = (self.process_ready, self.deliver, self.finish_write, self.finish_apply)
        for _ in range(1000):
            worked = [step(member) for step in steps for member in members]  # each takes its turn, so no generator
            if not any(worked):
                return
        raise AssertionError(f"{stanza.where}: the nodes talk without end")

    def send_snapshot(self, stanza: Stanza) -> None:
        src, dst = self._nodes(stanza)
        member = self.members[src]
        self.wire.append(InstallSnapshot(member.raft.term, src, dst, member.store.snapshot()))
        self._note_message(Aspect.SENT, self.wire[-1])

    # --- what clients and operators do --------------------------------------------------------------------------------

    def propose(self, stanza: Stanza) -> None:
        self._propose(int(stanza.positional[0]), stanza.positional[1].encode())

    def _propose(self, node: NodeId, data: bytes) -> None:
        try:
            self.members[node].raft.propose([data])
            send_at_once(self.members[node])
        except NotLeader as elsewhere:  # a client asks the leader itself; the reference forwards
            if elsewhere.leader in self.members:
                self._propose(elsewhere.leader, data)
            else:
                self.record.refused += 1
        except ProposalRefused:
            self.record.refused += 1

    def propose_configuration(self, stanza: Stanza) -> None:
        member = self._one(stanza)
        if not member.raft.is_leader:
            member = self.members.get(member.raft.leader, member)
        changes, joint = scenarios.changes_of(*stanza.input), Joint(stanza.option("transition", "auto"))
        try:
            index = member.raft.propose_changes(changes, joint=joint, careful=False)
            kind = "EntryConfChange" if is_on(stanza, "v1") else "EntryConfChangeV2"
            words = " ".join(stanza.input).split()
            self.changes[member.raft.term, index] = " ".join([kind, *words])
            send_at_once(member)
        except ChangeRefused:  # the reference logs an empty entry in its place: so do we, for the indexes to agree
            self._propose(member.raft.id, b"")
        except ProposalRefused:
            self.record.refused += 1

    def transfer_leadership(self, stanza: Stanza) -> None:
        member = self.members[int(stanza.option("from"))]
        member.transfers = True
        member.raft.transfer_leadership(int(stanza.option("to")))

    # --- what is printed ----------------------------------------------------------------------------------------------

    def log_level(self, stanza: Stanza) -> None:
        self.quiet = stanza.positional[0].lower() == "none"

    def raft_state(self, stanza: Stanza) -> None:
        for node, member in self.members.items():
            raft = member.raft
            votes = "Voter" if node in member.configuration.all_voters() else "Non-Voter"
            self.printed.append(f"{node}: {ROLES[raft.role]} ({votes}) Term:{raft.term} Lead:{raft.leader}")

    def raft_log(self, stanza: Stanza) -> None:
        self._print_log(self._one(stanza).store)

    def _print_log(self, store: MemoryLogStore) -> None:
        first, last = store.first_index(), store.last_index()
        if first > last:
            self.printed.append(f"log is empty: first index={first}, last index={last}")
        self.printed += [str(self.log_entry(entry)) for entry in store.entries(first, last + 1, MANY)]

    def status(self, stanza: Stanza) -> None:
        raft = self._one(stanza).raft
        lines = {
            node: progress_text(progress, learner=node in raft.configuration.learners)
            for node, progress in raft.progress.items()
        }
        if raft.is_leader and raft.id in raft.configuration.members():
            stable = raft.log.stable
            lines[raft.id] = f"{raft.id}: StateReplicate match={stable} next={stable + 1}"
        self.printed += [comparable_line(lines[node]) for node in sorted(lines)]


def send_at_once(member: Member, answered: AnyMessage | None = None) -> None:
    """Send what the reference sends with every proposal and answer; ours sends once for all that a turn has brought.

    Where ours would bring the news of a commit by a heartbeat, an empty append does (see `tests.interaction`).
    """
    raft, leading = member.raft, member.raft.leading
    if leading is None:
        return
    if leading is not member.leading:
        member.leading, member.told, member.announced = leading, {}, raft.log.commit
    queued, commit = len(raft._messages), raft.log.commit
    leading.replicate()
    appends = [m for m in raft._messages[queued:] if isinstance(m, AppendEntries)]
    for message in raft._messages:
        if isinstance(message, AppendEntries):
            member.told[message.dst] = message.commit
        elif isinstance(message, InstallSnapshot):
            member.told[message.dst] = message.snapshot.index
    unaware = {
        node for node, progress in leading.progress.items() if progress.commit_sent < min(commit, progress.match)
    }
    notified = notified_of_commit(raft, leading)
    whom = set(leading.progress) if commit > member.announced else set()
    if isinstance(answered, AppendResponse) and answered.success and answered.src in leading.progress:
        told = member.told.get(answered.src, 0)
        if told < commit and told < leading.progress[answered.src].next - 1:
            whom.add(answered.src)
    member.announced = commit
    for node in sorted(whom - {append.dst for append in appends} - (unaware - notified)):
        progress = leading.progress[node]
        term = raft.log.term(progress.next - 1)
        if not progress.paused and term is not None:
            raft.send(AppendEntries(raft.term, raft.id, node, progress.next - 1, term, commit, ()))
            member.told[node] = commit


def notified_of_commit(raft: Raft, leading: Leader) -> set[NodeId]:
    """Whom the core tells of a commit by a heartbeat now; these heartbeats are taken back."""
    queued = len(raft._messages)
    if leading.notice_due <= raft.now:
        raft.tick(raft.now)
    heartbeats = raft._messages[queued:]
    del raft._messages[queued:]
    return {message.dst for message in heartbeats}


ADD_NODES_OPTIONS = {
    "voters", "learners", "index", "inflight", "inflight-bytes", "prevote", "checkquorum", "async-storage-writes",
    "max-committed-size-per-ready",
    # Of no consequence here: the bytes of the first snapshot, which our core never sees; how reads are served, which no
    # command asks for; proposals that the reference lets pass and ours always checks; and what ours always does.
    "content", "read-only", "disable-conf-change-validation", "step-down-on-removal",
}  # fmt: skip


def is_pre_vote(message: AnyMessage) -> bool:
    """A pre-vote is asked for and granted in a term that nobody is in yet."""
    return isinstance(message, RequestVote | VoteResponse) and message.pre_vote


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
