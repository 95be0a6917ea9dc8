"""What one node says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from rayraft.raft.types import Configuration, NodeId
from rayraft.replica.divergence import Divergence


@dataclass(slots=True)
class Counters:
    """What this process has done since it started."""

    requests: int = 0
    reads: int = 0
    entries: int = 0
    syncs: int = 0
    snapshots: int = 0
    snapshots_installed: int = 0
    snapshots_refused: int = 0  # by followers, to whom this node sent something damaged
    digests: int = 0  # digests of the state, to be compared with those of the others
    rebuilt: int = 0  # states replaced because they had diverged
    handed_over: int = 0  # leaderships given up because this node's disk or machine stalled


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Where a replica stands; indexes of the log, and what a leader knows that each follower holds."""

    role: str
    term: int
    leader: NodeId
    serves: bool  # it leads, and has applied all that was committed before its term
    first_index: int
    last_index: int
    commit: int
    applied: int
    snapshot: int
    match: dict[NodeId, int]
    sessions: int
    counters: Counters
    configuration: Configuration  # the newest in the log
    configuration_committed: bool
    removed: bool  # it was a member and is none any longer, for good
    saving: bool = False  # a snapshot is being written
    snapshot_error: str = ""  # why the last snapshot could not be saved or received
    diverged: bool = False  # its state is wrong: it does not serve until that was rebuilt
    divergence: Divergence | None = None  # the last time that states differed
    checked: int = 0  # the last index at which its state was compared with the others, and was right
    answering: tuple[NodeId, ...] = ()  # whom a leader has heard within an election timeout
