"""What a supervisor does next. Pure: one look at the group comes in, at most one step goes out.

Nothing is remembered between two steps but since when each node has been as it is, so that any supervisor can go on
where another one ended. What must hold (`check` verifies it):

1. At most one step at a time, and none that changes the members while another change is under way.
2. A member is replaced only while a majority of the voters is well, itself not counted.
3. A member is replaced only when it has been ill for as long as the rules say, and only where there is room.
4. A replacement that was begun is finished or withdrawn before the next one begins.
5. Who is well is replaced only where an operator began that, and seems to have been interrupted.
6. A process is ended only where it has answered nobody for as long as the rules say, on a machine that is up.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from rayraft.raft.quorum import majority
from rayraft.raft.types import NO_NODE, NodeId

STRANGER_SECONDS = 15.0  # for whoever removed a node to end it himself
HALFWAY_SECONDS = 60.0  # for a node that was started to take a place
ABANDONED_SECONDS = 300.0  # for one that an operator started to become a member
MOST_PATIENCE = 64  # times `restart_after`, for a node whose process was ended again and again


class Health(enum.Enum):
    WELL = "well"
    AWAY = "away"  # it does not answer, or does not run; it may come back
    DAMAGED = "damaged"  # its disk is lost or damaged: it will not come back by itself
    GONE = "gone"  # Ray has no actor of it, so nothing would start it again


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a supervisor is, in seconds; None: it never replaces."""

    replace_after: float | None = 300.0  # a node that is away
    rebuild_after: float | None = 30.0  # a node whose disk is damaged
    restart_after: float | None = 60.0  # a process that answers nobody

    def patience(self, health: Health) -> float | None:
        return self.rebuild_after if health is Health.DAMAGED else self.replace_after


@dataclass(frozen=True, slots=True)
class Silence:
    """A node that has an actor, answers neither the supervisor nor any other node, and may hang."""

    since: float  # or since its process was ended last
    ended: int = 0  # how often it was, since the node was heard of

    def patience(self, rules: Rules) -> float | None:
        """Longer each time: a node with much to read may only be slow to start."""
        return None if rules.restart_after is None else rules.restart_after * min(2**self.ended, MOST_PATIENCE)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the group as the supervisor sees it."""

    node: NodeId
    votes: bool
    health: Health
    since: float  # when it was first seen to be so
    machine_up: bool = True
    room: bool = True  # there is a machine where another node could take its place
    replaces: NodeId = NO_NODE  # it was started to take the place of this one
    ordered: bool = False  # by an operator; else by a supervisor
    silence: Silence | None = None


@dataclass(frozen=True, slots=True)
class Stranger:
    """An actor of a node that is no member."""

    node: NodeId
    was_member: bool
    since: float
    replaces: NodeId = NO_NODE


@dataclass(frozen=True, slots=True)
class View:
    """One look at a group."""

    members: tuple[Member, ...]
    strangers: tuple[Stranger, ...] = ()
    forgotten: Set[NodeId] = frozenset()  # removed nodes whose disks have not been told
    led: bool = True  # a leader serves
    changing: bool = False  # a change of the members is under way


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Revive:
    """Create the actor of a member anew: the same node, at home, on its disk."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Restart:
    """End the process of a member that answers nobody; Ray starts a new one."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Begin:
    """Start a node that is to take the place of ``node``."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Finish:
    """``new`` has caught up, or will: it takes the place of ``node``."""

    node: NodeId
    new: NodeId


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Remove a node that was to take a place which is not free (any longer)."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Tell a node that it is no member, and end its actor."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the disk of a removed node, which was away when that was decided."""

    node: NodeId


Step: TypeAlias = Revive | Restart | Begin | Finish | Withdraw | Dismiss | Tell


@dataclass(frozen=True, slots=True)
class Decision:
    step: Step | None = None
    notes: tuple[str, ...] = ()  # why what an operator may expect is not done


def decide(view: View, rules: Rules, now: float) -> Decision:
    """The next step, if there is one."""
    for member in view.members:
        if member.health is Health.GONE and member.machine_up:
            return Decision(Revive(member.node))
        if _hangs(member, rules, now):
            return Decision(Restart(member.node))
    if not view.led:
        return Decision(notes=("no leader serves: a majority of the voters has to come back first",))
    for stranger in view.strangers:
        if now - stranger.since >= _patience_with(stranger):
            return Decision(Dismiss(stranger.node))
    if view.forgotten:
        return Decision(Tell(min(view.forgotten)))
    if view.changing:
        return Decision(notes=("a change of the members is under way",))
    return _go_on(view, rules, now) or _begin(view, rules, now)


def _hangs(member: Member, rules: Rules, now: float) -> bool:
    if member.silence is None or not member.machine_up:
        return False
    patience = member.silence.patience(rules)
    return patience is not None and now - member.silence.since >= patience


def _may_be_tended(new: Member, now: float) -> bool:
    """Its operator may still be there, and is left in peace."""
    return new.ordered and now - new.since < HALFWAY_SECONDS


def _patience_with(stranger: Stranger) -> float:
    if stranger.was_member:
        return STRANGER_SECONDS
    return HALFWAY_SECONDS if stranger.replaces else ABANDONED_SECONDS


def _go_on(view: View, rules: Rules, now: float) -> Decision | None:
    """A replacement that was begun, by whatever supervisor."""
    members = {member.node: member for member in view.members}
    claimed: set[NodeId] = set()
    for new in sorted(view.members, key=lambda member: member.node):
        old = members.get(new.replaces)
        if not new.replaces or (old is None and new.votes):
            continue  # it took the place
        if old is None or (old.health is Health.WELL and not new.ordered) or new.replaces in claimed:
            return Decision(Withdraw(new.node))
        claimed.add(new.replaces)
    for new in sorted(view.members, key=lambda member: member.node):
        if new.replaces not in claimed:
            continue
        if new.health is not Health.WELL:
            if now - new.since >= HALFWAY_SECONDS:
                return Decision(Withdraw(new.node))
            return Decision(notes=(f"node {new.node}, to take the place of {new.replaces}, does not answer",))
        if not _majority_is_well(view, new.replaces):
            return Decision(notes=(f"{_few(view)}: node {new.replaces} is not replaced",))
        if _may_be_tended(new, now):
            return Decision(notes=(f"an operator replaces node {new.replaces} by node {new.node}",))
        return Decision(Finish(new.replaces, new.node))
    return None


def _begin(view: View, rules: Rules, now: float) -> Decision:
    """The member that has been ill for longest, where it has to be replaced."""
    notes = []
    for member in sorted(view.members, key=lambda member: (member.since, member.node)):
        patience = rules.patience(member.health)
        if member.health is Health.WELL:
            continue
        if patience is None:
            notes.append(f"node {member.node} is {member.health.value}; by the settings it is never replaced")
        elif now - member.since < patience:
            left = patience - (now - member.since)
            notes.append(f"node {member.node} is {member.health.value}, and is replaced in {left:.0f} s")
        elif not _majority_is_well(view, member.node):
            notes.append(f"{_few(view)}: node {member.node} is not replaced")
        elif not member.room:
            notes.append(
                f"node {member.node} is {member.health.value}, and no machine is free to replace it: add one, or allow "
                "nodes to share one (allow_colocated)"
            )
        else:
            return Decision(Begin(member.node), tuple(notes))
    return Decision(notes=tuple(notes))


def _majority_is_well(view: View, without: NodeId) -> bool:
    voters = [member for member in view.members if member.votes]
    well = [member for member in voters if member.health is Health.WELL and member.node != without]
    return len(well) >= majority(len(voters))


def _few(view: View) -> str:
    voters = [member for member in view.members if member.votes]
    well = sum(member.health is Health.WELL for member in voters)
    return f"only {well} of {len(voters)} voters are well, which is no majority to rely on"


@dataclass(frozen=True, slots=True)
class Supervision:
    """What a supervisor says of itself."""

    rules: Rules
    looks: int  # since it was started
    notes: Sequence[str]  # why what an operator may expect is not done
    steps: Sequence[str]  # the last ones, oldest first
    error: str | None  # of the last look or step, if it failed


# --- the invariants ---------------------------------------------------------------------------------------------------


def check(view: View, rules: Rules, now: float, decision: Decision) -> None:
    """Verify what is stated at the top, apart from how `decide` works; AssertionError names what broke."""
    step = decision.step
    members = {member.node: member for member in view.members}
    if isinstance(step, Restart):
        hanging = members[step.node]
        assert hanging.machine_up, "6: its machine is up"
        assert hanging.silence is not None, "6: nobody hears from it"
        assert rules.restart_after is not None, "6: the rules allow it"
        assert now - hanging.silence.since >= rules.restart_after, "6: it was silent for long enough"
    if isinstance(step, Begin | Finish | Withdraw):
        assert view.led, "1: somebody can carry the change out"
        assert not view.changing, "1: one change at a time"
    if isinstance(step, Begin | Finish):
        old = members[step.node]
        new = members[step.new] if isinstance(step, Finish) else None
        ordered = new is not None and new.ordered
        assert old.health is not Health.WELL or ordered, "5: who is well stays"
        voters = [member for member in view.members if member.votes]
        others = [member for member in voters if member.health is Health.WELL and member is not old]
        assert 2 * len(others) > len(voters), "2: a majority is well"
    if isinstance(step, Begin):
        patience = rules.rebuild_after if old.health is Health.DAMAGED else rules.replace_after
        assert patience is not None, "3: the rules allow it"
        assert now - old.since >= patience, "3: it was ill for long enough"
        assert old.room, "3: there is room"
        halfway = [m for m in view.members if m.replaces and (m.replaces in members or not m.votes)]
        assert not halfway, "4: what was begun is finished first"
    if isinstance(step, Finish):
        assert members[step.new].replaces == step.node, "4: the new one was started for this place"
        assert members[step.new].health is Health.WELL, "4: the new one is well"
        waited = now - members[step.new].since
        assert waited >= HALFWAY_SECONDS or not members[step.new].ordered, "5: its operator is left in peace"
