"""A check that was never seen to fail proves nothing: every bug of the museum is caught.

The quick suite plants each bug and runs the seed that the table in `docs/museum.md` names; the whole hunt is slow.
"""

from __future__ import annotations

import pytest

from rayraft.simulation import SimulationFailed, simulate
from tests.simulation.museum import LIMIT, Catch, hunt, hunt_all, recorded, table
from tests.simulation.mutations import MUTATIONS

AGAIN = 60  # seeds to try where the recorded one has become another run


@pytest.mark.parametrize("bug", list(recorded()))
def test_a_planted_bug_is_caught_by_the_recorded_seed(bug: str) -> None:
    """A change of the code makes another run of each seed: then the first few are tried before the table is stale."""
    seed = recorded()[bug] - 1
    caught = hunt(bug, range(seed, seed + 1)).seeds or hunt(bug, range(AGAIN)).seeds
    assert caught, f"neither seed {seed} nor {AGAIN} others find it: see `tests.simulation.museum`"


def test_the_table_lists_bugs_that_exist() -> None:
    """Those that need more seeds than the table's last hunt tried are left to the slow hunt."""
    assert set(recorded()) <= set(MUTATIONS)
    assert len(recorded()) >= 45


@pytest.fixture(scope="module")
def catches() -> dict[str, Catch]:
    found = {catch.bug: catch for catch in hunt_all()}
    print("\n" + table(list(found.values())))
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bug", list(MUTATIONS))
def test_a_planted_bug_is_caught(bug: str, catches: dict[str, Catch]) -> None:
    assert catches[bug].seeds is not None, f"{LIMIT} seeds did not find it: {MUTATIONS[bug].__doc__}"


def test_a_failure_tells_its_story(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed, the invariant by name, where it broke, who led and what was done to the group."""
    MUTATIONS["answer_before_the_sync"](monkeypatch)
    failure = next(failure for failure in map(failure_of, range(LIMIT)) if failure is not None)
    text = str(failure)
    assert f"seed {failure.seed}" in text
    assert failure.violation.name == "durable before ack"
    assert f"step {failure.violation.step}" in text
    assert "starts" in text


def failure_of(seed: int) -> SimulationFailed | None:
    try:
        simulate(seed)
    except SimulationFailed as failure:
        return failure
    return None
