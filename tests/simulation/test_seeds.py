"""Many seeds, none of which may break an invariant. What once did stays: by its seed here, or in `test_scenarios`."""

from __future__ import annotations

from collections import Counter

import pytest

from rayraft.simulation import simulate
from rayraft.simulation.plan import Fault

QUICK = 120
CHUNK = 10
SLOW = 3000


@pytest.mark.parametrize("first", range(0, QUICK, CHUNK))
def test_seeds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        simulate(seed, seconds=15.0)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 10_000 + SLOW, 100))
def test_many_seeds(first: int) -> None:
    for seed in range(first, first + 100):
        simulate(seed)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 7])
def test_groups_of_any_size(nodes: int) -> None:
    for seed in (1, 2, 3):
        assert simulate(seed, nodes=nodes, seconds=10.0).nodes == nodes


def test_the_runs_are_worth_something() -> None:
    """A simulator in which nothing happens finds nothing: every kind of trouble, and work in spite of it."""
    reports = [simulate(seed, seconds=15.0) for seed in range(20)]
    faults: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)
    assert {fault.value for fault in Fault} <= set(faults)
    assert faults["lost messages"] > 1000
    assert faults["repeated messages"] > 1000
    assert sum(report.terms for report in reports) > 50
    assert sum(report.acknowledged for report in reports) > 1000
    assert sum(report.reads for report in reports) > 500
    assert sum(report.snapshots_installed for report in reports) > 10
