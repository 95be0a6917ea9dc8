"""A check that was never seen to fail proves nothing: every bug of the museum is caught."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayraft.simulation import SimulationFailed, simulate
from tests.simulation.mutations import MUTATIONS

LIMIT = 120  # seeds

_needed: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    print("\nseeds needed to catch each planted bug:")
    for name, line in _needed.items():
        print(f"  {name:44} {line}")


def seeds_needed(name: str, limit: int) -> int | None:
    """How many seeds it takes until one fails; None when none of ``limit`` does."""
    for seed in range(limit):
        try:
            simulate(seed)
        except SimulationFailed as failure:
            _needed[name] = f"{seed + 1:5}  {failure.violation.name}"
            return seed + 1
    return None


@pytest.mark.parametrize("name", list(MUTATIONS))
def test_a_planted_bug_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch, record_property: pytest.FixtureRequest
) -> None:
    MUTATIONS[name](monkeypatch)
    needed = seeds_needed(name, LIMIT)
    assert needed is not None, f"{LIMIT} seeds did not find it: {MUTATIONS[name].__doc__}"
    record_property("seeds", needed)  # type: ignore[operator]


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
