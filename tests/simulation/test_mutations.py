"""A check that was never seen to fail proves nothing: every bug of the museum is caught.

The quick suite plants each bug and runs the seed that the table in `docs/museum.md` names; the whole hunt is slow.
"""

from __future__ import annotations

import pytest

from rayraft.simulation import SimulationFailed, simulate
from tests.simulation.museum import LIMIT, Catch, hunt, hunt_all, limit_of, listed_with_story, page, recorded, spaced
from tests.simulation.mutations import MUTATIONS
from tests.simulation.stories import STORIES

AGAIN = 60  # seeds to try where the recorded one has become another run
CAUGHT = (AssertionError, LookupError, pytest.fail.Exception)


@pytest.mark.parametrize("bug", [bug for bug in recorded() if bug not in STORIES])
def test_a_planted_bug_is_caught_by_the_recorded_seed(bug: str) -> None:
    """A change of the code makes another run of each seed: then the first few are tried before the table is stale."""
    seed = (recorded()[bug].seeds or 1) - 1
    caught = hunt(bug, range(seed, seed + 1)).seeds or hunt(bug, range(AGAIN)).seeds
    assert caught, f"neither seed {seed} nor {AGAIN} others find it: see `tests.simulation.museum`"


@pytest.mark.parametrize("bug", list(STORIES))
def test_a_planted_bug_is_caught_by_its_named_test(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    STORIES[bug]()
    MUTATIONS[bug](monkeypatch)
    with pytest.raises(CAUGHT):
        STORIES[bug]()


def test_the_page_lists_every_bug_with_what_catches_it() -> None:
    """By a number of seeds, or by the name of a test: so no bug is planted that nothing is known to catch."""
    assert set(recorded()) | set(listed_with_story()) == set(MUTATIONS)
    assert set(listed_with_story()) == set(STORIES)
    assert len(recorded()) >= 60


def test_the_page_says_which_bugs_go_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were there one, the page would name it, and not count it among the caught."""
    some = list(MUTATIONS)[:3]
    catches = [Catch(some[0], 7, "commit rule"), Catch(some[1]), Catch(next(iter(STORIES)))]
    text = page(catches)
    assert f"nothing catches {spaced(some[1])}." in text
    assert "finds 1 by chance" in text
    assert [catch.caught for catch in catches] == [True, False, True]
    assert "none goes free" in page(catches[::2])


@pytest.fixture(scope="module")
def catches() -> dict[str, Catch]:
    found = {catch.bug: catch for catch in hunt_all()}
    print("\n" + page(list(found.values())))
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bug", list(MUTATIONS))
def test_a_planted_bug_is_caught(bug: str, catches: dict[str, Catch]) -> None:
    """By chance, or where chance is not enough by its named test (see above)."""
    assert catches[bug].caught, f"{limit_of(bug)} seeds did not find it: {MUTATIONS[bug].__doc__}"


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
