"""Ray's head goes: commits go on without it, and it comes back to its cluster, or a new one starts over the disks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from rayraft.chaos.group import Group
from rayraft.chaos.machines import why_not
from tests.machines.support import assert_equal_states, assert_nothing_lost, group_on

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def _needs_machines() -> None:
    if reason := why_not():
        pytest.skip(f"machines can not be made here: {reason}")


@pytest.fixture
def group() -> Iterator[Group]:
    with group_on([2, 3, 4], machines=4) as group:
        yield group


def test_head_lost_and_back(group: Group) -> None:
    """Its state is on its disk (`RAY_gcs_storage=rocksdb`): nothing has to be started anew."""
    before = group.wait_for_leader()
    group.machines.kill_machine(1)
    group.wait_for_commands(500)
    now = group.wait_for_leader()
    assert (now.node, now.term) == (before.node, before.term), "the group does not notice"
    group.machines.start_machine(1)
    assert_nothing_lost(group)  # by a new driver, which finds the group through the new head
    pids = {machine: seen.pid for machine, seen in group.now().items()}
    os.kill(group.process(now.machine).id, signal.SIGKILL)  # to start it again is the head's work
    group.wait_until(
        lambda: now.machine in group.now() and group.now()[now.machine].pid != pids[now.machine],
        "the killed node does not come back",
    )
    group.wait_until_whole()
    group.wait_for_commands(100)
    assert_nothing_lost(group)
    assert_equal_states(group)


def test_leader_killed_while_the_head_is_away(group: Group) -> None:
    before = group.wait_for_leader()
    group.machines.kill_machine(1)
    group.wait_for_commands(100)
    os.kill(group.process(before.machine).id, signal.SIGKILL)
    others = [home for home in group.homes if home != before.machine]
    assert group.wait_for_leader(others, timeout_s=40).term > before.term


def test_machine_of_the_head_and_the_leader_lost() -> None:
    """One machine of three, so the other two must serve, although it is the head's."""
    with group_on([1, 2, 3], machines=3) as group:
        old = group.transfer_to(1)
        for machine in (2, 3):  # whoever is started anew knows nobody but the leader
            os.kill(group.process(machine).id, signal.SIGKILL)
            group.wait_until(lambda machine=machine: machine not in group.now(), "it is killed")  # type: ignore[misc]
            group.wait_until_whole()
        group.wait_for_commands(100)
        group.machines.kill_machine(1)
        assert group.wait_for_leader([2, 3], timeout_s=40).term > old.term
        group.wait_for_commands(100)


def test_cold_start_over_the_old_disks() -> None:
    """The head keeps nothing, and every machine stops: a new Ray cluster, and `start` finds the group on the disks."""
    with group_on([1, 2, 3], machines=3, durable_head=False) as group:
        group.wait_for_commands(500)
        for machine in (1, 2, 3):
            group.machines.kill_machine(machine)
        for machine in (1, 2, 3):
            group.machines.start_machine(machine)
        group.start()
        group.start_stations()
        group.wait_until_whole()
        group.wait_for_commands(100)
        assert_nothing_lost(group)
        assert_equal_states(group)
