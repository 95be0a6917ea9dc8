"""What operators ask for while others ask for the same, or a node does not answer: against scripted actors, no Ray."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from ray.exceptions import ActorDiedError

from rayraft.errors import BadConfiguration, MembershipRefused, NoQuorum, NotEnoughMachines
from rayraft.machine.requests import Status, reply
from rayraft.raft.membership import check_fresh, enter_joint, leave_joint, prefer
from rayraft.raft.ready import ProposalRefused, RaftConfig
from rayraft.raft.types import Configuration, NodeId
from rayraft.ray import members, rolling
from rayraft.ray.backup import take_backup
from rayraft.ray.members import SOMEWHERE, Home, Joining, Members
from rayraft.ray.placement import Machine, Place
from rayraft.ray.spec import NodeReport, NodeSpec, NodeState
from rayraft.replica import ReplicaConfig
from rayraft.replica.administration import ChangeMembers, Order, PreferLeaders
from rayraft.storage.identity import Identity
from tests.disks import support as disks

THREE = Configuration(voters=(1, 2, 3), highest_id=3)
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


class Actor:
    """A node: ``actor.method.remote(...)`` is a call that `gather` makes, or raises what the script says."""

    def __init__(self, group: ScriptedGroup, node: NodeId, replaces: NodeId = 0) -> None:
        self.group, self.node, self.replaces = group, node, replaces

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: lambda: getattr(self, f"on_{method}")(*arguments))

    def on_report(self) -> NodeReport:
        match = dict.fromkeys(self.group.configuration.members(), 9)
        replica: Any = SimpleNamespace(configuration=self.group.configuration, match=match, commit=9, applied=9)
        if self.node not in self.group.configuration.members():
            return NodeReport(self.node, NodeState.REMOVED, None, None, 0, "", {}, "", 0, 0, None)
        return NodeReport(
            self.node, NodeState.RUNNING, None, None, 1, "", {}, "", 0, 0, replica, replaces=self.replaces
        )

    def on_order(self, data: bytes) -> bytes:
        self.group.asked.append(self.node)
        if self.node in self.group.hanging:
            raise TimeoutError("no answer")
        return self.group.on_order(_orders.decode(data))

    def on_retire(self, cluster_id: str | None = None) -> None:
        self.group.retired.append(self.node)

    def on_stop(self) -> None: ...


class ScriptedGroup:
    """Carries every order out at once, by the rules of the core; before each of them somebody else may act."""

    name = "scripted"

    def __init__(self, configuration: Configuration = THREE) -> None:
        self.configuration = configuration
        self.actors: dict[NodeId, Actor] = {node: Actor(self, node) for node in configuration.members()}
        self.ended: list[NodeId] = []
        self.retired: list[NodeId] = []  # whose disks are marked
        self.leaders: list[NodeId] = [1]  # one look after the other
        self.hanging: set[NodeId] = set()
        self.asked: list[NodeId] = []  # to carry out an order
        self.meanwhile: list[Callable[[], object]] = []
        self.refusals: list[str] = []  # of the next orders, empty for one that is not refused

    @property
    def nodes(self) -> list[NodeId]:
        return sorted(self.actors)

    def actor(self, node: NodeId) -> Any:
        return self.actors[node]

    def leader(self, timeout_s: float = 30.0) -> NodeId:
        return self.leaders.pop(0) if len(self.leaders) > 1 else self.leaders[0]

    def reports(self, timeout_s: float = 5.0) -> dict[NodeId, NodeReport | Exception]:
        return {node: actor.on_report() for node, actor in self.actors.items()}

    def admit(self, node: NodeId, actor: Actor) -> None:
        self.actors[node] = actor

    def dismiss(self, node: NodeId) -> Actor | None:
        self.ended.append(node)
        return self.actors.pop(node, None)

    def on_order(self, order: Order) -> bytes:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        try:
            if self.refusals and (refusal := self.refusals.pop(0)):
                raise ProposalRefused(refusal)
            if isinstance(order, ChangeMembers):
                if gone := set(order.members) - set(self.configuration.members()):
                    raise ProposalRefused(f"{sorted(gone)} are no members")
                check_fresh(self.configuration, order.changes)
                self.configuration = leave_joint(enter_joint(self.configuration, order.changes, auto_leave=True))
            elif isinstance(order, PreferLeaders):
                self.configuration = prefer(self.configuration, order.nodes)
        except ProposalRefused as error:
            return reply(Status.REFUSED, str(error).encode())
        return reply(Status.OK)

    def look_again(self) -> None: ...

    def become(self, **changed: Any) -> None:
        """Somebody else has changed the members."""
        self.configuration = msgspec.structs.replace(self.configuration, **changed)


def scripted_gather(calls: Mapping[NodeId, Callable[[], Any]], timeout_s: float) -> dict[NodeId, Any]:
    def made(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            return error

    return {node: made(call) for node, call in calls.items()}


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> ScriptedGroup:
    for module in (members, rolling):
        monkeypatch.setattr(module, "gather", scripted_gather)
    monkeypatch.setattr(members, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(members, "LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(members.ray, "kill", lambda actor, no_restart: None)  # `rolling` has the same
    return ScriptedGroup()


@pytest.fixture
def joins(group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch) -> list[NodeId]:
    """The ids under which nodes were started, each the next above what its operator has seen."""
    started: list[NodeId] = []

    def join(self: Members, *arguments: Any, **options: Any) -> Joining:
        node = max(group.configuration.highest_id, *group.nodes) + 1
        started.append(node)
        group.admit(node, Actor(group, node))
        return Joining(replace(pattern(), node_id=node), "c")

    monkeypatch.setattr(Members, "_join", join)
    return started


def members_of(group: ScriptedGroup) -> Members:
    return Members(cast("Any", group))


# --- two that replace one node ----------------------------------------------------------------------------------------


def begun(group: ScriptedGroup, *nodes: NodeId) -> None:
    """``nodes`` were started to take the place of node 3, each by somebody else, and learn."""
    group.become(learners=nodes, highest_id=max(nodes))
    group.actors |= {node: Actor(group, node, replaces=3) for node in nodes}


def test_of_two_that_replace_a_node_one_succeeds_and_the_other_leaves_nothing(group: ScriptedGroup) -> None:
    """Both returned, and one of the two ids was that of a learner for ever."""
    begun(group, 4, 5)
    group.meanwhile = [lambda: group.become(voters=(1, 2, 5), learners=(4,))]
    with pytest.raises(MembershipRefused, match=r"somebody else has replaced node 3 .*voters: 1, 2, 5.*node 4"):
        members_of(group).replace(3, home=SOMEWHERE, timeout_s=9.0)
    assert (group.configuration.voters, group.configuration.learners) == ((1, 2, 5), ())
    assert group.ended == [4]


def test_a_replacement_that_somebody_else_has_finished_is_a_success(group: ScriptedGroup) -> None:
    begun(group, 4)
    group.meanwhile = [lambda: group.become(voters=(1, 2, 4), learners=())]
    assert members_of(group).replace(3, home=SOMEWHERE, timeout_s=9.0) == 4
    assert group.configuration.voters == (1, 2, 4)
    assert group.ended == [3]


# --- two that add nodes -----------------------------------------------------------------------------------------------


def test_who_loses_the_race_for_an_id_takes_the_next(group: ScriptedGroup, joins: list[NodeId]) -> None:
    """The operator, who can not choose an id, was told to take a higher one."""
    group.meanwhile = [lambda: group.become(voters=(1, 2, 3, 5), highest_id=5)]
    assert members_of(group).add(timeout_s=9.0) == 6
    assert joins == [4, 6]
    assert group.ended == group.retired == [4]
    assert group.configuration.voters == (1, 2, 3, 5, 6)


def test_with_a_directory_that_was_named_the_loser_is_told_what_to_do(
    group: ScriptedGroup, joins: list[NodeId]
) -> None:
    group.meanwhile = [lambda: group.become(voters=(1, 2, 3, 5), highest_id=5)]
    with pytest.raises(MembershipRefused, match=r"node 4 was not added, because somebody else.*another directory"):
        members_of(group).add(home=Home(directory="/disk"), timeout_s=9.0)
    assert group.ended == joins == [4]


def test_what_is_refused_for_another_reason_is_not_tried_again(group: ScriptedGroup, joins: list[NodeId]) -> None:
    group.refusals = ["too few of the new voters answer"]
    with pytest.raises(MembershipRefused, match="too few"):
        members_of(group).add(timeout_s=9.0)
    assert group.ended == joins == [4]


def scale(group: ScriptedGroup, nodes: int) -> Configuration:
    return rolling.scale(cast("Any", group), nodes, 9.0, rolling.ignore)


def test_a_group_grows_by_new_nodes(group: ScriptedGroup, joins: list[NodeId]) -> None:
    assert scale(group, 5).voters == (1, 2, 3, 4, 5)


def test_a_scale_that_fails_takes_its_learners_back_and_no_others(group: ScriptedGroup, joins: list[NodeId]) -> None:
    group.become(learners=(4,), highest_id=4)
    group.actors[4] = Actor(group, 4)
    group.refusals = ["", "", "too few of the new voters answer"]
    with pytest.raises(MembershipRefused, match="too few"):
        scale(group, 7)
    assert (group.configuration.voters, group.configuration.learners) == ((1, 2, 3), (4,))
    assert sorted(group.ended) == [5, 6, 7]


def test_learners_are_not_taken_back_from_a_group_that_is_gone(
    group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever scaled a group that was shut down meanwhile waited half a minute for its leader once more."""

    def leader(timeout_s: float = 30.0) -> NodeId:
        raise NoQuorum(f"no leader within {timeout_s} s")

    monkeypatch.setattr(group, "leader", leader)
    members_of(group).take_back([])
    with pytest.raises(NoQuorum, match=r"within 5\.0 s"):
        members_of(group).take_back([4])


def test_a_scale_leaves_what_another_one_did_meanwhile(group: ScriptedGroup, joins: list[NodeId]) -> None:
    """It would remove the voters of the other, or bring back those that the other has removed."""
    group.meanwhile = [list, lambda: group.become(voters=(1, 2, 3, 8, 9), highest_id=9)]
    with pytest.raises(MembershipRefused, match="somebody else has changed the voters meanwhile, to 1, 2, 3, 8, 9"):
        scale(group, 5)
    assert group.configuration == Configuration(voters=(1, 2, 3, 8, 9), highest_id=10)


# --- what can not be --------------------------------------------------------------------------------------------------


def test_a_voter_can_not_be_a_learner_too(group: ScriptedGroup) -> None:
    """Node 3 was demoted without a word."""
    with pytest.raises(MembershipRefused, match=r"\[3\] can not be voters and learners at once"):
        members_of(group).set([1, 2, 3], [3], 9.0)
    assert group.configuration == THREE


def test_a_machine_that_nobody_knows_is_named_with_those_there_are(
    group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [Machine(Place("", f"10.0.0.{i}"), f"10.0.0.{i}", f"host-{i}", {}, ()) for i in (1, 2)]
    monkeypatch.setattr(members, "alive_machines", lambda label: machines)
    with pytest.raises(NotEnoughMachines, match=r"called 'nowhere': there are 10\.0\.0\.1, 10\.0\.0\.2"):
        members_of(group)._find_place(pattern(), group.configuration, Home(machine="nowhere"))


def pattern() -> NodeSpec:
    return NodeSpec("scripted", 1, "data/node-1", b"", ReplicaConfig(raft=RaftConfig(node_id=1)))


def test_a_node_that_does_not_come_up_in_time_is_refused_in_our_words(
    group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Actor):
        def on_join(self, cluster_id: str) -> NodeReport:
            raise TimeoutError("no answer within 1.0 s")

    def create(spec: NodeSpec) -> Actor:
        return Late(group, spec.node_id)

    report = replace(
        group.actors[1].on_report(), identity=Identity(group="g", cluster_id="c", node_id=1, disk_id="", voters=())
    )
    monkeypatch.setattr(group.actors[1], "on_spec", pattern, raising=False)
    monkeypatch.setattr(Members, "leader_report", lambda self: (report, report.replica))
    monkeypatch.setattr(Members, "_find_place", lambda self, *arguments: (Place("", "here"), frozenset()))
    monkeypatch.setattr(members, "create_actor", create)
    with pytest.raises(MembershipRefused, match="node 4 did not come up on here in time"):
        members_of(group).add(timeout_s=0.0)
    assert group.ended == [4]


def test_a_directory_that_can_not_be_read_is_not_called_used(tmp_path: Path) -> None:
    """The error was replaced by one that sent the operator looking for another node."""
    (tmp_path / "file").touch()
    with disks.node_on(disks.Order(directory=str(tmp_path / "file" / "node-4"))) as node:
        report = node.join("c1")
    assert report.state is NodeState.FAILED
    assert "Not a directory" in str(report.error)


def test_a_backup_to_a_directory_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    for path in (tmp_path, ""):
        with pytest.raises(BadConfiguration, match="is a directory: name the file"):
            take_backup(cast("Any", None), path, timeout_s=9.0)


# --- a leader that hangs ----------------------------------------------------------------------------------------------


def test_an_order_at_a_leader_that_hangs_goes_to_the_next_leader(
    group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was waited for until the caller's time was over, though another one led after a second."""
    group.hanging, group.leaders = {1}, [1, 1, 1, 2]
    waits: list[float] = []

    def gather(calls: Mapping[NodeId, Callable[[], Any]], timeout_s: float) -> dict[NodeId, Any]:
        waits.append(timeout_s)
        return scripted_gather(calls, timeout_s)

    monkeypatch.setattr(members, "gather", gather)
    members_of(group).prefer([3], timeout_s=60.0)
    assert group.configuration.preferred == (3,)
    assert set(group.asked) == {1, 2}
    assert max(waits) <= members.HANG_SECONDS


def test_an_order_that_takes_long_is_not_given_twice_to_one_leader(
    group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be refused for what the first has done."""
    answers = iter([TimeoutError(), TimeoutError(), bytes((Status.OK,))])
    monkeypatch.setattr(members, "gather", lambda calls, timeout_s: dict.fromkeys(calls, next(answers)))
    given: list[bytes] = []
    monkeypatch.setattr(group, "actor", lambda node: SimpleNamespace(order=SimpleNamespace(remote=given.append)))
    members_of(group).prefer([3], timeout_s=60.0)
    assert len(given) == 1


def test_an_order_that_is_not_done_in_time_says_why(group: ScriptedGroup) -> None:
    group.hanging = {1}
    with pytest.raises(MembershipRefused, match="not done in time; the leader 1 said: no answer"):
        members_of(group).prefer([3], timeout_s=-1.0)


def test_a_backup_does_not_wait_an_hour_for_a_leader(tmp_path: Path) -> None:
    """Of a group without a majority nothing was said for as long as the backup might take."""

    def leader(timeout_s: float) -> NodeId:
        raise NoQuorum(f"no leader within {timeout_s} s")

    with pytest.raises(NoQuorum, match=r"within 30\.0 s"):
        take_backup(cast("Any", SimpleNamespace(leader=leader)), tmp_path / "file", timeout_s=3600.0)


# --- a node that goes while it is restarted ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, NoQuorum])
def test_who_is_preferred_and_a_member_still_is_preferred_again(
    group: ScriptedGroup, error: type[Exception] | None
) -> None:
    """Nobody was, where one of them had been removed meanwhile, and the restart failed for that in the end."""
    group.become(preferred=(3, 1))
    with contextlib.ExitStack() as stack:
        if error is not None:
            stack.enter_context(pytest.raises(error))
        stack.enter_context(rolling._nobody_preferred(members_of(group), time.monotonic() + 9.0))
        assert group.configuration.preferred == ()
        group.become(voters=(1, 2))
        if error is not None:
            raise error
    assert group.configuration.preferred == (1,)


class Dead(Actor):
    def on_report(self) -> NodeReport:
        raise ActorDiedError


def restart(group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch, found: Mapping[NodeId, Actor]) -> None:
    """Node 3 is ended for good as its process is; ``found`` are the actors that Ray has then."""
    group.actors[3] = Dead(group, 3)
    monkeypatch.setattr(rolling, "find_nodes", lambda name: dict(found))
    rolling._restart(cast("Any", group), members_of(group), 3, None, time.monotonic() + 20.0)


def test_a_node_that_is_removed_while_it_restarts_is_not_waited_for(
    group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.become(voters=(1, 2))
    restart(group, monkeypatch, {1: group.actors[1]})


def test_a_node_whose_actor_is_gone_is_not_waited_for(group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoQuorum, match="the actor of node 3 of 'scripted' was ended while it was restarted"):
        restart(group, monkeypatch, {1: group.actors[1]})


def test_a_node_that_was_brought_up_again_is_waited_for(group: ScriptedGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    again = Actor(group, 3)
    restart(group, monkeypatch, {3: again})
    assert group.actors[3] is again
