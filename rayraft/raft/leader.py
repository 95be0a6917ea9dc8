"""What a node does only while it leads: replicate, commit, confirm its authority, change the members, hand over.

Sections named § are of the Raft paper (extended version), "thesis" is Ongaro's dissertation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from rayraft.raft.lease import lease_start
from rayraft.raft.log import LogReader, RaftLog
from rayraft.raft.membership import ChangePending, ChangeRefused, encode_configuration, leave_joint
from rayraft.raft.progress import PROBE, REPLICATE, SNAPSHOT, Inflights, Progress
from rayraft.raft.quorum import VoteResult, committed_index, vote_result
from rayraft.raft.reads import ReadRounds, ReadState, RemoteRead
from rayraft.raft.ready import RaftConfig, TooMuchUncommitted, TransferInProgress
from rayraft.raft.types import (
    NO_NODE,
    AnyMessage,
    AppendEntries,
    AppendResponse,
    Configuration,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    NodeId,
    ReadIndexResponse,
    TimeoutNow,
)

FOREVER = float("inf")
NOBODY: frozenset[NodeId] = frozenset()


class LeadingNode(Protocol):
    """What a leadership needs of the node that leads (`Raft`)."""

    id: NodeId
    config: RaftConfig
    now: float
    term: int
    log: RaftLog
    store: LogReader
    leading: Leader | None

    @property
    def configuration(self) -> Configuration: ...

    def send(self, message: AnyMessage) -> None: ...

    def answer_reads(self, state: ReadState) -> None: ...

    def become_follower(self, term: int, leader: NodeId) -> None: ...

    def stamp(self) -> float: ...

    def time_of(self, echo: float) -> float: ...


@dataclass(slots=True)
class Transfer:
    """Leadership is on its way to ``target``: no proposals meanwhile, until ``deadline`` (thesis §3.10)."""

    target: NodeId
    deadline: float


class Leader:
    """One leadership: it begins with winning an election and ends with the next term, at the latest.

    Invariants (`check` verifies 3 to 5; the simulator the others):

    1. It appends only, with its own term (§5.3), and commits by counting only entries of its own term (§5.4.2).
    2. Its first entry is a no-op; before that is committed it serves no read and changes no configuration (§8).
    3. ``progress`` has exactly the other members of the configuration in force and those it still tells of their
       removal.
    4. At most one configuration change is not committed.
    5. Once it has told another node to campaign, it answers no read by its lease for the rest of the term.
    """

    __slots__ = (
        "_departing",
        "_raft",
        "_since",
        "_transfer_tried",
        "confirm_due",
        "heartbeat_due",
        "lease_void",
        "noop_index",
        "notice_due",
        "progress",
        "quorum_checked",
        "reads",
        "standby_due",
        "transfer",
        "uncommitted",
    )

    def __init__(self, raft: LeadingNode, tails: Mapping[NodeId, tuple[int, int]] = MappingProxyType({})) -> None:
        """``tails``: the last index and term that others have said to have; a hint, which may be old."""
        self._raft = raft
        self._since = raft.now
        self.progress: dict[NodeId, Progress] = {}
        self._departing: dict[NodeId, float] = {}  # removed nodes that are still told so, and until when
        self.reads = ReadRounds()
        self.heartbeat_due = raft.now + raft.config.heartbeat_interval
        self.quorum_checked = raft.now
        self.notice_due = FOREVER  # when the news of a commit can no longer wait for an AppendEntries to ride on
        self.standby_due = FOREVER  # when the entries that wait for the standbys leave, see `_standbys`
        self.confirm_due = FOREVER  # when the standbys are asked too whether this node leads
        self.noop_index = raft.log.last_index() + 1
        self.uncommitted = Inflights(1 << 62, raft.config.max_uncommitted_bytes)
        self.transfer: Transfer | None = None
        self.lease_void = False
        self._transfer_tried = raft.now
        self._follow_configuration()
        for node, (index, term) in tails.items():
            if node in self.progress and raft.log.matches(index, term):
                self.progress[node].next = index + 1  # instead of a probe at the end of this log, which it would refuse
        # An entry of its own term is what lets a leader commit those of earlier ones (§5.4.2, §8).
        self.append([Entry(self.noop_index, raft.term, EntryKind.NOOP)])

    @property
    def established(self) -> bool:
        """Its no-op is committed: it knows all that was committed before its term (§8)."""
        return self._raft.log.commit >= self.noop_index

    @property
    def next_deadline(self) -> float:
        deadline = min(self.heartbeat_due, self.notice_due, self.standby_due, self.confirm_due)
        return deadline if self.transfer is None else min(deadline, self.transfer.deadline)

    # --- the log ------------------------------------------------------------------------------------------------------

    def propose(self, payloads: Sequence[bytes], kind: EntryKind = EntryKind.COMMAND) -> int:
        """Append one entry per payload; returns the index of the first. See `Raft.propose`."""
        if not payloads:
            raise ValueError("nothing to propose")
        if self.transfer is not None:
            raise TransferInProgress(self.transfer.target)
        if self.uncommitted.full:
            raise TooMuchUncommitted(f"{self._raft.config.max_uncommitted_bytes} bytes wait for a quorum")
        first, term = self._raft.log.last_index() + 1, self._raft.term
        self.append([Entry(first + i, term, kind, data) for i, data in enumerate(payloads)])
        return first

    def append(self, entries: list[Entry]) -> None:
        self._raft.log.append(entries)
        self.uncommitted.add(entries[-1].index, sum(entry.size for entry in entries))

    def maybe_commit(self) -> None:
        """Commit what a quorum holds durably, but only through an entry of this term (§5.4.2)."""
        log = self._raft.log
        match = {node: progress.match for node, progress in self.progress.items()}
        match[self._raft.id] = log.stable
        index = committed_index(self._raft.configuration, match)
        if index <= log.commit or log.term(index) != self._raft.term:
            return
        log.commit_to(index)
        self.uncommitted.free_to(index)
        if log.configurations.newest_index <= index:
            self._on_configuration_committed()

    # --- replication (§5.3) -------------------------------------------------------------------------------------------

    def replicate(self) -> None:
        """Send each follower what it lacks and may get now; once per round, so what arrived meanwhile goes along."""
        commit, last = self._raft.log.commit, self._raft.log.last_index()
        unsent = any(progress.next <= last for progress in self.progress.values())
        standbys = self._standbys() if unsent or self.reads.waiting else NOBODY
        if self.established and self.reads.begin(commit) is not None:
            self._ask_quorum(standbys)
        held = lagging = False
        for progress in self.progress.values():
            if progress.node in standbys and progress.next <= last:
                held = True  # and the news of the commit rides along
                continue
            if progress.match < last:
                while not progress.paused and self._send_append(progress):
                    pass
            lagging = lagging or (progress.commit_sent < commit and progress.commit_sent < progress.match)
        self.standby_due = self._due(held, self.standby_due, self._raft.config.standby_delay)
        self.notice_due = self._due(lagging, self.notice_due, self._raft.config.commit_notice_delay)

    def _due(self, waiting: bool, due: float, delay: float) -> float:
        """The deadline of what waits: `delay` after it began to."""
        if not waiting:
            return FOREVER
        return self._raft.now + delay if due == FOREVER else due

    def _standbys(self) -> frozenset[NodeId]:
        """The followers that a quorum does not need now: what is for them may wait for more (see `standby_delay`).

        First come those that were heard of late, and of these the ones that hold most: a follower that falls behind
        becomes a standby, and a standby that has got further takes its place. Nobody is one while the quorum lacks a
        follower whose log is known to match, nor while leadership is on its way.
        """
        raft = self._raft
        if not raft.config.standby_delay or raft.now >= self.standby_due or self.transfer is not None:
            return NOBODY
        matching = [progress for progress in self.progress.values() if progress.state is REPLICATE]
        recently = raft.now - 2 * raft.config.heartbeat_interval
        matching.sort(key=lambda p: (p.last_response < recently, p.witness, -p.match, p.node))
        needed = {raft.id: True}
        for position, progress in enumerate(matching):
            if progress.last_response < recently:
                break
            needed[progress.node] = True
            if vote_result(raft.configuration, needed) is VoteResult.WON:
                return frozenset(standby.node for standby in matching[position + 1 :])
        return NOBODY

    def _send_append(self, progress: Progress) -> bool:
        """One AppendEntries (or the news that a snapshot is needed) to ``progress``; False when there is nothing."""
        raft, log = self._raft, self._raft.log
        # A witness gets only what is durable here: it would stand in the way of all full nodes with an entry that a
        # crash has taken from them.
        last = log.stable if progress.witness else log.last_index()
        probing = progress.state is PROBE
        if progress.next > last and not probing:
            return False
        prev_index = progress.next - 1
        prev_term = log.term(prev_index)
        if prev_term is None or progress.next < log.first_index():
            self._send_snapshot(progress)
            return False
        entries = log.entries(progress.next, raft.config.max_append_bytes, last + 1)
        if progress.witness:
            entries = [without_data(entry) for entry in entries]
        size = sum(entry.size for entry in entries)
        raft.send(AppendEntries(raft.term, raft.id, progress.node, prev_index, prev_term, log.commit, tuple(entries)))
        progress.sent(prev_index + len(entries), len(entries), size)
        progress.commit_sent = max(progress.commit_sent, min(log.commit, prev_index + len(entries)))
        return progress.next <= last

    def _send_snapshot(self, progress: Progress) -> None:
        snapshot = self._raft.store.snapshot()
        progress.become_snapshot(snapshot.index)
        self._raft.send(InstallSnapshot(self._raft.term, self._raft.id, progress.node, snapshot))

    def on_append_response(self, message: AppendResponse) -> None:
        progress = self.progress[message.src]
        progress.last_response = self._raft.now
        if not message.success:
            current = progress.refuse(message.index, self._next_after_conflict(message))
            if current and progress.state is REPLICATE:
                progress.become_probe()
            return
        news = progress.acknowledge(message.index)
        progress.inflights.free_to(message.index)
        # Any snapshot will do, also an older one, as long as the log goes on from there.
        enough = min(progress.snapshot_index, self._raft.log.first_index() - 1)
        caught_up = progress.state is SNAPSHOT and progress.match >= enough
        # Any success answers a probe: from here on what the follower holds up to `match` is known.
        if progress.state is PROBE or caught_up:
            progress.become_replicate()
        if news:
            self.maybe_commit()
            self._hand_over_if_ready()

    def _next_after_conflict(self, message: AppendResponse) -> int:
        """Skip the follower's whole conflicting term in one step (§5.3, last paragraph)."""
        if message.conflict_term == 0:
            return message.conflict_index
        shared = self._raft.log.last_index_of_term(message.conflict_term, message.index)
        return message.conflict_index if shared is None else shared + 1

    # --- authority (§5.2, §8, thesis §6.2, §6.4) ----------------------------------------------------------------------

    def tick(self) -> None:
        raft, now = self._raft, self._raft.now
        if raft.config.check_quorum and now - self.quorum_checked >= raft.config.election_timeout:
            self.quorum_checked = now
            if not self._quorum_active():
                raft.become_follower(raft.term, NO_NODE)
                return
        if self.transfer is not None and now >= self.transfer.deadline:
            self._give_up_transfer()
            if raft.leading is not self:
                return
        if self._departing:
            self._forget_departed()
        if now >= min(self.heartbeat_due, self.confirm_due):
            self._broadcast_heartbeat()
        elif now >= self.notice_due:
            self._notify_commit()
        self._make_room_for_a_preferred_leader()  # with or without a heartbeat: while reads go on, none falls due

    def _quorum_active(self) -> bool:
        return vote_result(self._raft.configuration, self._active()) is VoteResult.WON

    @property
    def answering(self) -> tuple[NodeId, ...]:
        """The others who have answered within an election timeout, ascending."""
        return tuple(sorted(node for node, active in self._active().items() if active and node != self._raft.id))

    def _active(self) -> dict[NodeId, bool]:
        """Who has answered within an election timeout."""
        horizon = self._raft.now - self._raft.config.election_timeout
        active = {node: progress.last_response >= horizon for node, progress in self.progress.items()}
        active[self._raft.id] = True
        return active

    def _ask_quorum(self, standbys: frozenset[NodeId]) -> None:
        """Reads wait for a quorum to confirm this leader; the standbys are asked when it does not answer soon."""
        if not standbys:
            self._broadcast_heartbeat()
        else:
            age = self._age()
            for progress in self.progress.values():
                if progress.node not in standbys:
                    self._send_heartbeat(progress, age)
            self.confirm_due = self._raft.now + self._raft.config.standby_delay
        self._confirm_reads()

    def _broadcast_heartbeat(self) -> None:
        self.heartbeat_due = self._raft.now + self._raft.config.heartbeat_interval
        self.confirm_due = FOREVER
        age = self._age()
        for progress in self.progress.values():
            self._send_heartbeat(progress, age)

    def _age(self) -> float:
        """How long ago this node was certainly the leader."""
        return self._raft.now - self.lease_start() if self.established else FOREVER

    def _send_heartbeat(self, progress: Progress, age: float) -> None:
        raft, node, pending = self._raft, progress.node, self.reads.pending_id
        commit, newest = min(raft.log.commit, progress.match), raft.log.commit
        raft.send(Heartbeat(raft.term, raft.id, node, commit, pending, raft.stamp(), progress.stamp, age, newest))
        progress.commit_sent = max(progress.commit_sent, commit)

    def _notify_commit(self) -> None:
        """No AppendEntries took the news of a commit along in time: a heartbeat does."""
        self.notice_due = FOREVER
        age = self._age()
        for progress in self.progress.values():
            if progress.commit_sent < min(self._raft.log.commit, progress.match):
                self._send_heartbeat(progress, age)

    def on_heartbeat_response(self, message: HeartbeatResponse) -> None:
        progress, now = self.progress[message.src], self._raft.now
        progress.last_response = now
        progress.stamp = message.stamp
        progress.confirmed_at = max(progress.confirmed_at, self._raft.time_of(message.echo))
        progress.heartbeat_answered(now, self._raft.config.heartbeat_interval)
        if progress.state is PROBE and progress.match == self._raft.log.last_index():
            self._send_append(progress)  # it lacks nothing, so only the answer to an empty one ends the probing
        if message.read_id > progress.acked_read:
            progress.acked_read = message.read_id
            self._confirm_reads()

    def _confirm_reads(self) -> None:
        acked = {node: progress.acked_read for node, progress in self.progress.items()}
        acked[self._raft.id] = self.reads.pending_id
        for state in self.reads.confirm(committed_index(self._raft.configuration, acked)):
            self._answer_reads(state)
        if not self.reads.pending_id:
            self.confirm_due = FOREVER

    def _answer_reads(self, state: ReadState) -> None:
        """Those of this node go to its surroundings, those of followers back to them (thesis §6.4)."""
        own = []
        for token in state.tokens:
            if isinstance(token, RemoteRead):
                self._raft.send(ReadIndexResponse(self._raft.term, self._raft.id, token.node, token.id, state.index))
                self._bring_up_to_date(token.node)
            else:
                own.append(token)
        if own:
            self._raft.answer_reads(ReadState(state.index, own))

    def _bring_up_to_date(self, node: NodeId) -> None:
        """Reads wait there for what is committed: what it lacks of that goes along, with the news of the commit."""
        progress, commit = self.progress.get(node), self._raft.log.commit
        if progress is None:
            return  # it was removed since it asked
        while not progress.paused and progress.next <= commit and self._send_append(progress):
            pass
        if progress.commit_sent < min(commit, progress.match):
            self._send_heartbeat(progress, self._age())

    def lease_start(self) -> float:
        """Until this moment of the own clock a quorum has confirmed that no other leader exists (thesis §6.4.1)."""
        confirmed = {node: progress.confirmed_at for node, progress in self.progress.items()}
        return lease_start(self._raft.configuration, confirmed, self._raft.id, self._raft.now)

    def holds_lease(self, now: float) -> bool:
        """Whether a read may be served on the word of the clock, which shows ``now``: `RaftConfig.max_clock_drift`."""
        duration = self._raft.config.lease_duration
        return duration > 0 and self.established and not self.lease_void and now < self.lease_start() + duration

    # --- members (§6, thesis §4) --------------------------------------------------------------------------------------

    def propose_configuration(self, configuration: Configuration, *, careful: bool) -> int:
        """Append ``configuration`` as the next one; returns its index. See `Raft.propose_changes`."""
        log = self._raft.log
        if not self.established:
            raise ChangePending("the leader has not committed an entry of its term yet: try again shortly")
        if log.configurations.newest_index > log.commit:
            raise ChangePending(f"the change at index {log.configurations.newest_index} is not committed yet: wait")
        if self.transfer is not None:
            raise TransferInProgress(self.transfer.target)
        if careful:
            self._require_health(configuration)
        return self._append_configuration(configuration)

    def _append_configuration(self, configuration: Configuration) -> int:
        """It is in force from now on (§6); returns its index."""
        index = self._raft.log.last_index() + 1
        self.append([Entry(index, self._raft.term, EntryKind.CONFIGURATION, encode_configuration(configuration))])
        self._follow_configuration()
        self._confirm_reads()  # the quorum that it takes now may have confirmed some already
        return index

    def _require_health(self, configuration: Configuration) -> None:
        """New voters have caught up, and a quorum of the new configuration answers: the change can commit at once."""
        commit = self._raft.log.commit
        heard = {node for node, progress in self.progress.items() if progress.match} | {self._raft.id}
        active = {node: active and node in heard for node, active in self._active().items()}
        if vote_result(configuration, active) is not VoteResult.WON:
            silent = sorted(node for node in configuration.all_voters() if not active.get(node))
            raise ChangeRefused(f"too few of the new voters answer (silent: {silent}): bring them up first")
        for node in configuration.all_voters() - self._raft.configuration.all_voters():
            progress = self.progress.get(node)
            lag = commit if progress is None else commit - progress.match
            if lag > self._raft.config.max_promotion_lag and node not in configuration.witnesses:
                raise ChangeRefused(f"node {node} is {lag} entries behind: add it as a learner, and wait")

    def _follow_configuration(self) -> None:
        """Keep a `Progress` for each other member. Who was removed is served a while longer, to learn of it."""
        raft = self._raft
        members = set(raft.configuration.members()) - {raft.id}
        # The first thing a new member is sent is the entry that adds it; the first of a new leader its no-op.
        first = max(raft.log.last_index(), self.noop_index)
        for node in members - self.progress.keys():
            inflights = Inflights(raft.config.max_inflight_messages, raft.config.max_inflight_bytes)
            witness = node in raft.configuration.witnesses
            self.progress[node] = Progress(node, first, inflights, raft.now, witness=witness)
        for node in self.progress.keys() - members:
            self._departing.setdefault(node, FOREVER)
        for node in members & self._departing.keys():
            del self._departing[node]

    def _on_configuration_committed(self) -> None:
        """The newest configuration is committed: leave the joint phase, let go of who was removed (§6)."""
        raft = self._raft
        for node, until in self._departing.items():
            if until == FOREVER:
                self._departing[node] = raft.now + raft.config.election_timeout
        if self.transfer is not None:
            return  # no entry now that the target lacks; it goes on with this, or the end of the transfer does
        if raft.configuration.is_joint and raft.configuration.auto_leave:
            self._append_leave(raft.configuration)
        elif self._dismissed:
            self._resign()

    @property
    def _dismissed(self) -> bool:
        """Whether this node is no voter any longer, and that is committed: it must not go on leading."""
        log, configuration = self._raft.log, self._raft.configuration
        return log.configurations.newest_index <= log.commit and self._raft.id not in configuration.all_voters()

    def _append_leave(self, configuration: Configuration) -> None:
        self._append_configuration(leave_joint(configuration))

    def _forget_departed(self) -> None:
        for node in [node for node, until in self._departing.items() if until <= self._raft.now]:
            del self._departing[node], self.progress[node]

    # --- handing over (thesis §3.10) ----------------------------------------------------------------------------------

    def transfer_to(self, target: NodeId) -> None:
        """See `Raft.transfer_leadership`."""
        raft = self._raft
        if self.transfer is not None:
            if self.transfer.target == target:
                return
            raise TransferInProgress(self.transfer.target)
        if not self.may_lead(target):
            raise ChangeRefused(f"node {target} can not lead: it is no voter that keeps the whole log")
        self.transfer = Transfer(target, raft.now + raft.config.election_timeout)
        self._hand_over_if_ready()

    def successor(self) -> NodeId:
        """The live follower that would lead soonest: the one that has most of the log; 0 when none answers."""
        active = self._active()
        ready = [p for p in self.progress.values() if active[p.node] and self.may_lead(p.node)]
        return max(ready, key=lambda p: (p.match, -p.node)).node if ready else NO_NODE

    def may_lead(self, node: NodeId) -> bool:
        configuration = self._raft.configuration
        return node in configuration.voters and node in self.progress and node not in configuration.witnesses

    def _hand_over_if_ready(self) -> None:
        """Once the target has the whole log, it campaigns without waiting for any timer."""
        transfer = self.transfer
        if transfer is None or transfer.target not in self.progress:
            return
        if self.progress[transfer.target].match < self._raft.log.last_index():
            return
        self.lease_void = True
        self._raft.send(TimeoutNow(self._raft.term, self._raft.id, transfer.target))

    def _give_up_transfer(self) -> None:
        """The target did not take over in time: go on leading, unless this node is no member any longer."""
        self.transfer = None
        log = self._raft.log
        if self._dismissed:
            self._raft.become_follower(self._raft.term, NO_NODE)
        elif self.established and log.configurations.newest_index <= log.commit:
            self._on_configuration_committed()

    def _resign(self) -> None:
        """This node was removed: it has served the change, now somebody else leads (thesis §4.2.2)."""
        raft = self._raft
        self.transfer = Transfer(self.successor(), raft.now + raft.config.election_timeout)
        self._hand_over_if_ready()

    def _make_room_for_a_preferred_leader(self) -> None:
        """Leadership goes to a node that is preferred, healthy and close behind; tried now and then only."""
        raft = self._raft
        preferred, patience = raft.configuration.preferred, 5 * raft.config.election_timeout
        if not preferred or self.transfer is not None or raft.now - self._transfer_tried < patience:
            return
        recently = raft.now - 3 * raft.config.heartbeat_interval
        for node in preferred:
            if node == raft.id:
                return
            progress = self.progress.get(node)
            if progress is None or not self.may_lead(node):
                continue
            lag = raft.log.commit - progress.match  # under load the slower follower is never quite there
            close = progress.state is REPLICATE and lag <= raft.config.max_promotion_lag
            if close and progress.last_response >= recently:
                self._transfer_tried = raft.now
                self.transfer_to(node)
                return

    def check(self) -> None:
        """Verify the invariants stated at the top that one node can see."""
        raft = self._raft
        self.reads.check()
        members = set(raft.configuration.members()) - {raft.id}
        assert self.progress.keys() == members | self._departing.keys(), "3: progress of all members"
        for progress in self.progress.values():
            progress.check()
            assert progress.match <= raft.log.last_index(), "1: nobody matches more than the leader has"
        pending = [i for i in raft.log.configurations.indexes if i > raft.log.commit and i > self.noop_index]
        assert len(pending) <= 1, "4: one change at a time"

    def drop_reads(self) -> list[Any]:
        """Leadership is gone: the tokens of the own reads that can no longer be confirmed here."""
        return [token for token in self.reads.drop_all() if not isinstance(token, RemoteRead)]


def without_data(entry: Entry) -> Entry:
    """What a witness stores of an entry: its place, and the members when it changes them."""
    if entry.kind is EntryKind.CONFIGURATION or not entry.data:
        return entry
    return msgspec.structs.replace(entry, data=b"")
