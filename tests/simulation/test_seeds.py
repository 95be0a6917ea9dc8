"""Many seeds, none of which may break an invariant. What once did stays: by its seed here, or in `test_scenarios`."""

from __future__ import annotations

import pytest

from rayraft.machine.requests import Consistency
from rayraft.simulation import simulate
from rayraft.simulation.campaign import Setting, Totals, run_seeds
from rayraft.simulation.plan import Cut, Fault, Operation

QUICK = 300
SLOW = 20_000
CHUNK = 1_000
SETTING = Setting(seconds=15.0)


def run(first: int, count: int) -> Totals:
    """In worker processes, one per core."""
    totals = Totals()
    for outcome in run_seeds(range(first, first + count), SETTING):
        totals.add(outcome)
    for failure in totals.failures[:3]:
        print(failure.story, "\nreplay it:", SETTING.command(failure.seed))
    return totals


@pytest.fixture(scope="module")
def quick() -> Totals:
    return run(0, QUICK)


def told(totals: Totals) -> str:
    return f"{totals.simulated_seconds:,.0f} simulated seconds, {totals.speed:.0f} per second of one core"


def test_seeds(quick: Totals) -> None:
    print(told(quick))
    assert [failure.seed for failure in quick.failures] == []
    assert quick.runs == QUICK


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(1_000, 1_000 + SLOW, CHUNK))
def test_many_seeds(first: int) -> None:
    totals = run(first, CHUNK)
    print(told(totals))
    assert [failure.seed for failure in totals.failures] == []
    assert totals.runs == CHUNK


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 7])
def test_groups_of_any_size(nodes: int) -> None:
    for seed in (1, 2, 3):
        assert simulate(seed, nodes=nodes, seconds=10.0).nodes == nodes


def test_the_runs_are_worth_something(quick: Totals) -> None:
    """A simulator in which nothing happens finds nothing: every kind of trouble, and work in spite of it."""
    faults = quick.faults
    assert {fault.value for fault in Fault} <= set(faults)
    assert {f"partition: {cut.value}" for cut in Cut} <= set(faults)
    assert faults["lost messages"] > 20_000
    assert faults["repeated messages"] > 20_000
    assert {f"operator: {what.value}" for what in Operation} <= set(faults)
    for how in Consistency:
        assert faults[f"reads: {how.name.lower()}"] > 5 * QUICK
    assert faults["orders: ok"] > QUICK
    assert faults["sessions expired"] > QUICK
    assert quick.elections > 2 * QUICK
    assert quick.acknowledged > 80 * QUICK
    assert quick.reads > 40 * QUICK
    assert quick.snapshots_installed > QUICK
