"""All wait while the leader is copied, so it prepares for that. Without a follower a majority goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayraft.replica import Replica
from rayraft.replica.compaction import Compaction
from tests.replica.support import Caller, Group
from tests.replica.test_divergence import compare, corrupt, no_snapshots, write


def unprepared(*copiers: Any) -> Callable[[], None]:
    """None of these is prepared, until what this returns is called."""
    for copier in copiers:
        vars(copier)["prepare"] = lambda: False

    def prepared() -> None:
        for copier in copiers:
            vars(copier)["prepare"] = lambda: True

    return prepared


def check_the_leader_prepares(**settings: Any) -> None:
    group = Group(digest_entries=0, **settings)
    caller = Caller(group, group.elect())
    prepared = unprepared(*group.snapshotters.values())
    write(group, caller, 12)
    if not settings:
        for replica in group.replicas.values():
            replica.compaction.order()
            assert replica.status().saving
    group.rest()
    leader = group.elect()
    assert all(follower.status().snapshot for follower in group.followers())
    assert leader.status().snapshot == 0
    assert leader.next_deadline <= group.now + 0.02  # it looks again soon
    prepared()
    group.until(lambda: leader.status().snapshot)
    group.rest()
    assert not any(replica.status().saving for replica in group.replicas.values())
    assert group.elect() is leader


def test_a_leader_that_is_told_to_save_its_state_prepares_first() -> None:
    check_the_leader_prepares()


def test_a_leader_whose_snapshot_is_due_prepares_first() -> None:
    check_the_leader_prepares(snapshot_entries=10)


def check_the_leader_logs_no_mark() -> None:
    group = Group(digest_entries=5)
    prepared = unprepared(*(replica.state_check._digester for replica in group.replicas.values()))
    write(group, Caller(group, group.elect()), 12)
    group.rest()
    assert not any(replica.state_check.marked for replica in group.replicas.values())
    prepared()
    group.until(lambda: all(replica.status().checked for replica in group.replicas.values()))


def test_a_leader_prepares_before_it_logs_a_mark() -> None:
    check_the_leader_logs_no_mark()


def test_a_node_whose_state_is_wrong_saves_none_for_an_order() -> None:
    group = Group(digest_entries=1000)
    write(group, Caller(group, group.elect()), 3)
    wrong = group.followers()[0]
    wrong.compaction.order()
    corrupt(group, wrong.raft.id)
    group.lose = no_snapshots
    unprepared(*group.snapshotters.values())
    compare(group)
    group.until(lambda: wrong.diverged)
    assert not wrong.status().saving
    wrong.compaction.order()
    assert not wrong.status().saving
    assert not wrong.compaction._wants()


# --- bugs planted on purpose ------------------------------------------------------------------------------------------


def it_is_copied_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Compaction, "_may_save", lambda self: not self._snapshotter.busy)


def everyone_prepares(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Compaction, "_may_save", lambda self: not self._snapshotter.busy and self._snapshotter.prepare())


def nobody_looks_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replica, "next_deadline", property(lambda self: self.raft.next_deadline))


@pytest.mark.parametrize("plant", [it_is_copied_at_once, everyone_prepares, nobody_looks_again])
def test_is_caught(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_the_leader_prepares()
