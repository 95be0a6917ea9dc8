"""What the bench's figures say, without running it."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rayraft.bench.faults import Ambush
from rayraft.bench.figures import Latency
from rayraft.bench.load import PUT
from rayraft.bench.progress import Stage
from rayraft.bench.sections import SECTIONS, Failover, Memory, Offered, Plan, Sample, durability
from rayraft.bench.sections.durability import Snapshots, Trigger, recovery
from rayraft.bench.sections.offered import Step
from rayraft.bench.sections.scaling import Part, together
from rayraft.bench.stats import LatencyHistogram, Timeline
from rayraft.bench.suite import Report, run, settings_of
from rayraft.bench.witness import Verification
from rayraft.bench.ycsb import WORKLOADS
from rayraft.errors import BadConfiguration

FAILOVER = Failover([0.1, 0.3, 0.2], [1.0, 2.0, 3.0], 500, Verification(keys=10))
SLOWER = replace(FAILOVER, without_service=[0.4])


def memory_of(*sizes: int) -> Memory:
    """Node 1 has these sizes, node 2 always the same."""
    samples = [Sample(step * 100, {1: size, 2: 50}, 0, 0) for step, size in enumerate(sizes)]
    return Memory(256, 10, samples)


def text(shown: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(shown)
    printed = console.file
    assert isinstance(printed, io.StringIO)
    return printed.getvalue()


def test_growth_is_that_of_the_second_half() -> None:
    assert memory_of(10, 90, 100, 105, 110).growth == 10
    assert memory_of(10, 90, 100, 80, 70).growth == 0  # that of node 2


def test_failover_figures() -> None:
    assert FAILOVER.p50 == 0.2
    shown = text(FAILOVER.table())
    assert "200 ms" in shown
    assert "100 300 200" in shown
    assert "0 of 500" in shown


def test_a_report_is_intact_only_without_losses() -> None:
    lost = replace(FAILOVER, verification=Verification(keys=10, lost=1))
    assert Report({}, {}, [{"kills": FAILOVER, "memory": memory_of(1, 2)}]).intact
    broken = Report({}, {}, [{"kills": FAILOVER}, {"kills": lost, "memory": memory_of(1, 2)}])
    assert not broken.intact
    assert broken.broken == ["kills"]


def test_a_report_as_json(tmp_path: Path) -> None:
    report = Report({"cores": 2}, settings_of(Plan((WORKLOADS["B"], PUT))), [{"kills": FAILOVER}, {"kills": SLOWER}])
    report.write_json(tmp_path / "new" / "bench.json")
    found = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert found["settings"]["workloads"] == ["B", "put"]
    assert found["settings"]["settings"]["fsync"] is True
    assert found["repeats"][0]["kills"]["without_service"] == [0.1, 0.3, 0.2]
    p50 = found["figures"]["kills.without_service.p50"]
    assert (p50["values"], p50["median"], p50["min"], p50["max"]) == ([0.2, 0.4], pytest.approx(0.3), 0.2, 0.4)
    assert (p50["unit"], p50["more_is_better"]) == ("s", False)


def test_progress_without_a_terminal_is_plain_lines() -> None:
    output = io.StringIO()
    with Stage(Console(file=output, width=80)).phase("Loading", 10) as phase:
        phase.advance(5)
        phase.say("half of it")
    assert output.getvalue() == "Loading …\nhalf of it\n"


def test_progress_on_a_terminal_is_a_bar() -> None:
    output = io.StringIO()
    with Stage(Console(file=output, width=80, force_terminal=True)).phase("Loading", 10) as phase:
        phase.advance(5)
    assert "━" in output.getvalue()
    assert "/s" in output.getvalue()


def test_snapshots_without_a_load_before_them_are_reported_all_the_same() -> None:
    """A report of twenty minutes was lost for a figure that could not be reckoned."""
    found = Snapshots(1000, 256, [1.0], [0.03], [0.0], 5e4, True)
    assert {figure.name for figure in found.figures()} == {"pause", "quiet_pause", "took", "rate"}
    assert "longest pause of commits" in text(found.table())
    quiet = replace(found, quiet_pauses=[0.02])
    assert {figure.name: figure.value for figure in quiet.figures()}["pause_of_quiet"] == pytest.approx(1.5)


def test_the_end_of_the_load_is_no_pause() -> None:
    """Its clients let go of a million puts that they had made: 30 to 80 ms each, in which no answer is seen."""
    trigger = Trigger(None, delay=0.0, asked=2.0, done=3.0, ended=3.5)  # type: ignore[arg-type]
    timeline = Timeline()
    timeline.record_all([1.0, 1.5, 1.9, 2.1, 2.4, 2.9, 3.4, 3.6, 9.0])
    assert trigger.pauses(timeline) == (pytest.approx(0.5), pytest.approx(0.5))
    assert replace(trigger, asked=1.8, ended=9.0).pauses(timeline)[0] == pytest.approx(5.4)
    assert Trigger(None, delay=0.0, asked=2.0, ended=4.0).pauses(Timeline()) == (2.0, 0.0)  # type: ignore[arg-type]


def test_snapshots_are_asked_for_once_the_load_runs() -> None:
    """The puts of a million keys take seconds to make: what came in that time was no load."""
    asked = threading.Event()

    class Group:
        def reports(self) -> dict[int, object]:
            return {}

        def take_snapshot(self) -> None:
            asked.set()

    trigger = Trigger(Group(), delay=0.0)  # type: ignore[arg-type]
    thread = threading.Thread(target=trigger.run, daemon=True)
    thread.start()
    assert not asked.wait(0.05)
    trigger.started.set()
    assert asked.wait(20)
    thread.join(20)
    assert trigger.over.is_set()
    assert trigger.error is None


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
def test_what_was_measured_outlives_the_end_of_the_run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fails(plan: Plan, stage: Stage) -> Failover:
        raise error

    monkeypatch.setitem(SECTIONS, "kills", lambda plan, stage: FAILOVER)
    monkeypatch.setitem(SECTIONS, "memory", fails)
    report = Report.of(Plan())
    with pytest.raises(type(error)):
        run(Plan(), ["kills", "memory"], Console(file=io.StringIO()), report=report)
    assert report.sections == {"kills": FAILOVER}
    assert report.ended_early.startswith(f"in section memory: {type(error).__name__}")
    assert report.as_json()["figures"]["kills.without_service.p50"]["median"] == 0.2


def test_a_plan_names_the_section_that_has_too_few_records() -> None:
    Plan(records=64).check(SECTIONS)
    with pytest.raises(BadConfiguration, match="section callers: 64 writers need as many records, not 50"):
        Plan(records=50).check(["packed", "callers"])
    with pytest.raises(BadConfiguration, match="section packed: 8 writers"):
        Plan(records=1).check(["packed"])
    Plan(records=1).check(["peers"])  # which has as many of its own as it needs
    assert Plan(records=5).many == 1


def test_the_leader_is_killed_once_the_load_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed half a second after the puts began to be made, which takes five for a million keys."""
    killed: list[str] = []
    monkeypatch.setattr("rayraft.bench.faults.kill_leader", lambda cluster: killed.append("now"))
    monkeypatch.setattr("rayraft.bench.faults.follow", lambda *_, **__: None)
    ambush = Ambush(None, 0.0)
    assert ambush.ident is None
    ambush.lie_in_wait(0.1, 0)
    ambush.lie_in_wait(0.2, 5)  # once is enough
    ambush.join(20)
    assert killed == ["now"]
    assert ambush.error is None


def test_client_processes_that_begin_apart_are_not_added_up() -> None:
    parts = [Part(10.0 + late, 12.0 + late, 1000, LatencyHistogram(), Verification()) for late in (0.0, 0.5, 2.0)]
    crowd = together(parts, machines=1, outstanding=10)
    assert crowd.rate == pytest.approx(3000 / 4.0)
    assert crowd.slowest == pytest.approx(500)


def test_the_slope_of_replay_is_of_points_that_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The records counted as commands: with fewer commands than records the points lay one command apart."""
    made: list[int | None] = []

    @contextlib.contextmanager
    def group(plan: Plan, *_: object, **__: object) -> Iterator[tuple[object, Any]]:
        yield SimpleNamespace(), SimpleNamespace(verify=lambda *_: Verification(lost=1))

    monkeypatch.setattr(Plan, "group", group)
    monkeypatch.setattr(durability, "run_load", lambda handle, load, *_: made.append(load.operations))
    monkeypatch.setattr(durability, "_come_back", lambda handle: (1.0, sum(map(int, filter(None, made))) / 200_000))
    found = recovery(Plan(records=40_000, recovery_commands=1_000), Stage(Console(file=io.StringIO())))
    assert made == [50, 200, 250, 500]
    assert found.replay == pytest.approx(200_000)
    assert not found.intact


def test_offered_loads_are_taken_in_order_and_what_is_in_no_latency_is_shown() -> None:
    one = Latency(10, 0.01, 0.01, 0.02, 0.03, 0.04)
    steps = [Step(1e3, 1e3, one, 0, {}), Step(2e3, 1.5e3, one, 77, {"CommandTimeout": 5, "Overloaded": 1})]
    shown = text(Offered(256, 2e3, one, steps, Verification()).table())
    assert "77" in shown
    assert "6" in shown.splitlines()[-2].split()
