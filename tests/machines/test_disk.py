"""A machine's disk is full: its node is out, and the group goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayraft.chaos.group import Group
from rayraft.chaos.machines import why_not
from tests.machines.support import assert_nothing_lost, group_on

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    if reason := why_not():
        pytest.skip(f"machines can not be made here: {reason}")
    with group_on([1, 2, 3], machines=3, disk_bytes={3: 256 << 20}) as group:
        yield group


def test_full_disk_of_the_leader(group: Group) -> None:
    old = group.transfer_to(3)
    group.wait_for_commands(100)
    group.machines.fill(3)
    try:
        new = group.wait_for_leader([1, 2])
        group.wait_for_commands(200)
    finally:
        group.machines.make_room(3)
    failed = {(seen.machine, seen.error) for seen in group.seen if seen.state == "failed" and seen.machine != 3}
    assert not failed, "only the node without room is out"
    assert new.term > old.term
    assert_nothing_lost(group)
