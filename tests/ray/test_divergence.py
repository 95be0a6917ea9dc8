"""States that differ, in real nodes: who is wrong is found, named in the status and rebuilt, and so is the command."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import rayraft
from rayraft.cli.groups import _status_rows
from rayraft.ray.spec import NodeState
from tests.ray.recorded import Recorded
from tests.ray.support import assert_equal_states, report, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]
SETTINGS = rayraft.Settings(digest_entries=10)


class Odd:
    """Two ways to be wrong: one process among the others, and the order of a set."""

    def __init__(self) -> None:
        self.notes: list[object] = []

    @rayraft.command
    def keep(self, value: int) -> int:
        self.notes.append(value)
        return len(self.notes)

    @rayraft.command
    def note_process(self, pid: int) -> None:
        self.notes[-1] = os.getpid() == pid

    @rayraft.command
    def note_words(self, text: str) -> None:
        self.notes[-1] = list(set(text.split()))

    @rayraft.query
    def kept(self) -> int:
        return len(self.notes)


def keep_until(odd: Recorded, condition: Callable[[], object], what: str) -> None:
    """Load goes on: it is what brings the next comparison."""

    def attempt() -> object:
        for number in range(5):
            odd.keep(number)
        return condition()

    wait_until(attempt, what=what)


def test_a_node_whose_state_differs_is_rebuilt_and_serves_again(start_group: Start) -> None:
    odd = start_group(Odd, "odd-node", settings=SETTINGS, timeout_s=60)
    recorded = Recorded(odd)
    leader = odd.cluster.leader()
    recorded.keep(1)
    found = report(odd, leader)
    assert found is not None
    odd.note_process(found.pid)  # the leader's state is wrong from here on

    def rebuilt() -> bool:
        now = report(odd, leader)
        return now is not None and now.replica is not None and now.replica.counters.rebuilt > 0

    keep_until(recorded, rebuilt, "the leader's new state")
    assert_equal_states(odd)
    after = report(odd, leader)
    assert after.state is NodeState.RUNNING
    assert after.pid == found.pid
    assert after.replica.divergence.nodes == (leader,)
    assert recorded.kept() > 2
    recorded.assert_linearizable(at_least=3)


@pytest.mark.slow
def test_the_command_that_is_not_deterministic_is_named(start_group: Start) -> None:
    odd = start_group(Odd, "odd-words", settings=SETTINGS, timeout_s=60)
    recorded = Recorded(odd)
    recorded.keep(1)
    text = "one two three four five six seven eight nine ten"
    odd.note_words(text)

    def named() -> list[str]:
        reports = [report(odd, node) for node in odd.cluster.nodes]
        found = [item.replica.divergence for item in reports if item and item.replica and item.replica.divergence]
        return [item.culprit for item in found if item.culprit]

    keep_until(recorded, named, "the command's name")
    assert f"note_words({text!r})" in named()[0]
    recorded.assert_linearizable(at_least=2)
    shown = [str(row["error"]) for row in _status_rows(odd.cluster.status())]
    assert any("note_words" in error for error in shown)
    errors = [item.error for node in odd.cluster.nodes if (item := report(odd, node)) is not None]
    assert any(isinstance(error, rayraft.StateDiverged) for error in errors)
