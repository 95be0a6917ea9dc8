"""The figures, the picture and the record of a run that is given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rayraft.chaos.nemesis import Injection
from rayraft.chaos.run import PEACE, ChaosPlan, Outcome, gaps_by_kind, write_json
from rayraft.chaos.schedule import FaultKind
from rayraft.chaos.show import figures, gap_table


@pytest.fixture
def outcome() -> Outcome:
    return Outcome(
        plan=ChaosPlan(minutes=0.5, seed=3),
        seconds=30.0,
        commands=1234,
        operations=2000,
        lost=[],
        repeated=[],
        linearizable="yes",
        violation="",
        errors={"CommandTimeout": 3},
        injections=[
            Injection(FaultKind.LEADER_CUT, 5.0, "node 1 on m1", 9.0, 11.0),
            Injection(FaultKind.LEADER_KILLED, 15.0, "node 2 on m2", 16.0, 18.0),
            Injection(FaultKind.DISK_FULL, 20.0, failed="BedError: no"),
        ],
        longest_gap=1.25,
        longest_gap_at=5.5,
        gaps={"leader cut off": [1.25, 0.75, 1.0], "leader process killed": [0.04]},
        leaders=[(0.0, 1, 1, 1), (6.5, 2, 2, 2), (15.2, 3, 3, 3)],
        throughput=[(float(second), 40.0 + second) for second in range(30)],
        digests={1: (900, "ab"), 2: (900, "ab"), 3: (900, "ab")},
        not_whole=0,
    )


def text_of(item: object) -> str:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(item)
    return captured.get()


def test_figures(outcome: Outcome) -> None:
    text = text_of(figures(outcome))
    assert "1,234" in text
    assert "1.25 s, at 6 s" in text
    assert "3 CommandTimeout" in text
    assert outcome.by_kind == {"leader cut off": 1, "leader process killed": 1}
    row = next(line for line in text_of(gap_table(outcome)).splitlines() if "leader cut off" in line)
    assert row.split()[3:] == ["3", "1.00", "s", "1.25", "s", "1.25", "s"]


def test_times_without_service_at_faults_and_between_them() -> None:
    times = [0.0, 1.0, 1.5, 3.0, 3.2, 3.4, 4.4, 5.0, 6.0]
    done = [
        Injection(FaultKind.LEADER_KILLED, 1.2, healed=2.0, whole=3.1),
        Injection(FaultKind.LEADER_KILLED, 4.0, healed=4.1),  # not whole in time: no peace after it
        Injection(FaultKind.DISK_FULL, 5.5, failed="BedError: no"),
    ]
    gaps = gaps_by_kind(times, done)
    assert gaps[FaultKind.LEADER_KILLED.value] == pytest.approx([1.5, 1.0])
    assert gaps[PEACE] == pytest.approx([0.6])  # from 3.4 until the next fault, whose gap is its own
    assert set(gaps) == {FaultKind.LEADER_KILLED.value, PEACE}


def test_only_a_clean_run_is_good(outcome: Outcome) -> None:
    assert outcome.good
    assert not replace(outcome, lost=["a"]).good
    assert not replace(outcome, repeated=["a"]).good
    assert not replace(outcome, linearizable="no").good
    assert not replace(outcome, linearizable="undecided").good
    assert not replace(outcome, digests={1: (900, "ab"), 2: (900, "cd")}).good


def test_the_record_can_be_read(outcome: Outcome, tmp_path: Path) -> None:
    write_json(outcome, tmp_path / "chaos.json")
    record = json.loads((tmp_path / "chaos.json").read_text())
    assert record["plan"]["seed"] == 3
    assert record["injections"][0]["kind"] == "leader cut off"
    assert record["commands"] == 1234


def test_the_timeline_is_a_picture(outcome: Outcome, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rayraft.chaos.picture import draw_timeline

    draw_timeline(outcome, tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")
