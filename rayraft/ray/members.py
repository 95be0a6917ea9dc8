"""Changing who is in a group while it serves: new nodes catch up as learners before they vote (thesis §4.2.1)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import ray

from rayraft.errors import MembershipRefused, NoQuorum, NotEnoughMachines
from rayraft.machine.requests import Status
from rayraft.raft.membership import Change, ChangeKind
from rayraft.raft.types import NO_NODE, Configuration, NodeId
from rayraft.ray.actors import create_actor, gather, left
from rayraft.ray.group import POLL_SECONDS, Group
from rayraft.ray.placement import Place, plan
from rayraft.ray.spec import NodeReport, NodeSpec, NodeState
from rayraft.ray.survey import alive_machines, directory_of, mark_removed, survey
from rayraft.replica import ReplicaStatus
from rayraft.replica.administration import ChangeMembers, Order, PreferLeaders, TransferLeadership, encode_order

TELL_SECONDS = 2.0
LEADER_SECONDS = 30.0  # for a leader that answers
HANG_SECONDS = 2.0  # without an answer, before it is looked who leads
LEAVE_SECONDS = 5.0  # for a removed node to learn of it by itself
TAKE_BACK_SECONDS = 5.0  # to take back what was begun; the supervisor does it later where this fails
WITHDRAW_SECONDS = 10.0  # for a node that could not join to mark its disk; its process may only be starting
OTHERS_SECONDS = 10.0  # for the machines where a new node will not live to say which ids they have


@dataclass(frozen=True, slots=True)
class Home:
    """Where a new node is to live; None: wherever there is room."""

    directory: str | Path | None = None
    machine: str | None = None
    instead_of: NodeId = NO_NODE  # on the machine of this one, if no other is free
    avoid: Place | None = None  # not there: that machine may be away, though Ray has not noticed yet


SOMEWHERE = Home()


@dataclass(frozen=True, slots=True)
class Joining:
    """A node that has been started, and is to become a member."""

    spec: NodeSpec
    cluster_id: str


class Members:
    """The changes of one group's membership. Each call returns when the change is committed, or raises.

    Every one may be repeated after an error: what is so already is not changed again.
    """

    def __init__(self, cluster: Group) -> None:
        self._cluster = cluster

    # --- what an operator asks for ------------------------------------------------------------------------------------

    def add(
        self,
        *,
        home: Home = Home(),
        witness: bool = False,
        learner: bool = False,
        replaces: NodeId = NO_NODE,
        ordered: bool = False,
        timeout_s: float,
    ) -> NodeId:
        """Start a node under an id that was never used, let it catch up, and have it vote; returns the id."""
        deadline = time.monotonic() + timeout_s
        joining = self._join(home, replaces, deadline, ordered=ordered)
        node, may_vote = joining.spec.node_id, witness
        try:
            if witness:
                self._change([Change(ChangeKind.ADD_WITNESS, node)], deadline)
                return node
            self._change([Change(ChangeKind.ADD_LEARNER, node)], deadline)
            if not learner:
                self._wait_until_caught_up(node, deadline)
                may_vote = True
                self._change([Change(ChangeKind.ADD_VOTER, node)], deadline)
        except BaseException as error:
            again = self._was_passed_over(node, error) and time.monotonic() < deadline
            self._give_up(joining, may_vote)
            if not again:
                raise
            if home.directory is not None:
                raise MembershipRefused(
                    f"node {node} was not added, because somebody else added one at that moment: repeat it with "
                    "another directory, for this one bears its name"
                ) from error
        else:
            return node
        return self.add(
            home=home, witness=witness, learner=learner, replaces=replaces, ordered=ordered, timeout_s=left(deadline)
        )

    def _give_up(self, joining: Joining, may_vote: bool) -> None:
        """End a node that could not be added. The others may need its vote, unless it was certainly removed."""
        node = joining.spec.node_id
        with contextlib.suppress(Exception):
            self._change([Change(ChangeKind.REMOVE, node)], time.monotonic() + TAKE_BACK_SECONDS)
            may_vote = False
        if may_vote:
            self.end(node)  # its disk stays good
        else:
            self._withdraw(joining)

    def remove(self, node: NodeId, timeout_s: float) -> None:
        """Have ``node`` leave the group, and end its actor; its directory stays."""
        self._require_member(node)
        self._change([Change(ChangeKind.REMOVE, node)], time.monotonic() + timeout_s)
        self._let_go(node)

    def replace(self, node: NodeId, *, home: Home, timeout_s: float) -> NodeId:
        """A new node takes the place of ``node`` in one joint change, once it has caught up; returns its id.

        Interrupted, it is finished by the supervisor, or by the next who asks for the same.
        """
        deadline = time.monotonic() + timeout_s
        before = self._require_member(node)
        new = self._begun(node, before, home)
        if new is None:
            new = self.begin_replacement(node, home=home, replaces=node, ordered=True, timeout_s=timeout_s)
        try:
            self.hand_over(node, new, left(deadline))
        except MembershipRefused as error:
            configuration = self.configuration()
            if node in configuration.members() or not configuration.has_member(new):
                raise
            if node in before.voters and new not in configuration.voters:  # another one took the place
                with contextlib.suppress(Exception):
                    self.remove(new, TAKE_BACK_SECONDS)
                raise MembershipRefused(
                    f"somebody else has replaced node {node} of {self._cluster.name!r} meanwhile (voters: "
                    f"{', '.join(map(str, configuration.voters))}): node {new}, begun in its place, was withdrawn"
                ) from error
            self._let_go(node)  # somebody else has finished it, or the answer was lost
        return new

    def _begun(self, node: NodeId, configuration: Configuration, home: Home) -> NodeId | None:
        """A healthy member that was started to take the place of ``node``, where it may live."""
        members = set(configuration.members()) - {node}
        if home.directory is not None:
            return None
        reports = [report for report in self._cluster.reports().values() if isinstance(report, NodeReport)]
        begun = [report for report in reports if report.replaces == node and report.node_id in members]
        fitting = [report for report in begun if report.replica and home.machine in (None, report.home.value)]
        return fitting[0].node_id if fitting else None

    def begin_replacement(
        self,
        node: NodeId,
        *,
        home: Home = SOMEWHERE,
        replaces: NodeId = NO_NODE,
        ordered: bool = False,
        timeout_s: float,
    ) -> NodeId:
        """The first half of `replace`: start the new node, which learns, or is a witness as ``node`` is."""
        witness = node in self._require_member(node).witnesses
        home = replace(home, instead_of=node)
        return self.add(
            home=home,
            witness=witness,
            learner=not witness,
            replaces=replaces,
            ordered=ordered,
            timeout_s=timeout_s,
        )

    def hand_over(self, node: NodeId, new: NodeId, timeout_s: float) -> None:
        """The second half of `replace`: the learner ``new`` takes the place of ``node`` once it has caught up.

        Refused where ``node`` is no member any longer: two that replace it at once do not both succeed.
        """
        deadline = time.monotonic() + timeout_s
        configuration = self._require_member(node)
        changes = [Change(ChangeKind.REMOVE, node)]
        if new not in configuration.witnesses:
            self._wait_until_caught_up(new, deadline)
        if node in configuration.voters and new not in configuration.voters:
            changes.insert(0, Change(ChangeKind.ADD_VOTER, new))
        self._change(changes, deadline, members=[node, new])
        self._let_go(node)

    def take_back(self, added: Sequence[NodeId]) -> None:
        """Remove those of ``added`` that are learners still. Raises NoQuorum, and soon: the group may be gone."""
        if added:
            self._cluster.leader(TAKE_BACK_SECONDS)
            for node in set(added) & set(self.configuration().learners):
                self.remove(node, TAKE_BACK_SECONDS)

    def set(self, voters: Sequence[NodeId], learners: Sequence[NodeId], timeout_s: float) -> None:
        """Make exactly these the members, in one step: promote, demote and remove (joint consensus, Raft §6)."""
        if both := sorted(set(voters) & set(learners)):
            raise MembershipRefused(f"{both} can not be voters and learners at once: name each of them in one list")
        configuration = self.configuration()
        members = set(configuration.members())
        wanted = set(voters) | set(learners)
        if unknown := wanted - members:
            raise MembershipRefused(f"{sorted(unknown)} are no members: start them with add_node(learner=True) first")
        changes = [Change(ChangeKind.ADD_VOTER, node) for node in voters if node not in configuration.witnesses]
        changes += [Change(ChangeKind.ADD_LEARNER, node) for node in learners]
        removed = sorted(members - wanted)
        changes += [Change(ChangeKind.REMOVE, node) for node in removed]
        deadline = time.monotonic() + timeout_s
        for node in set(voters) - set(configuration.voters):
            self._wait_until_caught_up(node, deadline)
        self._change(changes, deadline)
        for node in removed:
            self._let_go(node)

    def transfer(self, to: NodeId, timeout_s: float) -> None:
        """Have ``to`` lead."""
        self._require_member(to)
        deadline = time.monotonic() + timeout_s
        while self._cluster.leader(left(deadline, 0.1)) != to:
            self._order(TransferLeadership(to), deadline)

    def prefer(self, nodes: Sequence[NodeId], timeout_s: float) -> None:
        """Who should lead, most preferred first; leadership moves there whenever that node is healthy."""
        self._order(PreferLeaders(list(nodes)), time.monotonic() + timeout_s)

    def configuration(self) -> Configuration:
        return self._leader_status().configuration

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _leader_status(self) -> ReplicaStatus:
        """What the leader says of the group. Raises NoQuorum."""
        _, status = self.leader_report()
        return status

    def leader_report(self) -> tuple[NodeReport, ReplicaStatus]:
        """What the leader says; of the next one, where the first has failed since it was found. Raises NoQuorum."""
        deadline = time.monotonic() + LEADER_SECONDS
        while True:
            leader = self._cluster.leader(left(deadline))
            report = gather({leader: self._cluster.actor(leader).report.remote()}, 5.0)[leader]
            if isinstance(report, NodeReport) and report.replica is not None:
                return report, report.replica
            if time.monotonic() > deadline:
                raise NoQuorum(f"the leader {leader} of {self._cluster.name!r} does not answer: {report}")
            time.sleep(POLL_SECONDS)

    def _require_member(self, node: NodeId) -> Configuration:
        configuration = self.configuration()
        if node not in set(configuration.members()):
            members = ", ".join(map(str, configuration.members()))
            raise MembershipRefused(f"node {node} is no member of {self._cluster.name!r} (members: {members})")
        return configuration

    def _was_passed_over(self, node: NodeId, error: BaseException) -> bool:
        """Whether it was refused because a node with a higher id, which somebody else adds, became a member first."""
        if not isinstance(error, MembershipRefused):
            return False
        with contextlib.suppress(NoQuorum):
            configuration = self.configuration()
            return node <= configuration.highest_id and not configuration.has_member(node)
        return False

    def _join(self, home: Home, replaces: NodeId, deadline: float, *, ordered: bool = False) -> Joining:
        """Bring up an actor on a blank disk, under the next id; it waits to be made a member."""
        cluster = self._cluster
        report, status = self.leader_report()
        if report.identity is None:
            raise NoQuorum(f"the leader {report.node_id} of {cluster.name!r} has no identity")
        pattern = gather({report.node_id: cluster.actor(report.node_id).spec.remote()}, 30.0)[report.node_id]
        if not isinstance(pattern, NodeSpec):
            raise NoQuorum(f"the leader {report.node_id} of {cluster.name!r} does not answer: {pattern}")
        place, used = self._find_place(pattern, status.configuration, home)
        node = max(status.configuration.highest_id, *status.configuration.members(), *cluster.nodes) + 1
        while True:
            if node in used:  # by one that never became a member: its disk may turn up again
                node += 1
                continue
            spec = spec_like(pattern, node, place, home.directory, replaces, ordered=ordered)
            try:
                actor = create_actor(spec)
                break
            except ValueError:  # somebody else adds a node at this moment
                node += 1
        cluster.admit(node, actor)
        joining = Joining(spec, report.identity.cluster_id)
        try:
            joined = gather({node: actor.join.remote(report.identity.cluster_id)}, left(deadline))[node]
            if isinstance(joined, Exception):
                raise MembershipRefused(f"node {node} did not come up on {place} in time: {joined}") from joined
            if joined.state is not NodeState.RUNNING:
                raise joined.error or MembershipRefused(
                    f"node {node} is {joined.state.value}: {spec.directory} can not be used"
                )
            self.tell_places({node: place})
        except BaseException:
            self._withdraw(joining)
            raise
        return joining

    def _withdraw(self, joining: Joining) -> None:
        """End a node that is not to become a member, and mark its disk: the node must not come up on it later."""
        spec, cluster_id = joining.spec, joining.cluster_id
        node = spec.node_id
        answer = gather({node: self._cluster.actor(node).retire.remote(cluster_id)}, WITHDRAW_SECONDS)[node]
        silent = isinstance(answer, Exception)
        self.end(node, ask=not silent)
        if silent:  # its process is gone now, and can not write the identity after this
            with contextlib.suppress(Exception):  # its machine is away: at a cold start the leftover is told apart
                mark_removed(spec.home, spec.directory, node, cluster_id, WITHDRAW_SECONDS)

    def _find_place(self, pattern: NodeSpec, configuration: Configuration, home: Home) -> tuple[Place, Set[NodeId]]:
        """The machine of a new node, and the ids that were used already. Raises NotEnoughMachines."""
        rules = pattern.placement
        if home.machine is not None:
            rules = msgspec.structs.replace(rules, machines=(home.machine,), allow_colocated=True)
        alive = alive_machines(rules.label)
        if home.machine is not None and not any(home.machine in machine.names for machine in alive):
            names = ", ".join(machine.name for machine in alive)
            raise NotEnoughMachines(f"no machine that is up is called {home.machine!r}: there are {names or 'none'}")
        machines = [m for m in alive if home.avoid is None or not m.is_at(home.avoid)]
        members = set(configuration.members())
        known = self.places()
        homes = {node: place for node, place in known.items() if node in members}
        try:
            place = plan(pattern.group, [0], machines, rules, homes)[0]
        except NotEnoughMachines:
            homes.pop(home.instead_of, None)
            place = plan(pattern.group, [0], machines, rules, homes)[0]
        data_dir = pattern.data_dir or str(Path(pattern.directory).parent)
        there = survey(data_dir, [found for found in machines if found.is_at(place)], 30.0)
        if place not in there.by_place:
            raise NoQuorum(f"machine {place}, where a new node of {pattern.group!r} would live, went away")
        others = [found for found in machines if not found.is_at(place)]
        elsewhere = survey(data_dir, others, OTHERS_SECONDS, strict=False)
        return place, there.used() | elsewhere.used() | known.keys()

    def places(self) -> dict[NodeId, Place]:
        """The machine of each node, also of those that are away, as far as those that answer know."""
        reports = [report for report in self._cluster.quick_reports().values() if isinstance(report, NodeReport)]
        return places_of(reports)

    def tell_places(self, places: Mapping[NodeId, Place]) -> None:
        """Have every node that answers remember them."""
        known = {**self.places(), **places}
        calls = {node: self._cluster.actor(node).note_places.remote(known) for node in self._cluster.nodes}
        gather(calls, TELL_SECONDS)

    def _wait_until_caught_up(self, node: NodeId, deadline: float) -> None:
        while True:
            status = self._leader_status()
            match = status.match.get(node, 0)
            if match and match >= status.commit - 100:
                return
            if time.monotonic() > deadline:
                raise MembershipRefused(f"node {node} has not caught up in time: {match} of {status.commit} entries")
            time.sleep(POLL_SECONDS)

    def _change(self, changes: Sequence[Change], deadline: float, members: Sequence[NodeId] = ()) -> None:
        self._order(ChangeMembers(list(changes), list(members)), deadline)

    def _order(self, order: Order, deadline: float) -> None:
        """Have the leader carry ``order`` out; asked again where leadership moved in the middle of it.

        Every order may be repeated: it says what is to be so, and is refused where that has become impossible.
        """
        data = encode_order(order)
        while True:
            leader = self._cluster.leader(left(deadline, 0.1))
            reply = self._ask(leader, data, deadline)
            if isinstance(reply, bytes) and reply[0] == Status.OK:
                return
            if isinstance(reply, bytes) and reply[0] == Status.REFUSED:
                raise MembershipRefused(reply[1:].decode())
            if time.monotonic() > deadline:
                raise MembershipRefused(f"not done in time; the leader {leader} said: {_said(reply)}")
            if isinstance(order, TransferLeadership):
                return  # its caller looks who leads now
            time.sleep(POLL_SECONDS)

    def _ask(self, leader: NodeId, order: bytes, deadline: float) -> bytes | Exception:
        """What ``leader`` says when it is done; where it hangs, this waits no longer than until another one leads."""
        answer = self._cluster.actor(leader).order.remote(order)
        while True:
            reply: bytes | Exception = gather({leader: answer}, min(left(deadline), HANG_SECONDS))[leader]
            if not isinstance(reply, TimeoutError) or time.monotonic() > deadline:
                return reply
            with contextlib.suppress(NoQuorum):
                if self._cluster.leader(0.1) != leader:
                    return reply

    def _let_go(self, node: NodeId) -> None:
        """``node`` was removed: it learns of it and marks its disk, a leader hands over first; then it is ended."""
        if node not in self._cluster.nodes:  # its actor is gone already
            return
        actor = self._cluster.actor(node)
        deadline = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < deadline:
            report = gather({node: actor.report.remote()}, LEAVE_SECONDS)[node]
            if isinstance(report, Exception) or report.state is not NodeState.RUNNING:
                break
            time.sleep(POLL_SECONDS)
        gather({node: actor.retire.remote()}, LEAVE_SECONDS)
        self.end(node)

    def end(self, node: NodeId, *, ask: bool = True) -> None:
        """End the actor of a node that is no member (any longer); without asking it where its machine is away."""
        actor = self._cluster.dismiss(node)
        if actor is not None:
            if ask:
                gather({node: actor.stop.remote()}, 10.0)
            with contextlib.suppress(Exception):
                ray.kill(actor, no_restart=True)


def _said(reply: bytes | Exception) -> str:
    if isinstance(reply, Exception):
        return str(reply)
    status = Status(reply[0])
    return reply[1:].decode() if status is Status.FAILED else status.name.lower().replace("_", " ")


def spec_like(
    pattern: NodeSpec,
    node: NodeId,
    place: Place,
    directory: str | Path | None,
    replaces: NodeId,
    *,
    ordered: bool = False,
) -> NodeSpec:
    """What another node of ``pattern``'s group is started with."""
    data_dir = pattern.data_dir or str(Path(pattern.directory).parent)
    path = directory_of(data_dir, place, node) if directory is None else str(Path(directory).expanduser().resolve())
    config = replace(pattern.config, raft=replace(pattern.config.raft, node_id=node))
    return replace(pattern, node_id=node, directory=path, config=config, home=place, replaces=replaces, ordered=ordered)


def places_of(reports: Iterable[NodeReport]) -> dict[NodeId, Place]:
    """The machine of each node, by what some of them say of themselves and remember of the others."""
    reports = list(reports)
    known = {node: place for report in reports for node, place in report.places.items()}
    return known | {report.node_id: report.home for report in reports}
