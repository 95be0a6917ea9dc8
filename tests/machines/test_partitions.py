"""Links between real machines are cut: the majority serves, the minority refuses by name, and nothing is lost.

Ray's head is on machine 1, the nodes on machines 2, 3 and 4, clients everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayraft.chaos.group import Group
from rayraft.chaos.machines import Direction, why_not
from rayraft.chaos.records import Seen
from tests.machines.support import CLIENT_SECONDS, assert_equal_states, assert_nothing_lost, group_on

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def shared() -> Iterator[Group]:
    if reason := why_not():
        pytest.skip(f"machines can not be made here: {reason}")
    with group_on([2, 3, 4], machines=4) as group:
        yield group
        assert_equal_states(group)


@pytest.fixture
def group(shared: Group) -> Iterator[Group]:
    """Whole at the beginning and, healed, at the end; then the histories are checked."""
    shared.wait_until_whole()
    yield shared
    shared.machines.heal()
    shared.wait_until_whole()
    assert_nothing_lost(shared)


def commands_of(group: Group, machine: int) -> int:
    group.look()
    return sum(client.startswith(f"m{machine}-") for _, client in group.books.acknowledged)


def wait_for_refusals(group: Group, machine: int, after: Seen) -> list[str]:
    """The errors of the calls of this machine's clients that began after ``after``, once there are any."""

    def refused() -> list[tuple[float, str]]:
        return [
            (failed.at - begun.at, failed.error)
            for begun, failed in group.books.failures
            if begun.client.startswith(f"m{machine}-") and begun.at > after.at
        ]

    found = group.wait_until(refused, f"the clients on m{machine} are not refused")
    assert max(seconds for seconds, _ in found) < 10 * CLIENT_SECONDS, "a call has a deadline of its own"
    return [error for _, error in found]


def assert_replaced(group: Group, old: Seen) -> None:
    """Another node leads in a new term and serves; the old leader does not, and its clients are told so."""
    others = [home for home in group.homes if home != old.machine]
    new = group.wait_for_leader(others)
    assert new.term > old.term
    group.wait_for_commands(100)
    before = commands_of(group, old.machine)
    assert set(wait_for_refusals(group, old.machine, old)) == {"CommandTimeout"}
    assert commands_of(group, old.machine) == before, "the minority serves nobody"
    group.wait_until(lambda: not group.now()[old.machine].serves, "the old leader does not notice")


def assert_back(group: Group, old: Seen) -> None:
    """After healing: the old leader follows, and its clients are served again."""
    group.wait_until_whole()
    seen = group.now()[old.machine]
    assert seen.term > old.term
    before = commands_of(group, old.machine)
    group.wait_until(lambda: commands_of(group, old.machine) > before + 10, "no service after healing")


def test_leader_cut_from_the_majority(group: Group) -> None:
    old = group.transfer_to(2)
    group.machines.isolate(2)
    assert_replaced(group, old)
    group.machines.heal()
    assert_back(group, old)


@pytest.mark.parametrize("direction", [Direction.FORTH, Direction.BACK], ids=["not heard", "hears nothing"])
def test_leader_cut_in_one_direction(group: Group, direction: Direction) -> None:
    old = group.transfer_to(3)
    group.machines.isolate(3, direction)
    assert_replaced(group, old)
    group.machines.heal()
    assert_back(group, old)


def test_follower_cut(group: Group) -> None:
    leader = group.transfer_to(2)
    group.machines.isolate(4)
    group.wait_for_commands(200)
    assert set(wait_for_refusals(group, 4, leader)) <= {"CommandTimeout"}
    now = group.wait_for_leader()
    assert (now.machine, now.term) == (2, leader.term), "a node that is cut off deposes nobody"
    group.machines.heal()
    group.wait_until_whole()
    now = group.wait_for_leader()
    assert (now.machine, now.term) == (2, leader.term), "nor when it is back"


def test_bridge(group: Group) -> None:
    """Machines 2 and 4 do not hear each other, machine 3 hears both: one leader, and it stays."""
    leader = group.transfer_to(2)
    group.machines.bridge([2], [4])
    group.wait_for_commands(200)
    group.wait_until(lambda: group.now()[4].applied < group.now()[2].applied, "m4 should be cut off from its leader")
    now = group.wait_for_leader()
    assert (now.machine, now.term) == (2, leader.term)


def test_leader_cut_from_the_head_only(group: Group) -> None:
    leader = group.transfer_to(2)
    before = {machine: commands_of(group, machine) for machine in (2, 3, 4)}
    group.machines.cut(1, 2)
    for machine, count in before.items():
        group.wait_until(
            lambda machine=machine, count=count: commands_of(group, machine) > count + 50,  # type: ignore[misc]
            f"the clients on m{machine} are not served",
        )
    now = group.wait_for_leader()
    assert (now.machine, now.term) == (2, leader.term)
