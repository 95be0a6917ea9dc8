"""Who leaves a group that shrinks: a pure choice."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rayraft.raft.types import Configuration
from rayraft.ray import rolling
from rayraft.ray.spec import NodeReport, NodeState

FIVE = Configuration(voters=(1, 2, 3, 4, 5))


def report(node: int, host: str, state: NodeState = NodeState.RUNNING) -> NodeReport:
    replica: Any = object() if state is NodeState.RUNNING else None
    return NodeReport(node, state, None, None, node, "", {}, host, 0, 0, cast("Any", replica))


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
