"""Changes of membership: which configuration may follow which (Raft §6, thesis chapter 4).

One voter at a time may change in one step (`simple`), for then every quorum before shares a node with every quorum
after. Anything more goes through joint consensus (`enter_joint`, `leave_joint`), in which both sets of voters decide.
Pure functions from one `Configuration` to the next; the data of a CONFIGURATION entry is the whole result.

Invariants of a configuration (`check` verifies them; every function here keeps them):

1. ``voters``, ``outgoing``, ``learners``, ``learners_next`` and ``witnesses`` ascend strictly; no id is `NO_NODE`.
2. No learner is a voter of either half, and nobody in ``learners_next`` is a voter or learner already.
3. ``learners_next`` is a part of ``outgoing``: a voter that is demoted votes in its half until that is left.
4. Outside joint consensus ``learners_next`` is empty and ``auto_leave`` is off.
5. Witnesses are voters of either half, and in neither are they a majority: every quorum has a voter that stores the
   data, and somebody can lead.
6. ``highest_id`` is no less than any member, once there was a change: no id is ever used again.
7. ``preferred`` names members that are no witnesses, each once.
8. Where there are members at all, there are voters.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec

from rayraft.raft.ready import ProposalRefused
from rayraft.raft.types import NO_NODE, Configuration, NodeId


class ChangeRefused(ProposalRefused):
    """This change of membership can not follow the configuration in force; nothing was changed."""


class ChangePending(ChangeRefused):
    """The leader can not change the members at this moment, but will shortly: ask again."""


class ChangeKind(enum.IntEnum):
    ADD_VOTER = 1  # also promotes a learner
    ADD_LEARNER = 2  # also demotes a voter
    REMOVE = 3
    ADD_WITNESS = 4


class Change(msgspec.Struct, frozen=True, array_like=True):
    """What is to happen to one node. A change of what is so already, or of `NO_NODE`, is none."""

    kind: ChangeKind
    node: NodeId


# --- from one configuration to the next -------------------------------------------------------------------------------


def simple(configuration: Configuration, changes: Iterable[Change]) -> Configuration:
    """Everything at once, where at most one voter differs; learners are free (thesis §4.2.1)."""
    _require_settled(configuration)
    draft = _Draft.of(configuration)
    draft.apply(changes)
    after = draft.finish()
    if len(set(configuration.voters) ^ set(after.voters)) > 1:
        _refuse("more than one voter would change at once: use joint consensus, or one change after the other")
    return after


def enter_joint(configuration: Configuration, changes: Iterable[Change], *, auto_leave: bool) -> Configuration:
    """The first half of a change of any size: the old voters decide together with the new ones (§6).

    ``auto_leave`` asks the leader to leave as soon as this is committed.
    """
    _require_settled(configuration)
    if not configuration.voters:
        _refuse("there are no voters yet: make the first one a member by a simple change")
    draft = _Draft.of(configuration)
    draft.outgoing = set(draft.voters)
    draft.auto_leave = auto_leave
    draft.apply(changes)
    return draft.finish()


def leave_joint(configuration: Configuration) -> Configuration:
    """The second half: the new voters decide alone, and who was demoted becomes a learner."""
    if not configuration.is_joint:
        _refuse("no joint configuration is in force: there is nothing to leave")
    draft = _Draft.of(configuration)
    draft.outgoing = set()
    draft.learners |= draft.learners_next
    draft.learners_next = set()
    draft.auto_leave = False
    return draft.finish()


def prefer(configuration: Configuration, nodes: Sequence[NodeId]) -> Configuration:
    """The same members, of whom ``nodes`` should lead, the most preferred first."""
    for node in nodes:
        if node not in set(configuration.members()):
            _refuse(f"node {node} is not a member, so it can not be preferred: add it first")
        if node in configuration.witnesses:
            _refuse(f"node {node} is a witness and never leads: prefer one that stores data")
    return msgspec.structs.replace(configuration, preferred=tuple(dict.fromkeys(nodes)))


def needs_joint(configuration: Configuration, changes: Iterable[Change]) -> bool:
    """Whether more than one voter would change, so that `simple` refuses what `enter_joint` may allow."""
    draft = _Draft.of(configuration)
    draft.apply(changes)
    return len(set(configuration.voters) ^ draft.voters) > 1


def check_fresh(configuration: Configuration, changes: Iterable[Change]) -> None:
    """Raise ChangeRefused where an id would come back: what was once promised under it may be on a lost disk."""
    members = set(configuration.members())
    highest = max(members, default=configuration.highest_id)
    highest = max(highest, configuration.highest_id)
    removed: set[NodeId] = set()
    for change in changes:
        if change.kind is ChangeKind.REMOVE:
            removed.add(change.node)
        elif change.node in removed or (change.node not in members and NO_NODE < change.node <= highest):
            _refuse(f"node {change.node} was a member before, and ids are never used again: take {highest + 1} or more")


@dataclass(slots=True)
class _Draft:
    """A configuration in the making."""

    voters: set[NodeId]
    outgoing: set[NodeId]
    learners: set[NodeId]
    learners_next: set[NodeId]
    auto_leave: bool
    witnesses: set[NodeId]  # of all that were members on the way, also those that are removed again
    preferred: list[NodeId]
    highest_id: NodeId
    with_data: set[NodeId] = field(init=False)  # likewise, the members that are no witnesses

    @classmethod
    def of(cls, c: Configuration) -> _Draft:
        return cls(
            voters=set(c.voters),
            outgoing=set(c.outgoing),
            learners=set(c.learners),
            learners_next=set(c.learners_next),
            auto_leave=c.auto_leave,
            witnesses=set(c.witnesses),
            preferred=list(c.preferred),
            highest_id=c.highest_id,
        )

    def __post_init__(self) -> None:
        self.with_data = self.members() - self.witnesses
        self.highest_id = max(self.highest_id, max(self.members(), default=NO_NODE))

    def members(self) -> set[NodeId]:
        return self.voters | self.outgoing | self.learners | self.learners_next

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            node = change.node
            if node == NO_NODE:
                continue
            if change.kind is ChangeKind.REMOVE:
                self._remove(node)
                self.preferred = [other for other in self.preferred if other != node]
                continue
            self._note_kind(node, witness=change.kind is ChangeKind.ADD_WITNESS)
            self._remove(node)
            if change.kind is not ChangeKind.ADD_LEARNER:
                self.voters.add(node)
            elif node in self.outgoing:
                self.learners_next.add(node)
            else:
                self.learners.add(node)

    def _note_kind(self, node: NodeId, *, witness: bool) -> None:
        if node in (self.with_data if witness else self.witnesses):
            _refuse(
                f"node {node} is {'no witness' if witness else 'a witness'}, and stays so: "
                f"remove it and add a new node under a new id"
            )
        (self.witnesses if witness else self.with_data).add(node)
        self.highest_id = max(self.highest_id, node)

    def _remove(self, node: NodeId) -> None:
        for group in (self.voters, self.learners, self.learners_next):
            group.discard(node)

    def finish(self) -> Configuration:
        if not self.voters:
            _refuse("no voter would be left: add another voter first")
        if self.voters <= self.witnesses:
            _refuse("only witnesses would vote, and a witness never leads: keep or add a voter that stores data")
        if witnesses_decide(self.voters, self.witnesses):
            _refuse(
                "witnesses alone would be a majority, and could commit what no disk holds: add a voter with data first"
            )
        return Configuration(
            voters=tuple(sorted(self.voters)),
            outgoing=tuple(sorted(self.outgoing)),
            learners=tuple(sorted(self.learners)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
            witnesses=tuple(sorted(self.witnesses & (self.voters | self.outgoing))),
            highest_id=self.highest_id,
            preferred=tuple(self.preferred),
        )


def _require_settled(configuration: Configuration) -> None:
    if configuration.is_joint and configuration.auto_leave:
        raise ChangePending("a joint configuration is in force, and ends by itself: ask again shortly")
    if configuration.is_joint:
        _refuse("a joint configuration is in force: leave it first")


def witnesses_decide(voters: Set[NodeId], witnesses: Set[NodeId]) -> bool:
    """Whether the witnesses among ``voters`` are a majority of them."""
    return 2 * len(voters & witnesses) > len(voters)


def _refuse(message: str) -> NoReturn:
    raise ChangeRefused(message)


# --- the data of a CONFIGURATION entry --------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    return _encoder.encode(configuration)


def decode_configuration(data: bytes) -> Configuration:
    """Fields that an older version did not write have their defaults."""
    return _decoder.decode(data)


# --- the invariants ---------------------------------------------------------------------------------------------------


def check(configuration: Configuration) -> None:
    """Verify the invariants stated at the top; AssertionError names the one that broke."""
    c = configuration
    for ids in (c.voters, c.outgoing, c.learners, c.learners_next, c.witnesses):
        assert list(ids) == sorted(set(ids)), "1: ids ascend, each once"
        assert NO_NODE not in ids, "1: no id is NO_NODE"
    voters, outgoing, witnesses = set(c.voters), set(c.outgoing), set(c.witnesses)
    assert not set(c.learners) & (voters | outgoing), "2: no learner votes"
    assert not set(c.learners_next) & (voters | set(c.learners)), "2: who is to be a learner is none yet"
    assert set(c.learners_next) <= outgoing, "3: who is to be a learner votes until then"
    assert c.is_joint or not (c.learners_next or c.auto_leave), "4: nothing waits outside joint consensus"
    assert witnesses <= voters | outgoing, "5: witnesses vote"
    assert not voters or voters - witnesses, "5: somebody can lead"
    assert not outgoing or outgoing - witnesses, "5: somebody can lead the outgoing half"
    assert not witnesses_decide(voters, witnesses), "5: every majority holds the data"
    assert not witnesses_decide(outgoing, witnesses), "5: every majority of the outgoing half holds the data"
    members = set(c.members())
    assert not c.highest_id or c.highest_id >= max(members, default=NO_NODE), "6: no member above highest_id"
    assert len(set(c.preferred)) == len(c.preferred), "7: each preferred node once"
    assert set(c.preferred) <= members - witnesses, "7: only members that can lead are preferred"
    assert voters or not members, "8: a group has voters"
