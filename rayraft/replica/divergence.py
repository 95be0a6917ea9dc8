"""Replicas compare their states at equal index: what finds a command that is not deterministic, or a broken memory.

Now and then the leader logs a *mark*, a DIGEST entry without data. Every node that keeps the state digests it right
after that entry and tells the leader; the leader logs the *verdict*, a DIGEST entry with the digests it was told. So
every node judges the same figures, and itself by its own digest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import msgspec

from rayraft.machine.replicated import ReplicatedMachine
from rayraft.raft.quorum import UNBOUNDED, majority
from rayraft.raft.raft import Raft
from rayraft.raft.ready import ProposalRefused
from rayraft.raft.types import NO_NODE, Entry, NodeId, StateDigest
from rayraft.replica.digester import Digester

PATIENCE = 10  # election timeouts that the leader waits for the digest of a node that answers otherwise
KEEP = 4  # own digests that are remembered
STAGGER = 0.15  # s from turn to turn: a copy of 400 MB takes a node 30 ms, two at once on two processors 60
FAR_BEHIND = 100  # entries: who is that comes to a mark at another moment than the rest


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """The digests at the mark ``index``, and the ``voters`` that keep the state: a majority of those decides."""

    index: int
    voters: tuple[NodeId, ...]
    digests: dict[NodeId, bytes]

    def agreed(self) -> bytes:
        """The digest that a majority of the voters has; empty when none has."""
        votes = Counter(self.digests[node] for node in self.voters if node in self.digests)
        digest, count = max(votes.items(), key=lambda item: item[1], default=(b"", 0))
        return digest if count >= majority(len(self.voters)) else b""

    def suspects(self) -> tuple[NodeId, ...]:
        """Who differs from the majority; without one, everyone outside of the largest group, or all where that ties."""
        groups = Counter(self.digests.values()).most_common(2)
        tied = len(groups) == 2 and groups[0][1] == groups[1][1]
        right = self.agreed() or (b"" if tied or not groups else groups[0][0])
        return tuple(sorted(node for node, digest in self.digests.items() if digest != right))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Verdict)


@dataclass(frozen=True, slots=True)
class Divergence:
    """That states differed: at which index, on which nodes, and by which command as soon as that is known."""

    index: int
    nodes: tuple[NodeId, ...]
    by_majority: bool  # whether a majority agrees, so that it is known who is wrong
    culprit: str = ""
    over: bool = False  # a later comparison found all states equal

    def __str__(self) -> str:
        names = " and ".join(map(str, self.nodes))
        is_was = "differed" if self.over else "differs"
        who = f"the state of node {names} {is_was} from that of the majority at index {self.index}"
        if not self.by_majority:
            is_was = "differed" if self.over else "differ"
            who = f"the states {is_was} at index {self.index} and no majority agreed (suspected: node {names})"
        why = self.culprit or "which command it was is not known (yet)"
        return f"{who}; {why}. A command must depend on nothing but the state and its arguments"


class StateCheck:
    """One node's part in the comparison.

    1. A digest is of the state right after the mark, with nothing of later entries, however late it is begun or known.
    2. A node is judged by a digest that this very process computed of the state it still has: `forget` follows
       every replacement of the state.
    3. ``checked`` is the highest mark at which a majority had this node's state. A snapshot of a later index may be of
       a wrong state: the replica neither records nor sends it.
    4. Witnesses take no part: they have no state. A new one may not know yet that it is one, so the leader leaves out
       what it tells, and no node judges itself before it knows that it is a member.
    """

    def __init__(
        self, raft: Raft, machine: ReplicatedMachine, digester: Digester, *, every: int, snapshot_index: int
    ) -> None:
        self._raft = raft
        self._machine = machine
        self._digester = digester
        self._every = every  # entries between two marks; 0: never
        self._own: dict[int, bytes] = {}
        self._digest_at: float | None = None  # when it is this node's turn at the newest mark
        self._waiting: tuple[int, Verdict] | None = None  # a verdict that came before the own digest was known
        self._reports: dict[NodeId, bytes] = {}  # at the newest mark
        self._ready_at: float | None = None  # when the leader had its own digest of the newest mark
        self._marked_at = raft.now
        self._reported: tuple[int, NodeId, float] = (0, NO_NODE, 0.0)
        self._proposed: tuple[int, int] = (0, 0)  # (term, index) of the last DIGEST entry of this leadership
        self.marked = snapshot_index
        self.settled = self.marked  # marks up to here have their verdict
        self._counted_from = self.marked  # the last DIGEST entry: none is due on account of another
        self.checked = snapshot_index
        self.trusted = True  # False from a verdict against this node until its state was replaced
        self.found: Divergence | None = None
        self.count = 0

    @property
    def enabled(self) -> bool:
        return self._every > 0

    @property
    def busy(self) -> bool:
        return self._digester.busy or self.waits

    # --- the log's side -----------------------------------------------------------------------------------------------

    def on_entry(self, entry: Entry) -> int:
        """A DIGEST entry was applied; see `poll` for what is returned."""
        if self._raft.is_witness:
            return 0
        self._counted_from = entry.index
        if entry.data:
            verdict = _decoder.decode(entry.data)
            if verdict.index <= self.settled:  # two leaders have closed the same round
                return 0
            self.settled = verdict.index
            return self._judge(entry.index, verdict)
        self.marked, self._reports, self._ready_at, self._marked_at = entry.index, {}, None, self._raft.now
        self._waiting = None
        if self.trusted:
            self._wait(self._place() * STAGGER)
            self.take_turn()
        else:
            self._keep(entry.index, b"")
        return 0

    def _place(self) -> int:
        """How many turns at the newest mark come before this node's."""
        raft, configuration = self._raft, self._raft.configuration
        if raft.leader in (NO_NODE, raft.id) or raft.id not in configuration.members():
            return 0
        if raft.log.commit - self.marked > FAR_BEHIND:
            return 0
        followers = sorted(configuration.all_voters() - {raft.leader, *configuration.witnesses})
        halves = [len(half) for half in (configuration.voters, configuration.outgoing) if half]
        at_once = max(1, min(half - majority(half) for half in halves))
        return 1 + (followers.index(raft.id) // at_once if raft.id in followers else 0)

    @property
    def waits(self) -> bool:
        """Whether the state stays as it is until this node's turn."""
        return self._digest_at is not None

    def _wait(self, seconds: float) -> None:
        self._digest_at, self._raft.apply_limit = self._raft.now + seconds, self.marked

    def _go_on(self) -> None:
        self._digest_at, self._raft.apply_limit = None, UNBOUNDED

    def take_turn(self) -> None:
        """Begin with the digest if it is time. A new leader does at once, when its first messages have left."""
        if self._digest_at is not None and (self._raft.now >= self._digest_at or self._raft.is_leader):
            self._go_on()
            self._digester.begin(self.marked, self._machine.digest)

    def poll(self) -> int:
        """Take in a digest that has become known; the index of a verdict against this node, or 0."""
        done = self._digester.poll() if self._digester.busy else None
        if done is None:
            return 0
        self._keep(*done)
        self.count += bool(done[1])
        if self._waiting is not None and self._waiting[1].index == done[0]:
            (index, verdict), self._waiting = self._waiting, None
            return self._judge(index, verdict)
        return 0

    def _keep(self, index: int, digest: bytes) -> None:
        self._own[index] = digest
        while len(self._own) > KEEP:
            del self._own[next(iter(self._own))]

    def _judge(self, index: int, verdict: Verdict) -> int:
        own = self._own.get(verdict.index) if self._raft.id in self._raft.configuration.members() else b""
        if own is None and verdict.index == self.marked and self._digester.busy:
            self._waiting = (index, verdict)
            return 0
        agreed = verdict.agreed()
        suspects = verdict.suspects() if len(set(verdict.digests.values())) > 1 else ()
        if own and agreed and own != agreed:
            self.found = Divergence(verdict.index, tuple(sorted({*suspects, self._raft.id})), True)
            self.trusted = False
            return index
        if suspects:
            culprit = self.found.culprit if self.found is not None else ""
            self.found = Divergence(verdict.index, suspects, bool(agreed), culprit)
        elif agreed and self.found is not None and self.trusted:
            self.found = replace(self.found, over=True)
        if self.trusted and own and own == agreed:
            self.checked = max(self.checked, verdict.index)
        return 0

    def forget(self, index: int) -> None:
        """The state was replaced by that of a snapshot of ``index``, which others have checked."""
        self._digester.close()
        self._go_on()
        self._own.clear()
        self._waiting = None
        if self.marked <= index:
            self.marked = self.settled = index
        else:
            self._keep(self.marked, b"")
        self.checked = max(self.checked, index)
        self.trusted = True

    def name(self, culprit: str) -> None:
        """Which command it was, in words."""
        if self.found is not None:
            self.found = replace(self.found, culprit=culprit)

    # --- the leader's side --------------------------------------------------------------------------------------------

    def propose(self, unchecked: int) -> None:
        """Log a mark or a verdict when it is time; ``unchecked`` is a snapshot that waits for one (0: none does)."""
        raft = self._raft
        if not raft.serves or raft.transferring or raft.uncommitted_full or self._under_way():
            return
        if self.marked > self.settled:
            if self._have_enough():
                voters = tuple(sorted(raft.configuration.all_voters() - set(raft.configuration.witnesses)))
                known = {node: digest for node, digest in sorted(self._all_reports().items()) if digest}
                self._log(_encoder.encode(Verdict(self.marked, voters, known)))
        elif self._mark_due(unchecked) and self._digester.prepare():  # all wait while the leader is copied
            self._log(b"")

    def _mark_due(self, unchecked: int) -> bool:
        passed = self._raft.log.applied - self._counted_from
        return self.enabled and (unchecked > max(self.checked, self.marked) or passed >= self._every)

    def _log(self, data: bytes) -> None:
        try:
            self._proposed = (self._raft.term, self._raft.propose_digest(data))
        except ProposalRefused:
            return

    def _under_way(self) -> bool:
        term, index = self._proposed
        return term == self._raft.term and index > self._raft.log.applied

    def _all_reports(self) -> dict[NodeId, bytes]:
        own = self._own.get(self.marked)
        return self._reports if own is None else {**self._reports, self._raft.id: own}

    def _have_enough(self) -> bool:
        """Whether everyone that can has told; a node that does not is waited for as long as the digest takes, or so."""
        raft = self._raft
        now, timeout = raft.now, raft.config.election_timeout
        known = self._all_reports()
        if self._ready_at is None:
            if self._digester.busy:
                return False
            self._ready_at = now
        patience = max(PATIENCE * timeout, 2 * (self._ready_at - self._marked_at))
        if now - self._ready_at >= patience:
            return True
        witnesses = raft.configuration.witnesses
        voters = raft.configuration.all_voters() - set(witnesses)
        if sum(node in known for node in voters) < majority(len(voters)):
            return False
        return not any(
            progress.match >= self.marked and progress.last_response >= now - timeout and node not in known
            for node, progress in raft.progress.items()
            if node not in witnesses
        )

    def on_report(self, message: StateDigest) -> None:
        progress = self._raft.progress.get(message.src)
        if message.index == self.marked and progress is not None and not progress.witness:
            self._reports[message.src] = message.digest

    # --- a follower's side --------------------------------------------------------------------------------------------

    def report(self) -> StateDigest | None:
        """Tell the leader, again and again until there is a verdict: messages may be lost, and leaders change."""
        raft, index = self._raft, self.marked
        if index <= self.settled or raft.leader in (NO_NODE, raft.id):
            return None
        digest = self._own.get(index)
        if digest is None:
            return None
        told_index, told, at = self._reported
        if (told_index, told) == (index, raft.leader) and raft.now - at < raft.config.election_timeout / 2:
            return None
        self._reported = (index, raft.leader, raft.now)
        return StateDigest(raft.term, raft.id, raft.leader, index, digest)

    def close(self) -> None:
        self._digester.close()
