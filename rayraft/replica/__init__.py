"""One Raft node without its surroundings: see `Replica`."""

from rayraft.replica.replica import Counters, Replica, ReplicaConfig, ReplicaStatus, Transport

__all__ = ["Counters", "Replica", "ReplicaConfig", "ReplicaStatus", "Transport"]
