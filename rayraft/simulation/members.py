"""What a group survives: which changes of members an operator may order, and which disks may be lost for good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import msgspec

from rayraft.raft.membership import ChangeRefused, decode_configuration, enter_joint, leave_joint, needs_joint, simple
from rayraft.raft.raft import Raft
from rayraft.raft.types import Configuration, Entry, NodeId
from rayraft.replica.administration import ChangeMembers, Order
from rayraft.simulation.disk import SimulatedLog

MAX_VOTERS = 7

_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


class Member(Protocol):
    spoilt: str
    left: bool
    store: SimulatedLog

    @property
    def raft(self) -> Raft | None: ...


def is_wise(nodes: Mapping[NodeId, Member], current: Configuration, order: bytes) -> bool:
    """Whether the group outlives what an order would make of ``current``; what the core refuses is for the core."""
    what = _orders.decode(order)
    if not isinstance(what, ChangeMembers):
        return True
    try:
        if not needs_joint(current, what.changes):
            after = [simple(current, what.changes)]
        else:
            joint = enter_joint(current, what.changes, auto_leave=True)
            after = [joint, leave_joint(joint)]
    except ChangeRefused:
        return True
    return all(
        outlives(nodes, one) and len(one.witnesses) <= 1 and len(one.all_voters()) <= MAX_VOTERS + 2 for one in after
    )


def outlives(nodes: Mapping[NodeId, Member], configuration: Configuration) -> bool:
    """Whether of each half only a minority has lost its disk: more than that no consensus can survive."""
    return all(
        2 * sum(bool(nodes[voter].spoilt) for voter in half) < len(half)
        for half in (configuration.voters, configuration.outgoing)
        if half
    )


def in_sight(nodes: Mapping[NodeId, Member]) -> Iterator[Configuration]:
    """Every configuration that is, or may come to be, in force at some node."""
    for node in nodes.values():
        if node.left or node.spoilt:
            continue
        yield node.store.snapshot().configuration
        for index in node.store.configuration_indexes():
            yield decode_configuration(_entry(node.store, index).data)
        if node.raft is not None:
            yield node.raft.configuration


def _entry(store: SimulatedLog, index: int) -> Entry:
    return store.entries(index, index + 1, 0)[0]
