"""The algorithm: one node's role, term, vote and log, driven only by its caller.

Time, randomness and stored entries are handed in; messages, entries and commands come out through `ready`. Sections
named § are of the Raft paper (extended version), "thesis" is Ongaro's dissertation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rayraft.raft.elections import Elections
from rayraft.raft.leader import FOREVER, Leader
from rayraft.raft.lease import NEVER, Freshness
from rayraft.raft.log import LogReader, RaftLog
from rayraft.raft.membership import (
    Change,
    check_fresh,
    enter_joint,
    leave_joint,
    needs_joint,
    prefer,
    simple,
)
from rayraft.raft.progress import Progress, ProgressState
from rayraft.raft.quorum import UNBOUNDED
from rayraft.raft.reads import ForwardedReads, ReadState, RemoteRead
from rayraft.raft.ready import Joint, NotLeader, RaftConfig, Ready, Role
from rayraft.raft.types import (
    NO_NODE,
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
    InstallSnapshotResponse,
    NodeId,
    ReadIndexRequest,
    ReadIndexResponse,
    Removed,
    RequestVote,
    SnapshotMeta,
    TimeoutNow,
    VoteResponse,
)

_OF_LEADERS = (AppendEntries, Heartbeat, InstallSnapshot)
_ANSWERS = (VoteResponse, AppendResponse, HeartbeatResponse, InstallSnapshotResponse)


class Raft:
    """One node of the group.

    Invariants (`check` verifies those that one node can see; the simulator verifies the rest across nodes):

    1. ``term`` never goes back, and ``vote`` changes only together with ``term`` or from none (§5.2).
    2. The configuration in force is the newest in the log (§6).
    3. ``leading`` exists exactly while the role is LEADER.
    4. Whatever admits a term, vote or entry leaves only in ``Ready.messages_after``, behind the write of it.
    """

    def __init__(self, config: RaftConfig, store: LogReader, rng: random.Random, now: float) -> None:
        self.config = config
        self.id: NodeId = config.node_id
        self.store = store
        self.log = RaftLog(store, cache_bytes=config.cache_bytes)
        hard_state = store.hard_state()
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader: NodeId = NO_NODE
        self.leading: Leader | None = None
        self.now = now
        self._told_removed = False
        self._started = floor_to_stamp(now)
        # So that no stamp of an earlier process is taken for one of this.
        self._stamp_base = rng.randrange(1, 1 << 30) - math.floor(now)
        self._forwarded = ForwardedReads(rng.getrandbits(48))
        self._freshness = Freshness()
        self._written = hard_state
        self._messages: list[AnyMessage] = []
        self._messages_after: list[AnyMessage] = []
        self._reads: list[ReadState] = []
        self._refused_reads: list[Any] = []
        self._snapshot: SnapshotMeta | None = None
        self._applying = self.log.applied  # committed entries up to here were handed out
        self.apply_limit = UNBOUNDED  # those above are held back; the surroundings may set it
        self.elections = Elections(self, rng)

    # --- what the surroundings may ask and say ------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.leading is not None

    @property
    def configuration(self) -> Configuration:
        """The configuration in force: the newest in the log (§6)."""
        return self.log.configurations.newest

    @property
    def is_witness(self) -> bool:
        """Also while the entry that removes it is not applied: it never was anything else."""
        known = self.log.configurations
        return self.id in known.newest.witnesses or self.id in known.at(self.log.applied).witnesses

    @property
    def removed(self) -> bool:
        """Whether this node was a member and is none any longer, for good."""
        applied = self.log.applied if self._snapshot is None else self._snapshot.index  # which comes before all else
        return self._told_removed or self.log.configurations.has_removed(self.id, applied)

    @property
    def serves(self) -> bool:
        """A leader whose no-op is applied: it knows all that was committed before its term (§8)."""
        return self.leading is not None and self.log.applied >= self.leading.noop_index

    @property
    def transferring(self) -> bool:
        """Whether leadership is on its way to another node, so that `propose` would raise TransferInProgress."""
        return self.leading is not None and self.leading.transfer is not None

    @property
    def uncommitted_full(self) -> bool:
        """Whether `propose` would raise TooMuchUncommitted."""
        return self.leading is not None and self.leading.uncommitted.full

    @property
    def progress(self) -> dict[NodeId, Progress]:
        """What the leader knows of the others; empty on every other node."""
        return self.leading.progress if self.leading else {}

    @property
    def answering(self) -> tuple[NodeId, ...]:
        """The others from whom the leader has heard within an election timeout; none on every other node."""
        return self.leading.answering if self.leading else ()

    @property
    def fresh_as_of(self) -> float:
        """Everything acknowledged before this moment (of this node's clock) is applied here; -inf: nothing is known."""
        if self.leading is not None and self.leading.established and self.log.applied >= self.log.commit:
            return self.leading.lease_start()
        return self._freshness.as_of(self.log.applied)

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do, unless a message comes first."""
        if self.leading is not None:
            return self.leading.next_deadline
        return min(self.elections.due, self._forwarded.repeat_at)

    def tick(self, now: float) -> None:
        """Let time pass: heartbeats and the quorum check of a leader, the election timer of everyone else."""
        if now > self.now:
            self.now = now
        if self.leading is not None:
            self.leading.tick()
        elif self.now >= self.elections.due:
            self.elections.campaign()

    def campaign(self) -> None:
        """Stand for election now (§5.2), as when the election timer ends."""
        self.elections.campaign()

    def propose(self, payloads: Sequence[bytes]) -> int:
        """Append one COMMAND entry per payload; returns the index of the first.

        Raises NotLeader; TooMuchUncommitted when the quorum lags behind by `RaftConfig.max_uncommitted_bytes`;
        TransferInProgress; ValueError without a payload.
        """
        return self._as_leader().propose(payloads)

    def propose_digest(self, data: bytes = b"") -> int:
        """Append a DIGEST entry; returns its index. Raises as `propose`."""
        return self._as_leader().propose([data], EntryKind.DIGEST)

    def _as_leader(self) -> Leader:
        if self.leading is None:
            raise NotLeader(self.leader)
        return self.leading

    # --- members, leadership ------------------------------------------------------------------------------------------

    def propose_changes(self, changes: Sequence[Change], *, joint: Joint = Joint.AUTO, careful: bool = True) -> int:
        """Append the configuration that ``changes`` make of the one in force; returns its index (§6, thesis §4).

        With ``Joint.EXPLICIT`` the joint phase lasts until no changes at all are proposed, which is refused outside of
        it. ``careful`` refuses voters that have not caught up, and a configuration of which no quorum answers now.
        Raises NotLeader, ChangeRefused, TransferInProgress.
        """
        leader, current = self._as_leader(), self.configuration
        check_fresh(current, changes)
        if not changes:
            after = leave_joint(current)
        elif joint is Joint.AUTO and not needs_joint(current, changes):
            after = simple(current, changes)
        else:
            after = enter_joint(current, changes, auto_leave=joint is not Joint.EXPLICIT)
        return leader.propose_configuration(after, careful=careful)

    def propose_preferred(self, nodes: Sequence[NodeId]) -> int:
        """Say who should lead, most preferred first; leadership moves there while that node is healthy.

        Returns the index of the entry. Raises as `propose_changes`.
        """
        return self._as_leader().propose_configuration(prefer(self.configuration, nodes), careful=False)

    def transfer_leadership(self, target: NodeId) -> None:
        """Have ``target`` lead (thesis §3.10): it gets what it lacks, while proposals are refused, and campaigns.

        After an election timeout without success this node goes on. Raises NotLeader, ChangeRefused (``target`` can
        not lead), TransferInProgress.
        """
        leader = self._as_leader()
        if target != self.id:
            leader.transfer_to(target)

    def may_lead(self, node: NodeId) -> bool:
        """Whether this node, as the leader, could have ``node`` lead."""
        return self.leading is not None and self.leading.may_lead(node)

    def hand_over(self) -> NodeId:
        """Transfer to the follower that is closest to this node's log; returns it, 0 where none answers or on others.

        For a leader that finds itself unfit: its disk or its machine stalls.
        """
        if self.leading is None or self.leading.transfer is not None:
            return NO_NODE
        target = self.leading.successor()
        if target:
            self.leading.transfer_to(target)
        return target

    # --- reads (§8, thesis §6.4) --------------------------------------------------------------------------------------

    def read_index(self, token: Any) -> None:
        """Ask for a linearizable read; ``token`` comes back in ``Ready.reads``. Raises NotLeader."""
        self._as_leader().reads.add(token)

    def lease_read(self, token: Any) -> None:
        """As `read_index`, without asking a quorum while the lease holds. Raises NotLeader.

        The last `tick` was given a time at or after the arrival of the read: the lease is judged by it.
        """
        leader = self._as_leader()
        if leader.holds_lease(self.now):
            self._reads.append(ReadState(self.log.commit, [token]))
        else:
            leader.reads.add(token)

    def may_read(self, now: float) -> bool:
        """Whether a read by lease that has arrived by ``now`` (same clock as `tick`) needs nothing but the state."""
        return self.leading is not None and self.log.applied >= self.log.commit and self.leading.holds_lease(now)

    def follower_read(self, token: Any) -> None:
        """A linearizable read that this node answers from its own state; the leader only gives the index.

        Raises NotLeader while no leader is known.
        """
        if self.leading is not None:
            self.leading.reads.add(token)
        elif self.leader == NO_NODE:
            raise NotLeader(NO_NODE)
        else:
            self._forwarded.add(token)

    def answer_reads(self, state: ReadState) -> None:
        """For `Leader`: these reads are confirmed."""
        self._reads.append(state)

    # --- what the transport knows -------------------------------------------------------------------------------------

    def report_down(self, node: NodeId, now: float) -> None:
        """The process of ``node`` seems to be gone; a false alarm is harmless, for the others refuse the pre-vote.

        Every survivor learns of it at about the same time, ``now``.
        """
        self.now = max(self.now, now)
        if self.leading is not None:
            self.report_unreachable(node)
        elif node == self.leader and self.config.pre_vote:
            self.follow(NO_NODE)
            self.elections.on_leader_gone(node)

    def report_unreachable(self, node: NodeId) -> None:
        """A message to ``node`` was lost: stop pipelining to it until it answers."""
        progress = self.progress.get(node)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    def snapshot_chunk_received(self, message: InstallSnapshot, held: int) -> None:
        """A part of a snapshot came from the leader and ``held`` bytes are there now: the leader is alive, tell it."""
        if message.term < self.term:
            self._on_stale(message)
            return
        if message.term > self.term:
            self.become_follower(message.term, message.src)
        self._on_leader_heard(message.src)
        self.admit(InstallSnapshotResponse(self.term, self.id, message.src, message.snapshot.index, held))

    def report_snapshot(self, node: NodeId, *, delivered: bool) -> None:
        """The sending of a snapshot has ended; without success the follower is probed again after a heartbeat."""
        progress = self.progress.get(node)
        if progress is not None and progress.state is ProgressState.SNAPSHOT:
            if not delivered:
                progress.snapshot_index = 0
            progress.become_probe()
            progress.probe_sent = True  # wait for its answer (or a heartbeat's) before sending entries

    # --- the contract -------------------------------------------------------------------------------------------------

    def ready(self) -> Ready | None:
        """What there is to do now, or None. See `Ready` for the order; `advance` must follow before the next call."""
        self.elections.give_promise()
        if self.leading is not None:
            self.leading.replicate()
        else:
            self._forward_reads()
        if self._is_idle():
            return None
        ready = Ready(
            entries=self.log.offer(),
            snapshot=self._snapshot,
            committed=self._next_committed(),
            reads=self._reads,
            refused_reads=self._refused_reads,
        )
        hard_state = HardState(self.term, self.vote, self.log.commit)
        new_vote = self.term != self._written.term or self.vote != self._written.vote
        ready.must_sync = new_vote or bool(ready.entries)
        if ready.must_sync or self._snapshot is not None:
            ready.hard_state = self._written = hard_state
        ready.messages, ready.messages_after = self._messages, self._messages_after
        if new_vote or self._snapshot is not None:  # nothing may admit a term that is not written yet
            ready.messages, ready.messages_after = [], ready.messages + ready.messages_after
        self._messages, self._messages_after, self._reads, self._refused_reads, self._snapshot = [], [], [], [], None
        return ready

    def _is_idle(self) -> bool:
        """Whether there is nothing to write, send, apply or answer."""
        log, written = self.log, self._written
        return (
            not (self._messages or self._messages_after or self._reads or self._refused_reads)
            and self._snapshot is None
            and log.offered >= log.last_index()
            and self._applying >= min(log.commit, self.apply_limit)
            and self.term == written.term
            and self.vote == written.vote
        )

    def advance(self, ready: Ready) -> None:
        """Everything in ``ready`` was done."""
        if ready.snapshot is not None:
            self.log.applied_to(ready.snapshot.index)
        if ready.entries:
            last = ready.entries[-1]
            self.log.stable_to(last.index, last.term)
            if self.leading is not None:
                self.leading.maybe_commit()  # the leader counts itself once its write is durable
        if ready.committed:
            self.log.applied_to(ready.committed[-1].index)

    def _next_committed(self) -> list[Entry]:
        """What is behind a mark is not handed out together with it: it may be held back there (`apply_limit`)."""
        last = min(self.log.commit, self.apply_limit)
        if self._snapshot is not None or self._applying >= last:
            return []
        entries = self.log.entries(self._applying + 1, self.config.max_apply_bytes, last + 1)
        count = next((number for number, entry in enumerate(entries, 1) if entry.is_mark), len(entries))
        self._applying = entries[count - 1].index
        return entries[:count]

    # --- roles --------------------------------------------------------------------------------------------------------

    def become_follower(self, term: int, leader: NodeId) -> None:
        stepped_down = self.leading
        if term > self.term:
            self.term, self.vote = term, NO_NODE
            self.elections.on_new_term()
            # A new leader may replace, before it is written, what an answer that has not left yet acknowledges.
            self._messages_after = [m for m in self._messages_after if not isinstance(m, AppendResponse)]
        self.role, self.leading = Role.FOLLOWER, None
        self.follow(leader)
        self.elections.on_following(leader)
        if stepped_down is not None:
            self.elections.reset_timer()
            self._refused_reads.extend(stepped_down.drop_reads())
            if stepped_down.established:  # as fresh as it was, for stale reads
                self._freshness.heard(self.log.commit, stepped_down.lease_start(), self.log.applied)

    def follow(self, leader: NodeId) -> None:
        """``leader`` is the leader from now on, or nobody is known; reads on their way to another one end."""
        if leader != self.leader:
            self._refused_reads.extend(self._forwarded.drop_all())
        self.leader = leader

    def become_leader(self, tails: Mapping[NodeId, tuple[int, int]]) -> None:
        """For `Elections`: won. ``tails``: see `Leader`."""
        self.role = Role.LEADER
        self.follow(self.id)
        self.leading = Leader(self, tails)

    # --- messages -----------------------------------------------------------------------------------------------------

    def step(self, message: AnyMessage) -> None:
        """Take in one message; it may be late, repeated or out of order, and of any term.

        `tick` with a time at or after its arrival comes before the next `ready`.
        """
        if self._is_of_removed(message):
            self.admit(Removed(self.term, self.id, message.src))
        elif isinstance(message, RequestVote):
            self.elections.on_request_vote(message)
        elif isinstance(message, VoteResponse):
            self.elections.on_vote_response(message)
        elif isinstance(message, Removed):
            self._on_removed()
        elif message.term < self.term:
            self._on_stale(message)
        else:
            self._step_current(message)

    def _is_of_removed(self, message: AnyMessage) -> bool:
        """Whether a node that is no member any longer asks for a vote, or answers in a term that is news here.

        Neither is for it to do (thesis §4.2.3). What a leader says stands: it may be serving its own removal.
        """
        disturbs = isinstance(message, RequestVote) or (message.term > self.term and isinstance(message, _ANSWERS))
        return disturbs and self.log.configurations.has_removed(message.src, self.log.commit)

    def _step_current(self, message: AnyMessage) -> None:
        from_leader = isinstance(message, _OF_LEADERS)
        if message.term > self.term:
            self.become_follower(message.term, message.src if from_leader else NO_NODE)
        if from_leader:
            self._on_leader_heard(message.src)
        if isinstance(message, AppendEntries):
            self._on_append(message)
        elif isinstance(message, Heartbeat):
            self._on_heartbeat(message)
        elif isinstance(message, InstallSnapshot):
            self._on_snapshot(message)
        elif isinstance(message, TimeoutNow):
            self.elections.obey_timeout_now()
        elif isinstance(message, ReadIndexResponse):
            self._on_read_index_response(message)
        elif self.leading is not None and message.src in self.leading.progress:
            if isinstance(message, AppendResponse):
                self.leading.on_append_response(message)
            elif isinstance(message, HeartbeatResponse):
                self.leading.on_heartbeat_response(message)
            elif isinstance(message, ReadIndexRequest):
                self.leading.reads.add(RemoteRead(message.src, message.id))

    def _on_stale(self, message: AnyMessage) -> None:
        """A leader of an older term does not know of this one; tell it, so that it steps down (§5.1).

        With pre-vote this answer is what brings back a node whose term ran ahead while it was cut off.
        """
        if isinstance(message, _OF_LEADERS):
            self.admit(AppendResponse(self.term, self.id, message.src, False, 0))

    def _on_leader_heard(self, leader: NodeId) -> None:
        if self.is_leader:
            raise AssertionError(f"two leaders in term {self.term}: {self.id} and {leader}")
        if self.role is not Role.FOLLOWER or self.leader != leader:
            self.become_follower(self.term, leader)
        self.elections.on_leader_heard()

    def _on_removed(self) -> None:
        if not self.is_leader:
            self._told_removed = True
            self.become_follower(self.term, NO_NODE)

    # --- a follower's log (§5.3) --------------------------------------------------------------------------------------

    def _on_append(self, message: AppendEntries) -> None:
        if message.prev_index < self.log.commit:
            # Late, or from before a snapshot: all that was committed matches (§5.4.3), so that is the answer.
            skipped = self.log.commit - message.prev_index
            entries = message.entries[skipped:]
            matched = (
                self.log.accept(self.log.commit, self.log.term(self.log.commit) or 0, entries) if entries else None
            )
            self._acknowledge(message.src, self.log.commit if matched is None else matched)
            self._learn_commit(message.commit, matched or 0)
            return
        matched = self.log.accept(message.prev_index, message.prev_term, message.entries)
        if matched is None:
            term, first = self.log.conflict(message.prev_index)
            self.admit(AppendResponse(self.term, self.id, message.src, False, message.prev_index, term, first))
            return
        self._acknowledge(message.src, matched)
        self._learn_commit(message.commit, matched)

    def _acknowledge(self, leader: NodeId, index: int) -> None:
        self.admit(AppendResponse(self.term, self.id, leader, True, index))

    def _learn_commit(self, leader_commit: int, verified: int) -> None:
        """Follow the leader's commit index, only as far as this log is verified against the leader's (figure 2)."""
        self.log.commit_to(min(leader_commit, verified))

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self.log.commit_to(message.commit)  # the leader never claims more than what it knows to match here
        if message.age < FOREVER:
            age = message.age / (1 - (self.config.max_clock_drift or 0.0))  # the leader's clock may be the slower one
            self._freshness.heard(message.newest, self.time_of(message.echo) - age, self.log.applied)
        self.admit(HeartbeatResponse(self.term, self.id, message.src, message.read_id, self.stamp(), message.stamp))

    def _on_snapshot(self, message: InstallSnapshot) -> None:
        snapshot = message.snapshot
        if snapshot.index > self.log.commit and not self.log.matches(snapshot.index, snapshot.term):
            self.log.restore(snapshot)
            self._snapshot = snapshot
            self._applying = snapshot.index
            self._acknowledge(message.src, snapshot.index)
            return
        # The log holds all of it already: only the commit index is news (§7).
        self.log.commit_to(snapshot.index)
        self._acknowledge(message.src, self.log.commit)

    # --- a follower's reads (thesis §6.4) -----------------------------------------------------------------------------

    def _forward_reads(self) -> None:
        if self.leader == NO_NODE:
            return
        id = self._forwarded.request(self.now, self.config.heartbeat_interval)
        if id is not None:
            self.send(ReadIndexRequest(self.term, self.id, self.leader, id))

    def _on_read_index_response(self, message: ReadIndexResponse) -> None:
        state = self._forwarded.answered(message.id, message.index)
        if state is not None:
            self._reads.append(state)

    # --- what leaves --------------------------------------------------------------------------------------------------

    def send(self, message: AnyMessage) -> None:
        """``message`` admits nothing that is still to be written."""
        self._messages.append(message)

    def admit(self, message: AnyMessage) -> None:
        """``message`` admits a term, a vote or an entry: it leaves behind the write of that."""
        self._messages_after.append(message)

    def stamp(self) -> float:
        """This node's clock, in a form that another process of the same node never used."""
        return floor_to_stamp(self.now) + self._stamp_base

    def time_of(self, echo: float) -> float:
        """When the stamp was made that came back, on this node's clock; -inf for one that this process never made."""
        moment = echo - self._stamp_base
        return moment if self._started <= moment <= self.now else NEVER

    def check(self) -> None:
        """Verify the invariants stated at the top that one node can see."""
        assert self.term >= self._written.term, "1: term never goes back"
        if self.term == self._written.term:
            assert self._written.vote in (NO_NODE, self.vote), "1: vote changes only with the term"
        assert (self.leading is not None) == (self.role is Role.LEADER), "3: leading exactly in the role of leader"
        self.log.check()
        self.elections.check()
        if self.leading is not None:
            self.leading.check()


STAMPS_PER_SECOND = 1 << 20  # a power of two, so that sums with stamps are exact and `Raft.time_of` never rounds up


def floor_to_stamp(moment: float) -> float:
    return math.floor(moment * STAMPS_PER_SECOND) / STAMPS_PER_SECOND
