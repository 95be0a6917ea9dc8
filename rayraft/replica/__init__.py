"""One Raft node without its surroundings: see `Replica`."""

from rayraft.replica.config import ReplicaConfig
from rayraft.replica.replica import Replica, Transport
from rayraft.replica.status import Counters, ReplicaStatus

__all__ = ["Counters", "Replica", "ReplicaConfig", "ReplicaStatus", "Transport"]
