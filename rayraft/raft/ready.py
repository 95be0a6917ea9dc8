"""`RaftConfig` is what goes into the core, `Ready` what comes out of it: the whole contract with its surroundings."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import msgspec

from rayraft.errors import BadConfiguration
from rayraft.raft.reads import ReadState
from rayraft.raft.types import AnyMessage, Entry, HardState, NodeId, SnapshotMeta


class Role(enum.Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Joint(enum.Enum):
    """How a change of several voters at once is made (§6)."""

    AUTO = "auto"  # in one step where one voter changes, else jointly; the joint phase ends by itself
    IMPLICIT = "implicit"  # jointly in any case, and the phase ends by itself
    EXPLICIT = "explicit"  # jointly in any case, until somebody proposes to leave


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """How one node of the algorithm behaves. Times are in seconds, sizes in bytes."""

    node_id: NodeId
    # A follower campaigns after hearing nothing for 1 to 2 times this. Shorter finds a partition sooner; too short
    # takes a pause of the process (collection of garbage, a busy machine) for a death. Crashes are found faster by
    # `report_down` and do not wait for it.
    election_timeout: float = 1.0
    # How often an idle leader shows itself. A tenth of the election timeout survives several lost heartbeats.
    heartbeat_interval: float = 0.1
    # Candidates ask first whether they could win (thesis §9.6), so a node that was cut off does not disturb the rest.
    pre_vote: bool = True
    # A leader that has not heard from a quorum within an election timeout steps down, and followers that hear from a
    # leader refuse to vote (thesis §4.2.3, §6.2): a cut-off leader refuses clients in bounded time.
    check_quorum: bool = True
    # Entries in one AppendEntries. Larger amortises a call better; smaller keeps the pipeline moving.
    max_append_bytes: int = 1 << 20
    # Unanswered AppendEntries per follower, in messages and bytes: the depth of the pipeline.
    max_inflight_messages: int = 8
    max_inflight_bytes: int = 16 << 20
    # Proposals are refused while this much is neither committed nor rolled back: memory stays bounded without a quorum.
    max_uncommitted_bytes: int = 64 << 20
    # How much of the log is kept in memory; what is older is read from the store.
    cache_bytes: int = 16 << 20
    # Committed entries handed over in one Ready: bounds the time until the loop looks at its inbox again.
    max_apply_bytes: int = 1 << 20
    # How long a commit may wait for an AppendEntries to ride on before a heartbeat carries it; 0 sends it at once.
    commit_notice_delay: float = 0.01
    # How long the followers that a quorum does not need wait for their entries, so that many go in one message; 0:
    # nobody waits ("thrifty" in EPaxos, Moraru et al. 2013). A message costs a processor more than a hundred entries.
    # When a follower of the quorum has just stopped answering, what hangs on it takes longer by this much, once.
    standby_delay: float = 0.0
    # By how much two clocks may differ in rate, as a fraction (0.01: one per cent), for reads by lease; None: no node
    # trusts a clock, and such reads ask a quorum like the others. With a bound every node keeps its promise not to vote
    # for an election timeout after it heard the leader, and after a restart; so a crash is answered by an election
    # only when that has passed, and not within milliseconds by `report_down`. The same on every node.
    max_clock_drift: float | None = None
    # A learner becomes a voter only when it lacks no more entries than this.
    max_promotion_lag: int = 1000
    # After `report_down`, how long a follower waits per rank before it campaigns, so that they do not split the vote.
    crash_stagger: float = 0.015

    def __post_init__(self) -> None:
        if self.node_id < 1:
            raise BadConfiguration(f"node_id must be at least 1, not {self.node_id}")
        if not 0 < self.heartbeat_interval < self.election_timeout:
            raise BadConfiguration(
                f"heartbeat_interval ({self.heartbeat_interval} s) must be above 0 and below "
                f"election_timeout ({self.election_timeout} s)"
            )
        if self.max_clock_drift is not None and not (0 <= self.max_clock_drift < 1 and self.check_quorum):
            raise BadConfiguration("max_clock_drift must be at least 0 and below 1, and needs check_quorum")
        if self.standby_delay < 0:
            raise BadConfiguration(f"standby_delay must not be negative: {self.standby_delay}")
        for name in ("max_append_bytes", "max_inflight_messages", "max_inflight_bytes", "max_uncommitted_bytes"):
            if getattr(self, name) < 1:
                raise BadConfiguration(f"{name} must be at least 1")

    @property
    def lease_duration(self) -> float:
        """How long, on its own clock, a leader may rely on the promise of a quorum; 0 when clocks are not trusted."""
        return 0.0 if self.max_clock_drift is None else self.election_timeout * (1 - self.max_clock_drift)


class Ready(msgspec.Struct):
    """What the surroundings must do now, in this order; then call `Raft.advance` with it.

    1. Send ``messages`` at once: nothing in them depends on what is still to be written.
    2. Install ``snapshot`` if there is one: its bytes become the machine's state and the log's start.
    3. Write ``hard_state`` and ``entries`` in one atomic write; make it durable if ``must_sync``.
    4. Send ``messages_after``: they admit a term, a vote or entries that step 3 made durable.
    5. Apply ``committed`` in order, then answer ``reads`` from the state; ``refused_reads`` (their tokens) belong to
       another leader now.
    """

    hard_state: HardState | None = None
    entries: list[Entry] = []
    must_sync: bool = False
    snapshot: SnapshotMeta | None = None
    messages: list[AnyMessage] = []
    messages_after: list[AnyMessage] = []
    committed: list[Entry] = []
    reads: list[ReadState] = []
    refused_reads: list[Any] = []


class ProposalRefused(Exception):
    """The core did not take a proposal or read; nothing was logged."""


class NotLeader(ProposalRefused):
    """``leader`` is the node to ask instead, 0 while none is known."""

    def __init__(self, leader: NodeId) -> None:
        super().__init__(f"not the leader; the leader is {leader or 'not known'}")
        self.leader = leader


class TooMuchUncommitted(ProposalRefused):
    """`RaftConfig.max_uncommitted_bytes` is reached: try again when something has committed."""


class TransferInProgress(ProposalRefused):
    """Leadership is on its way to ``target``: hold what there is to propose until that has happened or failed."""

    def __init__(self, target: NodeId) -> None:
        super().__init__(f"leadership is on its way to node {target}")
        self.target = target
