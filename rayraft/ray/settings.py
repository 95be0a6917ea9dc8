"""What a user may choose for a group."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayraft.client.config import ClientConfig
from rayraft.errors import BadConfiguration
from rayraft.raft.ready import RaftConfig
from rayraft.raft.types import NodeId
from rayraft.ray.priority import NICENESS
from rayraft.ray.supervision import Rules
from rayraft.replica import ReplicaConfig

MAX_NODES = 9
SIZES = range(1, MAX_NODES + 1, 2)  # of a group, in voters


def bad_size(nodes: object) -> BadConfiguration:
    even = ": an even number adds no fault tolerance" if isinstance(nodes, int) and nodes % 2 == 0 else ""
    return BadConfiguration(f"nodes must be 1, 3, 5, 7 or 9, not {nodes!r}{even}")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the nodes of a group behave; every field of `RaftConfig` and `ReplicaConfig` that a user may want to turn."""

    election_timeout: float = 1.0
    heartbeat_interval: float = 0.1
    # Followers beyond a quorum get their entries so much later, many at once (see `RaftConfig`); 0: all at once.
    standby_delay: float = 0.02
    snapshot_entries: int = 100_000
    snapshot_bytes: int = 256 << 20
    snapshot_trailing: int = 1_000
    # See `ReplicaConfig`; 0: the nodes never compare their states.
    digest_entries: int = 50_000
    snapshot_trailing_bytes: int = 64 << 20
    snapshot_bytes_per_second: int = 128 << 20
    # By how much two nodes' clocks may differ in rate; None: no reads by lease (see `RaftConfig.max_clock_drift`).
    max_clock_drift: float | None = None
    # False leaves out every fsync: a benchmark's way to see what durability costs. A power loss then loses data.
    fsync: bool = True
    # Whether calls between two processes of one machine go through Ray's channels while they come often
    # (`rayraft.ray.channels`); False: all are remote calls, as between machines.
    channels: bool = True
    # Priority of the nodes' processes, from -20 (first) to 19, where the system lets them take it (root, or
    # CAP_SYS_NICE): before tasks that compute. None: that of Ray's workers, which is 15.
    niceness: int | None = NICENESS
    # Seconds until the supervisor replaces a node that does not answer, or whose machine is away, by a new one on
    # another machine. Long enough for a machine to start again: copying all the data takes longer. None: never.
    replace_after: float | None = 300.0
    # The same for a node whose disk is lost or damaged: it will not come back by itself. None: never.
    rebuild_after: float | None = 30.0
    # Seconds until the supervisor ends a process that answers nobody although its machine is up, so that Ray starts it
    # anew; twice as long after each time, for a node that only takes long to start. Longer than Ray takes to notice
    # that a machine is gone. None: never.
    restart_after: float | None = 60.0
    client: ClientConfig = field(default_factory=ClientConfig)

    def __post_init__(self) -> None:
        for name in ("replace_after", "rebuild_after", "restart_after"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise BadConfiguration(f"{name} must be above 0 seconds, or None for never, not {seconds}")
        if self.niceness is not None and not (isinstance(self.niceness, int) and -20 <= self.niceness < 20):
            raise BadConfiguration(f"niceness must be from -20 to 19, or None for Ray's, not {self.niceness!r}")

    @property
    def rules(self) -> Rules:
        return Rules(
            replace_after=self.replace_after, rebuild_after=self.rebuild_after, restart_after=self.restart_after
        )

    def replica_config(self, node: NodeId) -> ReplicaConfig:
        """Raises BadConfiguration for values out of range."""
        raft = RaftConfig(
            node_id=node,
            election_timeout=self.election_timeout,
            heartbeat_interval=self.heartbeat_interval,
            max_clock_drift=self.max_clock_drift,
            standby_delay=min(self.standby_delay, self.heartbeat_interval / 2),
        )
        return ReplicaConfig(
            raft=raft,
            snapshot_entries=self.snapshot_entries,
            snapshot_bytes=self.snapshot_bytes,
            snapshot_trailing=self.snapshot_trailing,
            digest_entries=self.digest_entries,
            snapshot_trailing_bytes=self.snapshot_trailing_bytes,
            snapshot_bytes_per_second=self.snapshot_bytes_per_second,
        )
