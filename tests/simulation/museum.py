"""The museum of bugs: plants each one and counts the seeds that it takes to catch it.

`python -m tests.simulation.museum` writes docs/museum.md anew, in one run. With ``--retell`` it keeps the seeds of the
page as it is, for when only the words have changed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayraft.simulation import SimulationFailed, simulate
from tests.raft.test_mutations import BUGS
from tests.simulation.mutations import MUTATIONS
from tests.simulation.stories import STORIES, name_of

LIMIT = 400  # seeds
LIMIT_WITH_STORY = 60  # where a named test catches the bug anyway
TABLE = Path(__file__).parents[2] / "docs" / "museum.md"


@dataclass(frozen=True, slots=True)
class Catch:
    """``seeds`` is how many it took, None when those that were tried were not enough."""

    bug: str
    seeds: int | None = None
    invariant: str = ""

    @property
    def caught(self) -> bool:
        """By the simulator, or else by a named test: `test_mutations` sees to it that this one fails."""
        return self.seeds is not None or self.bug in STORIES


def limit_of(bug: str) -> int:
    return LIMIT_WITH_STORY if bug in STORIES else LIMIT


def hunt(bug: str, seeds: Sequence[int] = ()) -> Catch:
    """Plant ``bug``, run the seeds (its own number of them from 0 on) until one fails, and take the bug out again."""
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[bug](patch)
        for seed in seeds or range(limit_of(bug)):
            try:
                simulate(seed)
            except SimulationFailed as failure:
                return Catch(bug, seed + 1, failure.violation.name)
    return Catch(bug)


def hunt_all(bugs: Sequence[str] = tuple(MUTATIONS)) -> Iterator[Catch]:
    """In the order in which they are given, once all hunts have ended; the long ones begin first."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        by_length = sorted(bugs, key=lambda bug: bug not in STORIES)
        hunts = {bug: pool.submit(hunt, bug) for bug in by_length}
        for done in as_completed(hunts.values()):
            print(f"{done.result().seeds or 'no':>5}  {done.result().bug}", file=sys.stderr, flush=True)
        yield from (hunts[bug].result() for bug in bugs)


def recorded() -> dict[str, Catch]:
    """What caught each bug by chance, and how soon, when the page was written."""
    rows = [line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    found = [row for row in rows if len(row) == 4 and row[3].isdecimal()]
    return {row[0].replace(" ", "_"): Catch(row[0].replace(" ", "_"), int(row[3]), row[2]) for row in found}


def listed_with_story() -> dict[str, str]:
    """The named test that the page gives for each bug of the simulator's which chance does not find."""
    page = TABLE.read_text()
    return {bug: name_of(story) for bug, story in STORIES.items() if told(bug) in page}


def told(bug: str) -> str:
    return f"| {spaced(bug)} | {what_goes_wrong(bug)} | `{name_of(STORIES[bug])}` |"


def spaced(bug: str) -> str:
    return bug.replace("_", " ")


def what_goes_wrong(bug: str) -> str:
    return " ".join((MUTATIONS[bug].__doc__ or "").split())


def page(catches: Sequence[Catch]) -> str:
    return "\n".join([*_introduction(catches), *_by_chance(catches), *_by_story(catches), *_on_the_table()])


def _introduction(catches: Sequence[Catch]) -> list[str]:
    total, by_chance = len(catches), sum(catch.seeds is not None for catch in catches)
    by_test = sum(catch.seeds is None and catch.caught for catch in catches)
    missed = [spaced(catch.bug) for catch in catches if not catch.caught]
    verdict = f"nothing catches {', '.join(missed)}" if missed else "none goes free"
    return [
        "# The museum of bugs",
        "",
        "Known mistakes of Raft implementations, each planted in the real code.",
        "`python -m tests.simulation.museum` writes this page anew.",
        "",
        f"Of {total} bugs that were planted under the simulator it finds {by_chance} by chance, and a named test",
        f"catches the other {by_test}; {verdict}. Further {len(BUGS)} are planted under the stories of the core.",
        "",
    ]


def _by_chance(catches: Sequence[Catch]) -> list[str]:
    found = [catch for catch in catches if catch.seeds is not None]
    return [
        "## Caught by the simulator",
        "",
        "Seeds are counted from 0, each 20 simulated seconds with faults. The same hunt is a test:",
        "`tests/simulation/test_mutations.py`.",
        "",
        "| bug | what goes wrong | caught by | seeds |",
        "| --- | --- | --- | ---: |",
        *(f"| {spaced(one.bug)} | {what_goes_wrong(one.bug)} | {one.invariant} | {one.seeds} |" for one in found),
        "",
        f"{len(found)} bugs; the hardest takes {max((one.seeds or 0 for one in found), default=0)} seeds.",
        "",
    ]


def _by_story(catches: Sequence[Catch]) -> list[str]:
    tried = {catch.bug: catch.seeds for catch in catches}
    return [
        "## Caught by a named test",
        "",
        f"Chance reaches these seldom, so no more than {LIMIT_WITH_STORY} seeds are tried. The named test fails with",
        "the bug in it, without chance; `tests/simulation/test_mutations.py` plants it and looks.",
        "",
        "| bug | what goes wrong | the test that fails |",
        "| --- | --- | --- |",
        *(told(bug) for bug in STORIES if bug in tried),
        "",
    ]


def _on_the_table() -> list[str]:
    return [
        "## Caught by a story of the core",
        "",
        "`tests/raft/test_mutations.py`, without chance.",
        "",
        "| bug | the test that fails |",
        "| --- | --- |",
        *(f"| {bug.name} | `{name_of(bug.story)}` |" for bug in BUGS),
    ]


if __name__ == "__main__":
    retell = sys.argv[1:] == ["--retell"]
    known = recorded() if retell else {catch.bug: catch for catch in hunt_all()}
    TABLE.write_text(page([known.get(bug, Catch(bug)) for bug in MUTATIONS]) + "\n")
