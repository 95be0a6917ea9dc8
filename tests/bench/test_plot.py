"""The picture is made, is a picture, and shows what it was given."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from rayraft.bench import plot

POINTS = [(i / 10, 0.0 if 50 <= i < 53 else 70_000.0 + 500 * (i % 7)) for i in range(100)]
LATENCY = [(time, 0.5 if time == 5.3 else 0.003) for time, rate in POINTS if rate]
EVENTS = [(5.0, "leader killed"), (5.2, "new leader: node 2"), (9.8, "node 1 back")]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pytest.importorskip("matplotlib")
    return tmp_path / "timeline.png"


def size_of(png: Path) -> tuple[int, int]:
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_a_picture_with_everything(picture: Path) -> None:
    plot.throughput_timeline(picture, POINTS, events=EVENTS, title="A leader is killed", latency=LATENCY)
    width, height = size_of(picture)
    assert (width, height) > (1000, 500)
    assert ink(picture) > 0.02


def test_latency_gets_a_panel_of_its_own(picture: Path) -> None:
    plot.throughput_timeline(picture, POINTS)
    _, plain = size_of(picture)
    plot.throughput_timeline(picture, POINTS, latency=LATENCY)
    assert size_of(picture)[1] > plain


def test_events_are_drawn(picture: Path) -> None:
    plot.throughput_timeline(picture, POINTS)
    before = colours(picture)
    plot.throughput_timeline(picture, POINTS, events=EVENTS)
    red = tuple(bytes.fromhex(plot.EVENT_COLOURS[0].removeprefix("#")))
    assert red in colours(picture) - before


@pytest.mark.parametrize("rate", [0.0, 0.5, 3.0, 1e7])
def test_any_height_can_be_drawn(picture: Path, rate: float) -> None:
    plot.throughput_timeline(picture, [(0.0, rate), (1.0, rate)], events=[(-1.0, "before"), (5.0, "after")])
    assert size_of(picture)


def test_close_labels_get_rows_of_their_own_and_the_earlier_is_above() -> None:
    marks = plot._marks([(5.0, "leader killed"), (5.2, "new leader"), (9.0, "node back")], (0.0, 10.0))
    rows = {mark.label: mark.row for mark in marks}
    assert rows == {"node back": 0, "new leader": 0, "leader killed": 1}


def test_a_label_without_room_on_the_right_goes_to_the_left() -> None:
    (mark,) = plot._marks([(9.9, "a rather long label")], (0.0, 10.0))
    assert mark.leftwards


def test_one_label_has_one_colour() -> None:
    marks = plot._marks([(1.0, "kill"), (4.0, "leader"), (7.0, "kill")], (0.0, 10.0))
    assert len({mark.colour for mark in marks if mark.label == "kill"}) == 1
    assert len({mark.colour for mark in marks}) == 2


def test_a_single_point_is_not_a_timeline(picture: Path) -> None:
    with pytest.raises(ValueError, match="two points"):
        plot.throughput_timeline(picture, [(0.0, 1.0)])


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install rayraft\[plot\]"):
        plot.throughput_timeline(tmp_path / "never.png", POINTS)
    assert not list(tmp_path.iterdir())


def colours(png: Path) -> set[tuple[int, ...]]:
    return set(pixels(png))


def ink(png: Path) -> float:
    """The share of the picture that is not white."""
    seen = pixels(png)
    return sum(pixel != (255, 255, 255) for pixel in seen) / len(seen)


def pixels(png: Path) -> list[tuple[int, ...]]:
    """Every third pixel in both directions, to be quick."""
    from matplotlib.image import imread

    rows = (imread(png)[::3, ::3, :3] * 255).round().astype(int)
    return [tuple(pixel) for row in rows.tolist() for pixel in row]
