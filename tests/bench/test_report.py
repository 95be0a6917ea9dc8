"""A report of every section: the page stands alone, the pictures are there, the aims are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rayraft.bench.aims import aims, summary
from rayraft.bench.figures import Latency
from rayraft.bench.peers import Shape
from rayraft.bench.sections import (
    SECTIONS,
    Failover,
    GroupSizes,
    Memory,
    Offered,
    Plan,
    Processes,
    ReadKinds,
    Recovery,
    Rivals,
    Sample,
    Section,
    Sequential,
    Sizes,
    Snapshots,
    Throughput,
    Workloads,
    Writes,
)
from rayraft.bench.sections.durability import Comeback
from rayraft.bench.sections.memory import Written
from rayraft.bench.sections.offered import Step
from rayraft.bench.sections.reads import Kind
from rayraft.bench.sections.rivals import Contest, Entrant
from rayraft.bench.sections.scaling import Crowd
from rayraft.bench.stats import LatencyHistogram
from rayraft.bench.suite import Report, settings_of
from rayraft.bench.witness import Verification
from tests.bench.test_sections import text

SURROUNDINGS = {
    "command": "rayraft bench --only all", "commit": "abc", "rayraft": "1", "ray": "2", "rocksdict": "3", "python": "3",
    "cores": 2, "processor": "one <of> them", "memory_bytes": 1 << 30, "system": "Linux", "load_average": 0.1,
    "niceness": -5, "RAY_worker_niceness": "15",
}  # fmt: skip


def latency(seconds: float) -> Latency:
    histogram = LatencyHistogram()
    for step in range(100):
        histogram.record(seconds * (1 + step / 50))
    return Latency.of(histogram)


def throughput(rate: float, size: int = 256) -> Throughput:
    put = {"update": latency(0.01)}
    return Throughput("put", "packed", 8, 100, size, 10, 100, 100, 1.0, rate, put, {}, 0, Verification(), rate * 1.25)


def everything(speed: float) -> dict[str, Section]:
    steps = [Step(load, min(load, 70_000), latency(0.005 * (1 + load / 30_000)), 0, {}) for load in (1e4, 5e4, 9e4)]
    rivals = [
        Entrant(
            contest.name, system, str(shape), [speed * (30_000 if system == "rayraft" else 10_000)], latency(0.02), 0
        )
        for contest in Contest.all(Plan())
        for system, shape in contest.shapes.items()
    ]
    kinds = [Kind(name, latency(0.002), 60_000, 300_000 * speed, 0) for name in Plan().read_kinds]
    kill = [(step / 50, 0.0 if 0 <= step < 5 else 400.0) for step in range(-25, 100)]
    samples = [Sample(step * 100, {1: 1 << 27, 2: 1 << 27}, 1 << 20, 10) for step in range(3)]
    one = latency(0.001)
    return {
        "sequential": Sequential(256, latency(0.0012 / speed), one, one, one, one, one),
        "packed": throughput(90_000 * speed),
        "single": throughput(60_000 * speed),
        "callers": throughput(9_000 * speed),
        "coroutines": throughput(9_500 * speed),
        "offered": Offered(256, 70_000, one, steps, Verification()),
        "processes": Processes(256, [Crowd(count, 1, 100, 1e4 * count, 9e3, one, 0) for count in (1, 4)]),
        "sizes": Sizes([throughput(1e4, 256), throughput(300.0, 1 << 20)]),
        "nodes": GroupSizes({3: throughput(90_000), 5: throughput(60_000)}),
        "reads": ReadKinds(256, 100, latency(0.002), 60_000, 400_000, kinds),
        "workload": Workloads({name: replace(throughput(speed * 5e4), workload=name) for name in ("A", "D", "put")}),
        "writes": Writes(256, 272, [Written("packed", 100, 9e4, 300, 1.1)]),
        "snapshots": Snapshots(1000, 256, [1.0], [0.03], [0.02], 5e4, True),
        "recovery": Recovery(256, 100, [Comeback(1000, 2.0, 0.1), Comeback(401_000, 3.0, 1.1)]),
        "kills": Failover([0.1], [2.0], 500, Verification(), kill, [(0.0, "leader killed"), (0.1, "node 2 leads")]),
        "memory": Memory(256, 10, samples),
        "peers": Rivals(256, rivals, {"rayraft": "this", "etcd": "3.4"}, ["etcd --name m0"], {"Other": "is absent"}),
    }


@pytest.fixture
def report() -> Report:
    return Report(SURROUNDINGS, settings_of(Plan()), [everything(speed) for speed in (1.0, 1.1, 0.9)])


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_every_section_is_in_it(report: Report) -> None:
    assert list(report.sections) == list(SECTIONS)
    assert report.intact
    for section in report.sections.values():
        assert text(section.table()).strip()


def test_the_page_stands_alone(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rayraft.bench.page import write_report

    page = write_report(report, tmp_path / "out").read_text()
    found = Page(page)
    assert found.tags.count("img") == len(list((tmp_path / "out").glob("*.png"))) >= 12
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert "link" not in found.tags
    assert "one &lt;of&gt; them" in page
    assert "etcd --name m0" in page
    assert "Other is left out: is absent" in page
    assert "pause of commits at a snapshot of 1,000,000 keys" in page
    assert json.loads((tmp_path / "out" / "report.json").read_text())["figures"]["packed.rate"]["median"] == 90_000


def test_a_loss_is_said_first(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rayraft.bench.page import write_report

    report.repeats = [{"packed": replace(throughput(1.0), verification=Verification(lost=1))}]
    assert "Acknowledged writes were lost" in write_report(report, tmp_path).read_text()


def test_an_early_end_is_said_first(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rayraft.bench.page import write_report

    report.ended_early = "in section kills: OSError: no <room>"
    page = write_report(report, tmp_path).read_text()
    assert "The run ended early, in section kills: OSError: no &lt;room&gt;." in page


def test_a_loss_under_one_workload_is_a_loss(report: Report) -> None:
    good = throughput(1.0)
    lost = Workloads({"A": good, "D": replace(good, workload="D", verification=Verification(lost=3))})
    assert not lost.intact
    assert "3 of 100" in text(lost.table())
    assert {"A.rate", "D.rate", "D.update.p99"} <= {figure.name for figure in lost.figures()}


def test_the_knee_is_where_the_power_is_highest(report: Report) -> None:
    found = report.sections["offered"]
    assert isinstance(found, Offered)
    assert found.knee is found.steps[1]
    assert found.saturation == 70_000


def test_replay_is_the_slope(report: Report) -> None:
    found = report.sections["recovery"]
    assert isinstance(found, Recovery)
    assert found.replay == pytest.approx(400_000)


def test_aims_are_judged(report: Report) -> None:
    report.repeats = [everything(1.0)]
    judged = {aim.what: (aim.measure(report), aim.met(aim.measure(report) or 0)) for aim in aims(Plan())}
    assert judged["batches of 120 puts / etcd's"] == (pytest.approx(3.0), True)
    assert judged["best batch / etcd's best"] == (pytest.approx(3.0), False)
    assert judged["the same / the pipe"] == (pytest.approx(0.8), True)
    assert judged["64 threads, each one put at a time"] == (9_000, False)
    assert judged["packed linearizable reads / packed puts"] == (pytest.approx(5.0), True)
    assert judged["5 and 7 nodes, throughput per byte written / 3 nodes'"] == (pytest.approx(6 * 5 / (9 * 3)), True)
    assert None not in [measured for measured, _ in judged.values()]
    assert "not measured" in text(summary(Report(SURROUNDINGS, {}), aims(Plan())))


def test_the_same_shapes_for_all() -> None:
    shapes = {contest.name: contest.shapes for contest in Contest.all(Plan())}
    assert set(shapes["batches of 120"].values()) == {Shape(8, 120)}
    assert shapes["best batch"]["rayraft"] == Shape(8, 2000)
    assert len(set(shapes["1000 singly"].values())) == 1


@pytest.mark.parametrize(
    ("rate", "text"), [(9.65, "9.65"), (999.4, "999"), (999.6, "1k"), (73_406, "73.4k"), (1e6, "1M")]
)
def test_rates_above_bars_are_short(rate: float, text: str) -> None:
    pytest.importorskip("matplotlib")
    from rayraft.bench.pictures import _short

    assert _short(rate) == text
