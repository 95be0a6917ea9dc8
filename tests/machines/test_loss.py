"""A whole machine stops at once and comes back with its disk: its node resumes, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from rayraft.chaos.group import Group
from rayraft.chaos.machines import paused, why_not
from tests.machines.support import QUICK, assert_equal_states, assert_nothing_lost, group_on

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    if reason := why_not():
        pytest.skip(f"machines can not be made here: {reason}")
    with group_on([2, 3, 4], machines=4, ray=QUICK) as group:
        yield group
        assert_equal_states(group)


def test_machine_of_the_leader_lost_and_back(group: Group) -> None:
    old = group.transfer_to(2)
    group.wait_for_commands(200)
    group.machines.kill_machine(2)
    new = group.wait_for_leader([3, 4])
    assert new.term > old.term
    group.wait_for_commands(200)
    group.machines.start_machine(2)
    group.wait_until(lambda: 2 in group.now(), "the lost machine's node does not come back")
    back = group.now()[2]
    assert (back.node, back.state) == (old.node, "running")
    assert back.first <= old.commit, "it resumes from its disk"
    group.wait_until_whole()
    assert_nothing_lost(group)


def test_every_machine_but_the_head_lost_at_once(group: Group) -> None:
    group.wait_until_whole()
    group.wait_for_commands(100)
    for machine in (2, 3, 4):
        group.machines.kill_machine(machine)
    for machine in (4, 3, 2):
        group.machines.start_machine(machine)
    group.wait_until_whole()
    group.wait_for_commands(100)
    assert_nothing_lost(group)


def test_leader_paused_longer_than_its_election_timeout(group: Group) -> None:
    """It wakes up in an old term and believes to lead: whatever it answers must be right."""
    old = group.transfer_to(3)
    group.wait_for_commands(100)
    with paused(group.process(3)):
        assert group.wait_for_leader([2, 4]).term > old.term
        group.wait_for_commands(100)
    group.wait_until_whole()
    assert_nothing_lost(group)


def test_leader_process_killed(group: Group) -> None:
    old = group.transfer_to(4)
    group.wait_for_commands(100)
    os.kill(group.process(4).id, signal.SIGKILL)
    assert group.wait_for_leader([2, 3]).term > old.term
    group.wait_until_whole()
    assert_nothing_lost(group)
