"""Who forms a quorum, told by trying every set of nodes: no code shared with `rayraft.raft.quorum`."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from itertools import combinations

from rayraft.raft.types import Configuration, NodeId


def is_quorum(configuration: Configuration, nodes: Collection[NodeId]) -> bool:
    """Whether ``nodes`` hold a majority of the voters, and of the outgoing ones too where there are any (§6)."""
    return all(
        2 * sum(voter in nodes for voter in half) > len(half)
        for half in (configuration.voters, configuration.outgoing)
        if half
    )


@lru_cache(maxsize=1024)
def overlap(one: Configuration, other: Configuration) -> bool:
    """Whether every quorum of ``one`` shares a node with every quorum of ``other``: else two groups could decide."""
    nodes = sorted(one.all_voters() | other.all_voters())
    return not any(
        is_quorum(one, group) and is_quorum(other, set(nodes) - set(group))
        for size in range(len(nodes) + 1)
        for group in combinations(nodes, size)
    )
