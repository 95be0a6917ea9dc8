"""Who leaves a group that shrinks, who is restarted next, and who leads meanwhile: choices, without Ray."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayraft.errors import NoQuorum
from rayraft.machine.keyvalue import KeyValue
from rayraft.raft.types import Configuration
from rayraft.ray import group, rolling, starting, upgrades
from rayraft.ray.placement import Place
from rayraft.ray.spec import NodeReport, NodeState

FIVE = Configuration(voters=(1, 2, 3, 4, 5))


def report(node: int, host: str, state: NodeState = NodeState.RUNNING) -> NodeReport:
    replica: Any = object() if state is NodeState.RUNNING else None
    home = Place(host, host)
    return NodeReport(node, state, None, None, node, "", {}, host, 0, 0, cast("Any", replica), home=home)


def stays(nodes: int, leader: int, hosts: str, **sick: NodeState | Exception) -> list[int]:
    """``hosts`` has a letter for each voter; ``sick`` is by ``n1``, ``n2``, …"""
    reports: dict[int, NodeReport | Exception] = {node: report(node, host) for node, host in enumerate(hosts, 1)}
    for name, how in sick.items():
        node = int(name[1:])
        reports[node] = how if isinstance(how, Exception) else report(node, hosts[node - 1], how)
    return rolling._who_stays(FIVE, reports, nodes, leader)


def test_a_group_that_grows_keeps_all() -> None:
    assert stays(7, 1, "abcde") == [1, 2, 3, 4, 5]


def test_the_sick_go_first_and_then_the_newest() -> None:
    assert stays(3, 5, "abcde", n1=TimeoutError(), n2=NodeState.FAILED) == [3, 4, 5]
    assert stays(3, 5, "abcde", n1=NodeState.DIVERGED) == [2, 3, 5]


def check_the_leader_stays() -> None:
    assert stays(1, 5, "abcdd") == [5]
    assert stays(3, 2, "abbbb") == [1, 2, 3]


def test_the_leader_stays() -> None:
    check_the_leader_stays()


def test_full_machines_are_emptied_one_by_one() -> None:
    assert stays(3, 1, "aabbc") == [1, 3, 5]


def test_a_choice_without_the_leader_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rolling._who_stays
    monkeypatch.setattr(rolling, "_who_stays", lambda c, r, nodes, leader: right(c, r, nodes, 1))
    with pytest.raises(AssertionError):
        check_the_leader_stays()


# --- who is restarted next --------------------------------------------------------------------------------------------


def test_the_sick_are_restarted_first_and_the_leader_last() -> None:
    reports = {node: report(node, "a") for node in (1, 2, 4)}
    assert rolling._next([1, 2, 3, 4], 1, reports) == 3
    assert rolling._next([1, 2, 4], 1, reports) == 2
    assert rolling._next([1, 4], 1, reports) == 4
    assert rolling._next([1], 1, reports) == 1


class Group:
    """Stands for the cluster and for `Members`: three voters, of whom node 1 leads, 3 has the most, 2 is a witness."""

    def __init__(self, **sick: NodeState) -> None:
        self.transfers: list[int] = []
        self.sick = sick
        self.name = "stand-in"

    def leader(self, timeout_s: float) -> int:
        return 1

    def configuration(self) -> Configuration:
        return Configuration(voters=(1, 2, 3, 4, 5), witnesses=(2,))

    def reports(self) -> dict[int, NodeReport | Exception]:
        found: dict[int, NodeReport | Exception] = {}
        for node, applied in {1: 900, 2: 999, 3: 800, 4: 900, 5: 700}.items():
            state = self.sick.get(f"n{node}", NodeState.RUNNING)
            replica: Any = SimpleNamespace(applied=applied, commit=900) if state is NodeState.RUNNING else None
            found[node] = NodeReport(node, state, None, None, node, "", {}, "a", 0, 0, replica)
        return found

    def transfer(self, heir: int, timeout_s: float) -> None:
        self.transfers.append(heir)


def hand_over(group: Group, node: int) -> list[int]:
    rolling._hand_over(cast("Any", group), cast("Any", group), node, time.monotonic() + 9, rolling.ignore)
    return group.transfers


def test_the_leader_hands_over_to_the_healthy_one_that_has_the_most() -> None:
    assert hand_over(Group(), 1) == [4]
    assert hand_over(Group(n4=NodeState.DIVERGED), 1) == [3]
    assert hand_over(Group(), 3) == [], "it does not lead"


def wait_until_safe(group: Group, node: int) -> None:
    rolling._wait_until_safe(cast("Any", group), group.configuration(), node)


def test_a_node_goes_only_while_a_majority_without_it_is_up_and_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the five, node 5 is too far behind to count."""
    monkeypatch.setattr(rolling, "PATIENCE_SECONDS", 0.0)
    wait_until_safe(Group(), 4)
    wait_until_safe(Group(n3=NodeState.FAILED), 5)
    wait_until_safe(Group(n3=NodeState.FAILED, n4=NodeState.FAILED), 9)  # no voter
    with pytest.raises(NoQuorum, match="of 5 voters only 2 others are up"):
        wait_until_safe(Group(n3=NodeState.FAILED), 4)
    monkeypatch.setattr(rolling, "CLOSE_BEHIND", 1000)  # a mutation: whoever is up counts
    wait_until_safe(Group(n3=NodeState.FAILED), 4)


# --- whose snapshot is waited for -------------------------------------------------------------------------------------


class AlwaysSaving:
    """A node so busy that it begins the next snapshot as soon as it has one: each look finds it ten entries further."""

    def __init__(self) -> None:
        self.looks = 0
        self.report = SimpleNamespace(remote=lambda: self.look)
        self.take_snapshot = SimpleNamespace(remote=lambda: self.order)

    def order(self) -> int:
        return 10 * self.looks + 35

    def look(self) -> NodeReport:
        self.looks += 1
        replica: Any = SimpleNamespace(saving=True, snapshot=10 * self.looks, diverged=False, configuration=FIVE)
        return NodeReport(1, NodeState.RUNNING, None, None, 1, "", {}, "a", 0, 0, replica)


def check_a_busy_node_is_waited_for_only_until_it_has_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    node = AlwaysSaving()
    found = object.__new__(group.Group)
    found._handles = {1: node}
    monkeypatch.setattr(group, "gather", lambda asked, timeout_s: {node: answer() for node, answer in asked.items()})
    monkeypatch.setattr(group, "_serving_leader", lambda reports: 1)
    monkeypatch.setattr(group, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(group, "COMPARE_SECONDS", 0.0)
    found.take_snapshot(timeout_s=5.0)
    assert node.looks == 5, "it looked until it had time no more, or did not wait for what was asked for"


def test_a_busy_node_is_waited_for_only_until_it_has_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade in a busy group hung in its last step, for as long as the node was busy."""
    check_a_busy_node_is_waited_for_only_until_it_has_what_was_asked_for(monkeypatch)


def test_an_upgrade_waits_for_snapshots_no_longer_than_it_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done by then: one hung for three minutes where it had two, as a busy group's snapshot did not count."""
    waited: list[float] = []
    done = SimpleNamespace(result=lambda timeout_s: 1)
    client = SimpleNamespace(command=lambda call, timeout_s: done, close=lambda: None)
    monkeypatch.setattr(upgrades, "_rehearse", lambda *_: 0)
    monkeypatch.setattr(upgrades, "RayEndpoints", lambda *_: None)
    monkeypatch.setattr(upgrades, "Client", lambda *_: client)
    cluster = SimpleNamespace(name="g", nodes=[1, 2, 3], actor=lambda node: None, take_snapshot=waited.append)
    assert upgrades.upgrade(cast("Any", cluster), KeyValue, without_absent=False, timeout_s=30.0) == 1
    assert 0 < waited[0] <= 10.0


def saved(node: int, **facts: Any) -> NodeReport | Exception:
    status = {"snapshot": 0, "saving": False, "diverged": False, "snapshot_error": "", "configuration": FIVE} | facts
    return NodeReport(node, NodeState.RUNNING, None, None, 1, "", {}, "a", 0, 0, cast("Any", SimpleNamespace(**status)))


class Saves:
    """A node that saves its state, or does what a script says, when it is asked to."""

    def __init__(self, goal: int | Exception, report: NodeReport | Exception) -> None:
        self.take_snapshot = SimpleNamespace(remote=lambda: goal)
        self.report = SimpleNamespace(remote=lambda: report)


def test_who_did_not_save_its_state_is_named_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """All had saved, it said, also where one hung, one had a full disk and none could compare its state."""
    found = object.__new__(group.Group)
    witness = Configuration(voters=(1, 2, 3), witnesses=(6,))
    found._handles = {
        1: Saves(7, saved(1, snapshot=7)),
        2: Saves(TimeoutError("no answer within 30.0 s"), TimeoutError("no answer")),
        3: Saves(7, saved(3, snapshot_error="the disk is full")),
        4: Saves(7, saved(4, snapshot=6)),
        5: Saves(7, TimeoutError("it went away")),
        6: Saves(7, saved(6, configuration=witness)),
        7: Saves(7, saved(7, saving=True)),
    }
    monkeypatch.setattr(group, "gather", lambda answers, timeout_s: answers)
    monkeypatch.setattr(group, "_serving_leader", lambda reports: 1)
    for name in ("POLL_SECONDS", "COMPARE_SECONDS"):
        monkeypatch.setattr(group, name, 0.0)
    failed = found.take_snapshot(timeout_s=0.01)
    assert failed == {
        2: "no answer within 30.0 s",
        3: "the disk is full",
        4: "it has saved its state, and cuts its log once a majority has the same one",
        5: "it went away",
        7: "it is still at it",
    }


@pytest.mark.parametrize("rule", [lambda found, goal: found.replica.saving, lambda found, goal: False])
def test_waiting_too_long_or_not_at_all_is_noticed(monkeypatch: pytest.MonkeyPatch, rule: Any) -> None:
    monkeypatch.setattr(group, "_is_saving", rule)
    with pytest.raises(AssertionError):
        check_a_busy_node_is_waited_for_only_until_it_has_what_was_asked_for(monkeypatch)


# --- which disks are enough to start with -----------------------------------------------------------------------------


def lost_of(configuration: Configuration, running: set[int]) -> dict[int, str]:
    """The voters whose disks are not there, by nodes of which each knows ``configuration`` where it runs."""
    voters = configuration.all_voters()
    status: Any = SimpleNamespace(term=1, last_index=1, configuration=configuration)
    reports = {node: replace(report(node, "a"), replica=status) for node in running}
    absent = dict.fromkeys(voters - running, "its machine is down")
    cluster: Any = SimpleNamespace(name="g")
    return starting._check_disks(cluster, len(voters), reports, absent)


def test_a_group_starts_without_the_disks_of_a_minority() -> None:
    assert lost_of(FIVE, {1, 2, 3}).keys() == {4, 5}
    with pytest.raises(NoQuorum, match="node 3: its machine is down"):
        lost_of(FIVE, {1, 2})


def test_between_two_sets_of_voters_a_group_starts_exactly_when_both_can_elect() -> None:
    with pytest.raises(NoQuorum):
        lost_of(Configuration(voters=(4, 5, 6), outgoing=(1, 2, 3)), {1, 2, 3, 4})
    assert lost_of(Configuration(voters=(1, 2, 4), outgoing=(1, 2, 3)), {1, 2}).keys() == {3, 4}
