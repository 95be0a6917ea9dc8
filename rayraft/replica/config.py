"""The settings of one node."""

from __future__ import annotations

from dataclasses import dataclass

from rayraft.errors import BadConfiguration
from rayraft.raft.ready import RaftConfig


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """One node's settings. Sizes in bytes, times in seconds."""

    raft: RaftConfig
    # A snapshot is taken after this much was applied since the last one, whichever comes first. Rarer costs a longer
    # replay at a restart and more disk; more often costs a pass over the whole state.
    snapshot_entries: int = 100_000
    snapshot_bytes: int = 256 << 20
    # Entries kept behind a snapshot, so that a follower a little behind needs no snapshot; whichever is less.
    snapshot_trailing: int = 1_000
    snapshot_trailing_bytes: int = 64 << 20
    # What the snapshots on their way to all followers together may take of the network, bytes per second; 0: no limit.
    snapshot_bytes_per_second: int = 128 << 20
    # Replicas compare digests of their states after this many entries, and before a snapshot is taken for good (so the
    # log is cut a little later); 0: never. A digest is a pass over the whole state in a forked process, which takes
    # longer than pickling it: more often finds a command that is not deterministic sooner, and costs that much more.
    digest_entries: int = 0
    # A leader that takes longer than this part of an election timeout for a turn, three times within ten of them, hands
    # over to another node. Smaller reacts to a failing disk sooner; too small takes a large command for one.
    slow_turn: float = 0.3
    # The requests that wait when a turn begins become entries of at most this size.
    max_entry_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name in ("snapshot_entries", "snapshot_bytes", "max_entry_bytes"):
            if getattr(self, name) < 1:
                raise BadConfiguration(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("snapshot_trailing", "snapshot_trailing_bytes", "snapshot_bytes_per_second", "digest_entries"):
            if getattr(self, name) < 0:
                raise BadConfiguration(f"{name} must not be negative: {getattr(self, name)}")
