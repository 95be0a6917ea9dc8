"""What operators ask of a leader: other members, another leader. Each is answered when it is done, or can not be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from rayraft.machine.requests import Status, not_leader, reply
from rayraft.raft.membership import Change, ChangePending
from rayraft.raft.raft import Raft
from rayraft.raft.ready import Joint, NotLeader, ProposalRefused, TransferInProgress
from rayraft.raft.types import NodeId
from rayraft.replica.admission import Answer


class ChangeMembers(msgspec.Struct, frozen=True, tag=1):
    """All ``changes`` at once, jointly where that is needed (Raft §6)."""

    changes: list[Change]
    members: list[NodeId] = []  # refused where one of them is no member any longer


class PreferLeaders(msgspec.Struct, frozen=True, tag=2):
    nodes: list[NodeId]


class TransferLeadership(msgspec.Struct, frozen=True, tag=3):
    target: NodeId


Order: TypeAlias = ChangeMembers | PreferLeaders | TransferLeadership

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


def encode_order(order: Order) -> bytes:
    return _encoder.encode(order)


@dataclass(slots=True)
class Open:
    order: Order
    index: int  # of the configuration it made; 0 for a transfer
    answer: Answer


class Administration:
    """Orders under way at the leader.

    1. Each is answered exactly once: OK when it is done, REFUSED when the core does not take it, BUSY when it will
       shortly, NOT_LEADER when leadership was lost meanwhile, so that whoever asked has to see what became of it.
    """

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._open: list[Open] = []

    def take(self, data: bytes, answer: Answer) -> None:
        raft = self._raft
        try:
            order = _decoder.decode(data)
            index = self._begin(order)
        except NotLeader as error:
            answer(not_leader(error.leader, raft.term))
        except (ChangePending, TransferInProgress):
            answer(reply(Status.BUSY))
        except (ProposalRefused, msgspec.DecodeError) as error:
            answer(reply(Status.REFUSED, str(error).encode()))
        else:
            self._open.append(Open(order, index, answer))

    def _begin(self, order: Order) -> int:
        if isinstance(order, ChangeMembers):
            if gone := set(order.members) - set(self._raft.log.configurations.newest.members()):
                raise ProposalRefused(f"{sorted(gone)} are no members: somebody else has changed the group")
            return self._raft.propose_changes(order.changes, joint=Joint.AUTO)
        if isinstance(order, PreferLeaders):
            return self._raft.propose_preferred(order.nodes)
        self._raft.transfer_leadership(order.target)
        return 0

    def tend(self) -> None:
        """Answer what is done; once after every turn."""
        if not self._open:
            return
        still_open = []
        for item in self._open:
            data = self._outcome(item)
            if data is None:
                still_open.append(item)
            else:
                item.answer(data)
        self._open = still_open

    def _outcome(self, item: Open) -> bytes | None:
        raft = self._raft
        if isinstance(item.order, TransferLeadership):
            if raft.leader == item.order.target:
                return reply(Status.OK)
            if raft.is_leader and not raft.transferring:
                return reply(Status.REFUSED, b"the target did not take over within an election timeout: is it healthy?")
            return None if raft.is_leader or not raft.leader else not_leader(raft.leader, raft.term)
        if not raft.is_leader:
            return not_leader(raft.leader, raft.term)
        configurations = raft.log.configurations
        joint = configurations.newest.is_joint and configurations.newest.auto_leave
        return reply(Status.OK) if configurations.newest_index <= raft.log.commit and not joint else None

    def refuse_all(self, data: bytes) -> None:
        refused, self._open = self._open, []
        for item in refused:
            item.answer(data)
