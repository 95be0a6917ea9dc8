"""A short chaos run on real machines, from the first to the last step."""

from __future__ import annotations

import pytest

from rayraft.chaos.machines import why_not
from rayraft.chaos.run import ChaosPlan, View, run_chaos
from rayraft.chaos.schedule import FaultKind


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
