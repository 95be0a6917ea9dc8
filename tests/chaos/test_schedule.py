"""The schedule of a chaos run is a function of its seed."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from typer.testing import CliRunner

from rayraft.chaos.schedule import ALONE, LASTING, FaultKind, draw, repeat
from rayraft.cli import app


def test_the_same_seed_is_the_same_schedule() -> None:
    assert list(islice(draw(5), 100)) == list(islice(draw(5), 100))
    assert list(islice(draw(5), 20)) != list(islice(draw(6), 20))


def test_every_kind_has_its_turn() -> None:
    faults = list(islice(draw(1), 10 * len(FaultKind)))
    assert set(Counter(fault.kind for fault in faults).values()) == {10}
    assert any(fault.companion for fault in faults)
    for fault in faults:
        low, high = LASTING[fault.kind]
        assert low <= fault.seconds <= high
        assert fault.companion is None or fault.kind not in ALONE


def test_only_the_kinds_asked_for() -> None:
    kinds = [FaultKind.BRIDGE, FaultKind.LEADER_CUT]
    assert {fault.kind for fault in islice(draw(3, kinds), 10)} == set(kinds)
    assert [fault.kind for fault in repeat(3, kinds, 2)] == kinds * 2


def test_the_plan_is_printed_without_machines() -> None:
    arguments = ["chaos", "--plan", "--seed", "7", "--faults", "leader cut,bridge"]
    first, second = (CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}) for _ in range(2))
    assert first.exit_code == 0
    assert first.output == second.output
    assert len(first.output.splitlines()) == 4
    assert "bridge for" in first.output


def test_an_unknown_kind_is_refused() -> None:
    result = CliRunner().invoke(app, ["chaos", "--plan", "--faults", "gremlins"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "there are: leader process killed" in result.output
