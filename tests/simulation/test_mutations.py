"""A check that was never seen to fail proves nothing: every bug of the museum is caught."""

from __future__ import annotations

import pytest

from rayraft.simulation import SimulationFailed, simulate
from tests.simulation.museum import LIMIT, Catch, hunt_all, table
from tests.simulation.mutations import MUTATIONS


@pytest.fixture(scope="module")
def catches() -> dict[str, Catch]:
    found = {catch.bug: catch for catch in hunt_all()}
    print("\n" + table(list(found.values())))
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", list(MUTATIONS))
def test_a_planted_bug_is_caught(bug: str, catches: dict[str, Catch]) -> None:
    assert catches[bug].seeds is not None, f"{LIMIT} seeds did not find it: {MUTATIONS[bug].__doc__}"


def test_a_failure_tells_its_story(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed, the invariant by name, where it broke, who led and what was done to the group."""
    MUTATIONS["two_votes_in_a_term"](monkeypatch)
    failure = next(failure for failure in map(failure_of, range(LIMIT)) if failure is not None)
    text = str(failure)
    assert f"seed {failure.seed}" in text
    assert failure.violation.name == "one vote per term"
    assert f"step {failure.violation.step}" in text
    assert "starts" in text


def failure_of(seed: int) -> SimulationFailed | None:
    try:
        simulate(seed)
    except SimulationFailed as failure:
        return failure
    return None
