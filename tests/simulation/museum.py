"""The museum of bugs: plants each one and counts the seeds that it takes to catch it.

`python -m tests.simulation.museum > docs/museum.md` writes the table anew.
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
from tests.simulation.mutations import MUTATIONS, OUT_OF_REACH

LIMIT = 400  # seeds
TABLE = Path(__file__).parents[2] / "docs" / "museum.md"


@dataclass(frozen=True, slots=True)
class Catch:
    """``seeds`` is how many it took, None when `LIMIT` were not enough."""

    bug: str
    seeds: int | None = None
    invariant: str = ""


def hunt(bug: str, seeds: Sequence[int] = range(LIMIT)) -> Catch:
    """Plant ``bug``, run the seeds until one fails, and take the bug out again."""
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[bug](patch)
        for seed in seeds:
            try:
                simulate(seed)
            except SimulationFailed as failure:
                return Catch(bug, seed + 1, failure.violation.name)
    return Catch(bug)


def hunt_all(bugs: Sequence[str] = tuple(MUTATIONS)) -> Iterator[Catch]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        hunts = {pool.submit(hunt, bug): bug for bug in bugs}
        for done in as_completed(hunts):
            print(f"{done.result().seeds or 'no':>5}  {hunts[done]}", file=sys.stderr, flush=True)
        yield from (done.result() for done in hunts)


def recorded() -> dict[str, int]:
    """How many seeds each bug took when the table was written."""
    rows = [line.split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    found = {row[0].removeprefix("| ").replace(" ", "_"): row[-1].removesuffix(" |") for row in rows if len(row) == 4}
    return {bug: int(seeds) for bug, seeds in found.items() if seeds.isdecimal()}


def table(catches: Sequence[Catch]) -> str:
    lines = [
        "# The museum of bugs",
        "",
        "Known mistakes of Raft implementations, each planted in the real code.",
        "`python -m tests.simulation.museum` writes this page anew.",
        "",
        "## Caught by the simulator",
        "",
        "Seeds are counted from 0, each 20 simulated seconds with faults. The same hunt is a test:",
        "`tests/simulation/test_mutations.py`.",
        "",
        "| bug | what goes wrong | caught by | seeds |",
        "| --- | --- | --- | ---: |",
    ]
    for catch in catches:
        wrong = " ".join((MUTATIONS[catch.bug].__doc__ or "").split())
        seeds = f"more than {LIMIT}" if catch.seeds is None else str(catch.seeds)
        lines.append(f"| {catch.bug.replace('_', ' ')} | {wrong} | {catch.invariant or 'nothing'} | {seeds} |")
    caught = [catch.seeds for catch in catches if catch.seeds is not None]
    lines += [
        "",
        f"{len(caught)} of {len(catches)} bugs are caught; the hardest takes {max(caught, default=0)} seeds.",
        "",
    ]
    lines += ["## Caught by a scenario", "", "`tests/simulation/test_scenarios.py`.", ""]
    lines += ["| bug | what goes wrong |", "| --- | --- |"]
    for name, bug in OUT_OF_REACH.items():
        lines.append(f"| {name.replace('_', ' ')} | {' '.join((bug.__doc__ or '').split())} |")
    lines += ["", "## Caught by a story on a table", "", "`tests/raft/test_mutations.py`, without chance.", ""]
    lines += ["| bug | the test that fails |", "| --- | --- |"]
    lines += [f"| {told.name} | `{told.story.__name__}` |" for told in BUGS if hasattr(told.story, "__name__")]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(list(hunt_all(sys.argv[1:] or tuple(MUTATIONS)))))
