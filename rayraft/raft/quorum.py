"""Quorums: which index is committed and who has won an election, for simple and joint configurations.

A quorum of a voter set is any majority of it. A quorum of a joint configuration is a majority of ``voters`` and a
majority of ``outgoing`` at once (Raft §6). Learners never count. Everything here rests on one property:

    Overlap. Any two quorums of a voter set share a node. A quorum of a joint configuration therefore shares a node
    with every quorum of either of its halves, and with every quorum of another configuration that has one of the
    halves in common: there is no moment at which two disjoint groups could decide.

An empty half has no say: it commits everything and wins every vote, so a configuration outside joint consensus is
the joint one with an empty ``outgoing``. Both results are ordered so that a joint configuration's is the ``min`` of
its halves'. Pure functions, called once for every response: no allocation that is not needed.

They ask that no id is repeated within a half, as `membership` guarantees.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import Final, TypeVar

from rayraft.raft.types import Configuration, NodeId

UNBOUNDED: Final = (1 << 63) - 1
"""The committed index of an empty configuration: above every index, the neutral element of ``min``."""


class VoteResult(enum.IntEnum):
    """Where an election stands. WON and LOST are final: no vote that is still to come changes them."""

    LOST = 1
    PENDING = 2
    WON = 3


def majority(n: int) -> int:
    """The size of the smallest quorum of ``n`` voters: the least number more than half."""
    return n // 2 + 1


Number = TypeVar("Number", int, float)


def committed_index(configuration: Configuration, match: Mapping[NodeId, Number]) -> Number:
    """The highest index that a quorum holds; ``UNBOUNDED`` when there are no voters.

    ``match`` says up to where each node's log is known to agree with the leader's; an absent node holds nothing (0).
    It serves for anything of which a quorum is to confirm the highest: a round of read requests, a moment in time.

    A leader may commit by this index only if the entry there is of its own term (§5.4.2): that is for the caller.
    """
    committed = _held_by_majority(configuration.voters, match)
    if not configuration.outgoing:
        return committed
    return min(committed, _held_by_majority(configuration.outgoing, match))


def vote_result(configuration: Configuration, votes: Mapping[NodeId, bool]) -> VoteResult:
    """What the votes so far decide (§5.2, joint §6). A node that is absent from ``votes`` has not answered yet.

    With True for every node heard from, ``WON`` says that those nodes form a quorum.
    """
    result = _majority_vote(configuration.voters, votes)
    if not configuration.outgoing:
        return result
    return min(result, _majority_vote(configuration.outgoing, votes))


def _held_by_majority(voters: Collection[NodeId], match: Mapping[NodeId, Number]) -> Number:
    n = len(voters)
    if n == 0:
        return UNBOUNDED
    ascending = sorted([match.get(node, 0) for node in voters])
    return ascending[n - majority(n)]  # this one and all above it: exactly a majority


def _majority_vote(voters: Collection[NodeId], votes: Mapping[NodeId, bool]) -> VoteResult:
    if not voters:
        return VoteResult.WON
    granted = pending = 0
    for node in voters:
        vote = votes.get(node)
        if vote is None:
            pending += 1
        elif vote:
            granted += 1
    needed = majority(len(voters))
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + pending >= needed else VoteResult.LOST
