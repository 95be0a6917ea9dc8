"""Histograms against sorted lists, timelines against their own times."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.bench.stats import (
    HIGHEST,
    LOWEST,
    Gap,
    LatencyHistogram,
    Timeline,
    format_duration,
    format_rate,
    format_size,
)

# Spread over the decades, as latencies are.
latencies = st.floats(math.log(LOWEST), math.log(HIGHEST)).map(math.exp).map(lambda s: min(max(s, LOWEST), HIGHEST))
samples = st.lists(latencies, min_size=1, max_size=200)
times = st.lists(st.floats(0, 100), max_size=50)


def histogram(values: list[float]) -> LatencyHistogram:
    result = LatencyHistogram()
    for seconds in values:
        result.record(seconds)
    return result


def timeline(values: list[float], interval: float = 1.0) -> Timeline:
    result = Timeline(interval)
    for time in values:
        result.record(time)
    return result


# --- latency ----------------------------------------------------------------------------------------------------------


@given(samples, st.floats(0, 100))
def test_percentiles_are_within_one_per_cent_of_the_sorted_list(values: list[float], p: float) -> None:
    nearest_rank = max(1, math.ceil(p * len(values) / 100))
    assert histogram(values).percentile(p) == pytest.approx(sorted(values)[nearest_rank - 1], rel=0.01)


@given(samples)
def test_count_mean_and_extremes_are_exact(values: list[float]) -> None:
    result = histogram(values)
    assert (result.count, result.min, result.max) == (len(values), min(values), max(values))
    assert result.mean == pytest.approx(sum(values) / len(values))
    assert result.percentile(100) == max(values)


@given(samples)
def test_all_at_once_is_one_after_the_other(values: list[float]) -> None:
    found = LatencyHistogram()
    found.record_all(values[:3])
    found.record_all([])
    found.record_all(values[3:])
    expected = histogram(values)
    assert found.sum == pytest.approx(expected.sum)
    found.sum = expected.sum
    assert found == expected


@given(samples)
def test_percentiles_never_go_back(values: list[float]) -> None:
    result = histogram(values)
    read = [result.percentile(p) for p in (0, 1, 50, 90, 99, 99.9, 100)]
    assert read == sorted(read)


@given(st.lists(latencies), st.lists(latencies))
def test_merging_is_recording_everything_in_one(first: list[float], second: list[float]) -> None:
    merged, whole = histogram(first), histogram(first + second)
    merged.merge(histogram(second))
    assert merged.sum == pytest.approx(whole.sum)
    merged.sum = whole.sum  # added up in another order
    assert merged == whole


@given(latencies, st.integers(1, 1000))
def test_a_count_is_so_many_records(seconds: float, count: int) -> None:
    batch = LatencyHistogram()
    batch.record(seconds, count)
    each = histogram([seconds] * count)
    assert batch.sum == pytest.approx(each.sum)
    assert [batch.percentile(p) for p in (1, 50, 99)] == [each.percentile(p) for p in (1, 50, 99)]


def test_what_lies_outside_the_range_is_still_counted() -> None:
    result = histogram([0.0, 1e-9, 0.5, 1000.0])
    assert (result.count, result.min, result.max) == (4, 0.0, 1000.0)
    assert result.percentile(50) <= LOWEST * 1.01
    assert result.percentile(100) == 1000.0


def test_an_empty_histogram_has_no_latency() -> None:
    assert math.isnan(LatencyHistogram().mean)
    assert math.isnan(LatencyHistogram().percentile(99))


def test_impossible_percentiles_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        histogram([1.0]).percentile(101)


def test_it_travels_between_processes_small() -> None:
    packed = pickle.dumps(histogram([0.001] * 1000))
    assert pickle.loads(packed) == histogram([0.001] * 1000)
    assert len(packed) < 4096


# --- time -------------------------------------------------------------------------------------------------------------


def test_points_are_rates_with_the_empty_intervals_between() -> None:
    line = Timeline(interval=0.5, origin=100.0)
    for time, count in [(101.6, 4), (100.0, 1), (100.2, 2)]:  # not in order
        line.record(time, count)
    assert line.points() == [(0.0, 6.0), (0.5, 0.0), (1.0, 0.0), (1.5, 8.0)]
    assert line.total == 7


def test_longest_gap_is_exact_whatever_the_interval() -> None:
    line = timeline([5.0, 1.0, 2.0, 2.25, 8.0], interval=10.0)
    assert line.longest_gap(1.0, 8.0) == Gap(5.0, 8.0)
    assert line.longest_gap(1.0, 5.0) == Gap(2.25, 5.0)
    assert line.longest_gap(1.0, 5.0).seconds == 2.75


def test_the_edges_bound_a_gap() -> None:
    assert timeline([]).longest_gap(2.0, 9.0) == Gap(2.0, 9.0)
    assert timeline([4.0, 5.0]).longest_gap(0.0, 8.0) == Gap(0.0, 4.0)
    assert timeline([4.0, 5.0]).longest_gap(3.5, 20.0) == Gap(5.0, 20.0)
    assert timeline([4.0, 5.0]).longest_gap(4.25, 4.75) == Gap(4.25, 4.75)


@given(times, st.floats(0, 50), st.floats(50, 100))
def test_nothing_succeeds_within_the_longest_gap_and_no_other_is_longer(
    values: list[float], start: float, end: float
) -> None:
    gap = timeline(values).longest_gap(start, end)
    assert start <= gap.begin <= gap.end <= end
    assert not any(gap.begin < time < gap.end for time in values)
    marks = sorted([start, end, *(time for time in values if start <= time <= end)])
    assert gap.seconds == max(later - earlier for earlier, later in pairwise(marks))


@given(times, times)
def test_merged_timelines_are_the_timeline_of_both(first: list[float], second: list[float]) -> None:
    merged, whole = timeline(first), timeline(first + second)
    merged.merge(pickle.loads(pickle.dumps(timeline(second))))
    assert merged.points() == whole.points()
    assert merged.longest_gap(0, 100) == whole.longest_gap(0, 100)
    assert merged.total == len(first) + len(second)


@given(times)
def test_times_all_at_once_are_times_one_after_the_other(values: list[float]) -> None:
    found = Timeline(1.0)
    found.record_all(values[:3])
    found.record_all(values[3:])
    assert found == timeline(values)


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="different intervals"):
        Timeline(1.0).merge(Timeline(2.0))
    with pytest.raises(ValueError, match="longer than nothing"):
        Timeline(0.0)
    with pytest.raises(ValueError, match="backwards"):
        Timeline().longest_gap(2.0, 1.0)


def test_an_unused_timeline_has_no_points() -> None:
    assert Timeline().points() == []


# --- figures for people -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "text"), [(0, "0.0/s"), (9.87, "9.9/s"), (99.94, "99.9/s"), (100, "100/s"), (74_000.4, "74,000/s")]
)
def test_rates(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 µs"),
        (0.00014, "140 µs"),
        (0.0009996, "1.00 ms"),
        (0.00285, "2.85 ms"),
        (0.0301, "30.1 ms"),
        (0.9999, "1.00 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1000, "1000 B"), (1536, "1.50 KiB"), (64 << 20, "64.0 MiB"), ((1 << 30) - 1, "1.00 GiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


def test_what_was_not_measured_is_a_dash() -> None:
    assert format_rate(math.nan) == format_duration(math.nan) == "-"
