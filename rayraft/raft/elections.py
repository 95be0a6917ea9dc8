"""How a node comes to lead, and whom it votes for: the election timer, pre-votes, votes, and the promise to a leader.

Sections named § are of the Raft paper (extended version), "thesis" is Ongaro's dissertation.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from rayraft.raft.hunt import Hunt
from rayraft.raft.lease import NEVER
from rayraft.raft.log import RaftLog
from rayraft.raft.quorum import VoteResult, vote_result
from rayraft.raft.ready import RaftConfig, Role
from rayraft.raft.types import NO_NODE, AnyMessage, Configuration, NodeId, RequestVote, VoteResponse

NOTHING: Mapping[NodeId, tuple[int, int]] = MappingProxyType({})


class ElectingNode(Protocol):
    """What elections need of the node that takes part in them (`Raft`)."""

    id: NodeId
    config: RaftConfig
    now: float
    term: int
    vote: NodeId
    role: Role
    leader: NodeId
    log: RaftLog

    @property
    def is_leader(self) -> bool: ...

    @property
    def configuration(self) -> Configuration: ...

    @property
    def is_witness(self) -> bool: ...

    @property
    def removed(self) -> bool: ...

    def follow(self, leader: NodeId) -> None: ...

    def become_follower(self, term: int, leader: NodeId) -> None: ...

    def become_leader(self, tails: Mapping[NodeId, tuple[int, int]]) -> None: ...

    def admit(self, message: AnyMessage) -> None: ...


class Elections:
    """One node's part in elections, for as long as it runs.

    Invariants (`check` verifies 5; the simulator the others):

    1. A vote is given once a term (§5.2), to a candidate whose log is at least as up to date (§5.4.1).
    2. Who is no voter of the configuration in force, or a witness, never campaigns; but one that it removes may, until
       that is committed (thesis §4.2.2).
    3. While a promise to a leader lasts, an election timeout from the last answer to it and also from a restart, the
       node neither campaigns nor votes, unless that leader hands over (thesis §6.4.1, §3.10).
    4. A pre-vote changes neither term nor vote, of whoever asks or answers (thesis §9.6).
    5. Votes are counted until there is a leader, and then forgotten.
    """

    __slots__ = (
        "_hunt",
        "_leader_heard",
        "_offers",
        "_promise_renewed",
        "_promised_until",
        "_raft",
        "_rng",
        "_unanswered",
        "_votes",
        "due",
    )

    def __init__(self, raft: ElectingNode, rng: random.Random) -> None:
        self._raft = raft
        self._rng = rng
        self._votes: dict[NodeId, bool] = {}
        self._leader_heard = NEVER  # when a leader of this term last showed itself
        # A node that has forgotten whom it promised to follow keeps still for as long as a promise lasts.
        self._promised_until = raft.now + raft.config.election_timeout if raft.term else NEVER
        self._promise_renewed = False  # since `Raft.ready` was last called
        self._hunt: Hunt | None = None  # the leader's process is known to be gone: campaign in quick succession
        self._unanswered: RequestVote | None = None  # the last pre-vote left alone because the leader seemed alive
        self._offers: dict[NodeId, VoteResponse] = {}  # pre-votes that came when this node was no candidate
        self.due = raft.now  # when to campaign, unless a leader shows itself
        self.reset_timer()

    # --- standing for election (§5.2, thesis §9.6) --------------------------------------------------------------------

    def campaign(self) -> None:
        """Stand for election, with a pre-vote first where that is on; who may not asks whether it was removed."""
        raft = self._raft
        if raft.is_leader or not self._may_campaign() or self.is_promised():
            self.reset_timer()
            if not raft.is_leader and not self.is_promised():
                raft.follow(NO_NODE)
                if not raft.removed:
                    self._ask_whether_removed()
            return
        if raft.config.pre_vote:
            self._become_pre_candidate()
        else:
            self._become_candidate()

    def _may_campaign(self) -> bool:
        raft = self._raft
        if raft.id in raft.configuration.all_voters():
            return not raft.is_witness and not raft.removed
        # Perhaps nobody who stays has the entry that removes this node, and nobody can win without it (thesis §4.2.2).
        known = raft.log.configurations.at(raft.log.commit)
        return raft.id in known.all_voters() and raft.id not in known.witnesses and not raft.removed

    def _ask_whether_removed(self) -> None:
        """Who can not campaign asks a vote of term 0, which nobody gives: the answer may be `Removed`."""
        raft = self._raft
        for node in raft.configuration.all_voters() - {raft.id}:
            raft.admit(RequestVote(0, raft.id, node, 0, 0, pre_vote=True))

    def _become_pre_candidate(self) -> None:
        raft = self._raft
        raft.role = Role.PRE_CANDIDATE
        if self._hunt is not None:
            self._hunt.asked += 1
        raft.follow(NO_NODE)
        self._ask_for_votes(raft.term + 1, pre_vote=True)

    def _become_candidate(self, *, transfer: bool = False) -> None:
        raft = self._raft
        raft.role = Role.CANDIDATE
        raft.follow(NO_NODE)
        raft.term, raft.vote = raft.term + 1, raft.id
        self._ask_for_votes(raft.term, pre_vote=False, transfer=transfer)

    def _ask_for_votes(self, term: int, *, pre_vote: bool, transfer: bool = False) -> None:
        raft = self._raft
        self.reset_timer()
        self._votes = {raft.id: True}
        if pre_vote and self._hunting:
            self._votes |= {node: True for node, offer in self._offers.items() if self._is_eligible(offer)}
        last_index, last_term = raft.log.last_index(), raft.log.last_term()
        for node in raft.configuration.all_voters() - self._votes.keys() - {self._known_gone}:
            raft.admit(RequestVote(term, raft.id, node, last_index, last_term, pre_vote, transfer))
        self._count_votes()

    def _count_votes(self) -> None:
        raft = self._raft
        result = vote_result(raft.configuration, self._votes)
        if result is VoteResult.WON and raft.role is Role.PRE_CANDIDATE:
            self._become_candidate()
        elif result is VoteResult.WON:
            self._win()
        elif result is VoteResult.LOST:
            raft.role = Role.FOLLOWER  # of nobody yet: the timer runs on

    def _win(self) -> None:
        tails = self._hunt.tails if self._hunt is not None else NOTHING
        self._hunt, self._votes = None, {}
        self._raft.become_leader(tails)

    def obey_timeout_now(self) -> None:
        """The leader hands over (thesis §3.10): it knows that this node can win, and gives up its own claim."""
        if not self._raft.is_leader and self._may_campaign():
            self._become_candidate(transfer=True)

    def reset_timer(self) -> None:
        """A fresh random timeout (§5.2); short while the leader is known to be dead and the others are learning it."""
        raft, timeout = self._raft, self._raft.config.election_timeout
        if self._hunt is not None and self._hunting:
            wait = self._hunt.patience(raft.term) * raft.config.crash_stagger
            self.due = raft.now + self._rng.uniform(wait, 3 * wait)
        else:
            self.due = raft.now + self._rng.uniform(timeout, 2 * timeout)

    # --- voting (§5.2, §5.4.1) ----------------------------------------------------------------------------------------

    def on_request_vote(self, message: RequestVote) -> None:
        raft = self._raft
        ahead = message.term > raft.term
        self._note_tail(message)
        if ahead and not message.transfer and self._hears_from_leader():
            self._unanswered = message if message.pre_vote else None
            return  # no term change either: this is what keeps a removed or isolated node from disturbing
        if ahead and not message.pre_vote:
            raft.become_follower(message.term, NO_NODE)
        # A term that came with another message is no news here any longer, and the promise stands all the same.
        bound = not message.transfer and self.is_promised()
        free = not bound and (raft.vote == message.src or (raft.vote == NO_NODE and raft.leader == NO_NODE))
        may_vote = message.term == raft.term and free if not message.pre_vote else ahead
        granted = may_vote and raft.log.is_up_to_date(message.last_index, message.last_term)
        if granted and not message.pre_vote:
            raft.vote = message.src
            self.reset_timer()  # only for a vote that is given: a refused candidate must not delay a good one
        elif granted and self._hunting:
            granted = self._give_way(message)
        elif may_vote and self._hunting and raft.role is Role.FOLLOWER and self._may_campaign():
            self.due = raft.now  # the other one's log is too short to win, and this one's is not
        self._answer(message.src, message.term if granted else raft.term, granted=granted, pre_vote=message.pre_vote)
        rival = may_vote and not granted and message.term == raft.term + 1
        if rival and self._hunting and raft.role is Role.PRE_CANDIDATE:
            # Who asks hears no leader either, and comes behind this node: it would grant what it is asked for.
            self._votes.setdefault(message.src, True)
            self._count_votes()

    def _answer(self, candidate: NodeId, term: int, *, granted: bool, pre_vote: bool) -> None:
        raft = self._raft
        last_index, last_term = raft.log.last_index(), raft.log.last_term()
        raft.admit(VoteResponse(term, raft.id, candidate, granted, pre_vote, last_index, last_term))

    def _give_way(self, message: RequestVote) -> bool:
        """After a crash every survivor campaigns at once; of equal logs the one with the lowest id goes first."""
        raft = self._raft
        equal = (message.last_term, message.last_index) == (raft.log.last_term(), raft.log.last_index())
        if raft.role is Role.PRE_CANDIDATE and equal and raft.id < message.src:
            return False
        if raft.role is not Role.CANDIDATE:
            raft.role = Role.FOLLOWER
            self.reset_timer()
        return True

    def on_vote_response(self, message: VoteResponse) -> None:
        raft = self._raft
        pre_granted = message.pre_vote and message.granted
        if message.term > raft.term and not pre_granted:
            raft.become_follower(message.term, NO_NODE)
            return
        if message.pre_vote:
            if pre_granted and raft.role is Role.FOLLOWER:
                self._offers[message.src] = message
            expected = raft.role is Role.PRE_CANDIDATE and (not message.granted or self._is_eligible(message))
        else:
            expected = raft.role is Role.CANDIDATE and message.term == raft.term
        if expected:
            self._note_tail(message)
            self._votes.setdefault(message.src, message.granted)
            self._count_votes()

    def _is_eligible(self, grant: VoteResponse) -> bool:
        """Whether a pre-vote that was granted, perhaps unasked, is good now and for this node's log (§5.4.1)."""
        own_tail = (self._raft.log.last_term(), self._raft.log.last_index())
        return grant.term == self._raft.term + 1 and (grant.last_term, grant.last_index) <= own_tail

    # --- a leader that lives (thesis §4.2.3, §6.4.1) ------------------------------------------------------------------

    def on_leader_heard(self) -> None:
        """A leader of this term shows itself, and is promised another election timeout."""
        self._leader_heard = self._raft.now
        self._promised_until, self._promise_renewed = self._raft.now + self._raft.config.election_timeout, True
        self._unanswered, self._offers = None, {}
        self.reset_timer()

    def give_promise(self) -> None:
        """The answer to the leader leaves now, and what it answers may be newer than the clock was when it came."""
        if self._promise_renewed:
            self._promised_until, self._promise_renewed = self._raft.now + self._raft.config.election_timeout, False

    def is_promised(self) -> bool:
        """Whether a leader may rely on it, for its lease, that this node takes no part in an election."""
        raft = self._raft
        return raft.config.max_clock_drift is not None and (self._promise_renewed or raft.now < self._promised_until)

    def _hears_from_leader(self) -> bool:
        """Whether a leader showed itself within the minimum election timeout, so no other is needed."""
        raft = self._raft
        if self.is_promised():
            return True
        if not raft.config.check_quorum:
            return False
        return raft.is_leader or (
            raft.leader != NO_NODE and raft.now - self._leader_heard < raft.config.election_timeout
        )

    # --- a leader that is gone ----------------------------------------------------------------------------------------

    def on_leader_gone(self, leader: NodeId) -> None:
        """Its process has ended, as it seems, and every survivor learns of it at about this time.

        Their ranks are spread from here, and the first in rank is offered the pre-votes of the others, so that it need
        not ask.
        """
        raft = self._raft
        self._leader_heard = NEVER
        start = self._promised_until if self.is_promised() else raft.now
        self._hunt = Hunt(leader, raft.term, start + raft.config.election_timeout)
        rivals = raft.configuration.all_voters() - frozenset(raft.configuration.witnesses) - {leader}
        rank = sum(voter < raft.id for voter in rivals)
        self.due = start + rank * raft.config.crash_stagger
        if self._unanswered is not None:  # somebody noticed it first
            self.on_request_vote(self._unanswered)
        elif rank and not self.is_promised():
            self._answer(min(rivals), raft.term + 1, granted=True, pre_vote=True)

    @property
    def _hunting(self) -> bool:
        return self._hunt is not None and self._raft.now < self._hunt.until

    @property
    def _known_gone(self) -> NodeId:
        return self._hunt.gone if self._hunt is not None and self._hunting else NO_NODE

    def _note_tail(self, message: RequestVote | VoteResponse) -> None:
        if self._hunt is not None:
            self._hunt.tails[message.src] = (message.last_index, message.last_term)

    # --- what becomes of the node otherwise ---------------------------------------------------------------------------

    def on_new_term(self) -> None:
        self._offers = {}

    def on_following(self, leader: NodeId) -> None:
        """The node is a follower now, of ``leader`` where one is known."""
        self._votes = {}
        if leader:
            self._hunt = None

    def check(self) -> None:
        """Verify what one node can see of the invariants stated at the top."""
        assert not (self._raft.is_leader and self._votes), "5: a leader counts no votes"
