"""A short chaos run on real machines, from the first to the last step."""

from __future__ import annotations

import pytest

from rayraft.chaos.machines import why_not
from rayraft.chaos.run import ChaosPlan, View, run_chaos
from rayraft.chaos.schedule import FaultKind
from rayraft.ray.settings import Settings


def test_a_tormented_group_has_clients_everywhere_and_saves_its_state_all_the_time() -> None:
    plan = ChaosPlan()
    assert [plan.client_plan.clients_on(machine) for machine in range(1, 6)] == [2] * 5
    assert plan.settings.snapshot_entries == 1_000
    assert plan.settings.digest_entries == 500


def test_a_measured_group_has_two_writers_and_the_settings_that_others_have() -> None:
    plan = ChaosPlan(repeats=20, election_timeout=2.0, pause_s=0.01)
    assert [plan.client_plan.clients_on(machine) for machine in range(1, 6)] == [1, 1, 0, 0, 0]
    assert plan.client_plan.pause_s == 0.01
    assert plan.settings == Settings(election_timeout=2.0, rebuild_after=2.0)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_short_run_is_clean() -> None:
    if reason := why_not():
        pytest.skip(f"machines can not be made here: {reason}")
    kinds = (FaultKind.LEADER_KILLED, FaultKind.FOLLOWER_CUT, FaultKind.LEADER_PAUSED, FaultKind.LEADER_MOVED)
    told: list[str] = []

    class Notes(View):
        def say(self, line: str) -> None:
            told.append(line)

    outcome = run_chaos(ChaosPlan(seed=1, machines=3, kinds=kinds, repeats=1, election_timeout=2.0), Notes())
    assert outcome.good, outcome.violation or outcome.lost or outcome.repeated or outcome.digests
    assert outcome.by_kind == {kind.value: 1 for kind in kinds}, told
    assert outcome.commands > 100
    assert len(outcome.digests) == 3
    assert outcome.longest_gap > 0
    assert len(outcome.leaders) >= 2, "some of the faults take the leader's office"
