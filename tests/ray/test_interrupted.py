"""An operator's process is killed in the middle of an order: the next one, or the supervisor, has the group whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

import rayraft
from rayraft.ray.members import Members
from rayraft.ray.names import find_nodes
from tests.ray.support import Ledger, Marker, assert_equal_states, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Start = Callable[..., rayraft.Handle]
OPERATOR = """
import logging, sys, ray, rayraft
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
print("ready", flush=True)
cluster = rayraft.connect(sys.argv[2]).cluster
{order}
"""


def begin(order: str, name: str) -> subprocess.Popen[str]:
    """An operator who is about to give this order."""
    address = ray.get_runtime_context().gcs_address
    process = subprocess.Popen(
        [sys.executable, "-c", OPERATOR.format(order=order), address, name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def interrupt(order: str, name: str, when: Callable[[], bool]) -> None:
    operator = begin(order, name)
    try:
        wait_until(when, what="the middle of the order")
    finally:
        operator.kill()
        operator.wait()


def wait_until_whole(name: str, voters: int) -> None:
    def whole() -> bool:
        cluster = rayraft.connect(name).cluster
        configuration = cluster.configuration()
        return (
            len(configuration.voters) == voters
            and not configuration.learners
            and sorted(find_nodes(name)) == sorted(configuration.voters)
        )

    wait_until(whole, 120.0, "a whole group")


def members(handle: rayraft.Handle) -> set[int]:
    return set(handle.cluster.configuration().members())


def test_scaling_up_is_interrupted_by_a_kill(start_group: Start) -> None:
    handle = start_group(Ledger, "cut-up", supervise=True, timeout_s=60)
    with Marker(handle, "m") as marker:
        marker.wait_for_more(20)
        interrupt("cluster.scale(5)", "cut-up", lambda: 4 in find_nodes("cut-up"))
        rayraft.connect("cut-up").cluster.scale(5)
        wait_until_whole("cut-up", 5)
        marker.wait_for_more(20)
    marker.assert_exactly_once()
    assert_equal_states(rayraft.connect("cut-up"))


def test_scaling_down_is_interrupted_by_a_kill(start_group: Start) -> None:
    handle = start_group(Ledger, "cut-down", nodes=5, supervise=True, timeout_s=60)
    with Marker(handle, "m") as marker:
        marker.wait_for_more(20)
        interrupt("cluster.scale(3)", "cut-down", lambda: len(members(handle)) < 5)
        wait_until_whole("cut-down", 3)  # by the supervisor alone: the members were changed, their actors were left
        marker.wait_for_more(20)
    marker.assert_exactly_once()
    assert_equal_states(rayraft.connect("cut-down"))


def test_a_replacement_that_was_interrupted_is_taken_up_by_the_next_operator(start_group: Start) -> None:
    handle = start_group(Ledger, "taken", timeout_s=60)
    operators = Members(handle.cluster)
    new = operators.begin_replacement(3, replaces=3, ordered=True, timeout_s=60)
    assert members(handle) == {1, 2, 3, new}
    assert rayraft.connect("taken").cluster.replace_node(3) == new
    assert members(handle) == {1, 2, new}
    assert sorted(find_nodes("taken")) == [1, 2, new]
    with pytest.raises(rayraft.MembershipRefused, match="no member"):
        handle.cluster.replace_node(3)


@pytest.mark.timeout(400)
def test_a_replacement_that_was_interrupted_is_finished_by_the_supervisor(start_group: Start) -> None:
    handle = start_group(Ledger, "finished", supervise=True, timeout_s=60)
    with Marker(handle, "m") as marker:
        marker.wait_for_more(20)
        interrupt("cluster.replace_node(3)", "finished", lambda: members(handle) != {1, 2, 3})
        wait_until(lambda: 3 not in members(handle), 150.0, "the end of node 3")
        wait_until_whole("finished", 3)
        marker.wait_for_more(20)
    marker.assert_exactly_once()
    assert_equal_states(rayraft.connect("finished"))
