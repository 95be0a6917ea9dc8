"""What a benchmark measures: latencies in a histogram, successes along time, and figures written for people."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple

LOWEST: Final = 1e-6
HIGHEST: Final = 100.0

_GROWTH: Final = 1.02  # a bucket's middle is within sqrt(1.02) - 1, just below 1 %, of everything in it
_PER_LOG: Final = 1 / math.log(_GROWTH)
_OFFSET: Final = -math.log(LOWEST) * _PER_LOG
_BUCKETS: Final = int(math.log(HIGHEST) * _PER_LOG + _OFFSET) + 1


@dataclass(slots=True)
class LatencyHistogram:
    """Latencies in buckets of logarithmic width: any number of them in a few kilobytes.

    1. Percentiles are within 1 % of the true sample from 1 microsecond to 100 seconds. What lies outside is counted
       in the outermost bucket.
    2. Count, sum, hence mean, lowest and highest are exact, outside that range too.
    3. Merging two histograms gives the one of all their samples together, so workers can each keep their own.
    """

    count: int = 0
    sum: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    _buckets: list[int] = field(default_factory=lambda: [0] * _BUCKETS, repr=False)

    def record(self, seconds: float, count: int = 1) -> None:
        """``count`` operations took ``seconds`` each."""
        self._buckets[_bucket(seconds)] += count
        self.count += count
        self.sum += seconds * count
        if seconds < self.min:
            self.min = seconds
        if seconds > self.max:
            self.max = seconds

    def record_all(self, latencies: Sequence[float]) -> None:
        """One operation for each of them, in seconds; cheaper than one after the other."""
        if not latencies:
            return
        for bucket, count in Counter(map(_bucket, latencies)).items():
            self._buckets[bucket] += count
        self.count += len(latencies)
        self.sum += sum(latencies)
        self.min, self.max = min(self.min, *latencies), max(self.max, *latencies)

    def merge(self, other: LatencyHistogram) -> None:
        """Take in every sample of ``other``."""
        self._buckets = [mine + theirs for mine, theirs in zip(self._buckets, other._buckets, strict=True)]
        self.count += other.count
        self.sum += other.sum
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else math.nan

    def percentile(self, p: float) -> float:
        """The least latency that at least ``p`` per cent of the samples do not exceed (the nearest rank)."""
        if not 0 <= p <= 100:
            raise ValueError(f"a percentile lies between 0 and 100, not at {p}")
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(p * self.count / 100))
        if rank == self.count:
            return self.max
        bucket = bisect_left(list(accumulate(self._buckets)), rank)
        return min(max(_middle(bucket), self.min), self.max)


def _bucket(seconds: float) -> int:
    if seconds <= LOWEST:
        return 0
    bucket = int(math.log(seconds) * _PER_LOG + _OFFSET)
    return bucket if bucket < _BUCKETS else _BUCKETS - 1


def _middle(bucket: int) -> float:
    """Geometric: as far above the bucket's lower end as below its upper one, in per cent."""
    return LOWEST * math.pow(_GROWTH, bucket + 0.5)


class Gap(NamedTuple):
    """A stretch of time without a success."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(slots=True)
class Timeline:
    """Successes along time: throughput per ``interval``, and the exact gaps between them.

    Times are seconds of any one clock; intervals are counted from ``origin``. They may be recorded in any order. Each
    call keeps eight bytes, so record a batch as one: the gaps are exact because no time is rounded.
    """

    interval: float = 0.1
    origin: float = 0.0
    _times: array[float] = field(default_factory=lambda: array("d"), repr=False)
    _counts: Counter[int] = field(default_factory=Counter, repr=False)

    def __post_init__(self) -> None:
        if self.interval <= 0:
            raise ValueError("an interval is longer than nothing")

    def record(self, time: float, count: int = 1) -> None:
        """``count`` operations succeeded at ``time``."""
        self._times.append(time)
        self._counts[self._index(time)] += count

    def record_all(self, times: Sequence[float]) -> None:
        """One operation succeeded at each of these times."""
        self._times.extend(times)
        self._counts.update(map(self._index, times))

    def merge(self, other: Timeline) -> None:
        """Take in every success of ``other``, which must count the same intervals."""
        if (self.interval, self.origin) != (other.interval, other.origin):
            raise ValueError("timelines of different intervals or origins can not be merged")
        self._times.extend(other._times)
        self._counts.update(other._counts)

    @property
    def total(self) -> int:
        return sum(self._counts.values())

    @property
    def times(self) -> tuple[float, ...]:
        """Of each call of `record`."""
        return tuple(self._times)

    def points(self) -> list[tuple[float, float]]:
        """``(seconds since origin, operations per second)`` at the beginning of each interval, first to last used.

        Intervals without a success are there with 0. The first and the last may have been cut short by the run.
        """
        if not self._counts:
            return []
        indexes = range(min(self._counts), max(self._counts) + 1)
        return [(index * self.interval, self._counts[index] / self.interval) for index in indexes]

    def longest_gap(self, start: float, end: float) -> Gap:
        """The longest stretch of ``start`` to ``end`` without a success; the edges bound it like successes."""
        if start > end:
            raise ValueError("a timeline does not run backwards")
        return max(self._gaps(start, end), key=lambda gap: gap.seconds)

    def _gaps(self, start: float, end: float) -> Iterator[Gap]:
        begin = start
        for time in sorted(time for time in self._times if start <= time <= end):
            yield Gap(begin, time)
            begin = time
        yield Gap(begin, end)

    def _index(self, time: float) -> int:
        return math.floor((time - self.origin) / self.interval)


def format_rate(per_second: float) -> str:
    """``74,000/s``; small rates keep a digit after the point."""
    if math.isnan(per_second):
        return "-"
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.1f}/s"


def format_duration(seconds: float) -> str:
    """Three significant digits in the unit that suits: ``140 µs``, ``2.85 ms``, ``1.50 s``, ``2 min 05 s``."""
    if math.isnan(seconds):
        return "-"
    if seconds >= 59.95:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 0.9995:
            return f"{_three_digits(seconds * scale)} {unit}"
    return f"{_three_digits(seconds * 1e6)} µs"


def format_size(size: float) -> str:
    """Bytes in binary units: ``512 B``, ``1.50 KiB``, ``64.0 MiB``."""
    if size < 1023.5:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1023.5:
            return f"{_three_digits(size)} {unit}"
    return f"{_three_digits(size / 1024)} TiB"


def _three_digits(figure: float) -> str:
    """Without an exponent; a figure above 999 keeps all its digits."""
    for digits, limit in ((2, 9.995), (1, 99.95)):
        if figure < limit:
            return f"{figure:.{digits}f}"
    return f"{figure:.0f}"
