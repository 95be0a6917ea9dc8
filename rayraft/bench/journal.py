"""The operations of a load as a history, to be checked for linearizability when the load is over.

What is recorded: for each key that `Journal.has` accepts, every operation without exception, from the first load of
the records to the last reading back. Keys are independent of each other, so leaving out whole keys leaves the verdict
on the others exact; leaving out single operations would not. The demo records all keys. The bench, which makes up to
some hundred thousand operations a second, records one key in `BENCH_EVERY`, so that the recording stays out of its
figures and the check takes seconds. A value is recorded as its version.

The times are taken before a call leaves and after its answer was seen, by one clock for all threads.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rayraft.bench.ycsb import key_name
from rayraft.errors import CommandTimeout, Overloaded
from rayraft.history import History, Kind, Limits, Operation, Report, check
from rayraft.history.models import Register

BENCH_EVERY: Final = 16
LIMITS: Final = Limits(steps=100_000)  # a hot key with many writes of unknown outcome is given up after seconds

clock = time.perf_counter


class _Note(NamedTuple):
    """An operation, in as little memory as a tuple takes."""

    kind: Kind
    key: int
    version: int | None
    begin: float
    end: float | None


class Journal:
    """Threads may write to it at once: a note is one append to a list."""

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._notes: list[_Note] = []

    def has(self, key: int) -> bool:
        return key % self._every == 0

    def wrote(self, key: int, version: int, begin: float) -> None:
        """A write was acknowledged."""
        if key % self._every == 0:
            self._notes.append(_Note(Kind.WRITE, key, version, begin, clock()))

    def wrote_all(
        self, keys: Sequence[int], version: int, begins: Sequence[float], ends: Sequence[float], places: Iterable[int]
    ) -> None:
        """Writes of many keys were acknowledged, each with its times; ``places`` are of those that `has` accepts."""
        self._notes += [_Note(Kind.WRITE, keys[place], version, begins[place], ends[place]) for place in places]

    def unsure(self, key: int, version: int, begin: float, error: Exception) -> None:
        """A write ended with an error: it may take effect later, or never, unless the error says that it did not."""
        if key % self._every == 0 and not never_happened(error):
            self._notes.append(_Note(Kind.WRITE, key, version, begin, None))

    def saw(self, key: int, version: int | None, begin: float) -> None:
        """A read was answered; None: there was nothing."""
        if key % self._every == 0:
            self._notes.append(_Note(Kind.READ, key, version, begin, clock()))

    def history(self) -> History:
        origin = min((note.begin for note in self._notes), default=0.0)
        return History(_operation(note, origin) for note in self._notes)

    def check(self) -> Report:
        return check(self.history(), Register(), LIMITS)


def never_happened(error: Exception) -> bool:
    """Whether it is certain that a command which ended so has no effect."""
    return isinstance(error, Overloaded) or (isinstance(error, CommandTimeout) and error.outcome_known)


def _operation(note: _Note, origin: float) -> Operation:
    given, output = (note.version, None) if note.kind is Kind.WRITE else (None, note.version)
    returned = None if note.end is None else note.end - origin
    return Operation("load", note.kind, key_name(note.key), given, output, note.begin - origin, returned)
