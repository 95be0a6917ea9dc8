"""Histories that no store may show, and their neighbours that it may: each pair differs in one thing."""

from __future__ import annotations

from typing import NamedTuple

from rayraft.history import Operation
from rayraft.history.models import KeyValueEntry, Model, Register, Text
from tests.history.support import OPEN, append, cas, increment, read, write


class Pair(NamedTuple):
    model: Model
    bad: list[Operation]
    good: list[Operation]


PAIRS: dict[str, Pair] = {
    "stale read": Pair(
        Register(),
        [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
        [write(1, 0, 1), write(2, 2, 5), read(1, 4, 5)],
    ),
    "reads go back": Pair(  # while the write is under way, but in turn
        Register(),
        [write(1, 0, 1), write(2, 2, 9), read(2, 3, 4), read(1, 5, 6)],
        [write(1, 0, 1), write(2, 2, 9), read(2, 3, 5), read(1, 5, 6)],
    ),
    "lost update": Pair(
        KeyValueEntry(),
        [increment(1, 1, 0, 3), increment(1, 1, 1, 4)],
        [increment(1, 1, 0, 3), increment(1, 2, 1, 4)],
    ),
    "acknowledged write is gone": Pair(
        Register(),
        [write(1, 0, 1), read(None, 2, 3)],
        [write(1, 0, 2), read(None, 2, 3)],
    ),
    "doubled append": Pair(
        Text(),
        [append("a", None, 0, 1), append("b", None, 2, 3), read("aba", 4, 5)],
        [append("a", None, 0, 1), append("b", None, 2, 3), append("a", None, 4, OPEN), read("aba", 4, 5)],
    ),
    "doubled append to a list": Pair(
        KeyValueEntry(),
        [append(7, 1, 0, 1), read((7, 7), 2, 3)],
        [append(7, 1, 0, 1), append(7, None, 0, OPEN), read((7, 7), 2, 3)],
    ),
    "appends in the wrong order": Pair(
        Text(),
        [append("a", None, 0, 1), append("b", None, 2, 3), read("ba", 4, 5)],
        [append("a", None, 0, 2), append("b", None, 2, 3), read("ba", 4, 5)],
    ),
    "read of a failed write": Pair(  # a certain failure is in no history
        Register(),
        [write(1, 0, 1), read(2, 4, 5)],
        [write(1, 0, 1), write(2, 2, OPEN), read(2, 4, 5)],
    ),
    "future read": Pair(
        Register(),
        [read(1, 0, 1), write(1, 2, 3)],
        [read(1, 0, 2), write(1, 2, 3)],
    ),
    "future read of an unknown write": Pair(
        Register(),
        [read(1, 0, 1), write(1, 2, OPEN)],
        [read(1, 0, 2), write(1, 2, OPEN)],
    ),
    "an unknown write takes effect twice": Pair(
        Register(),
        [write(1, 0, OPEN), write(2, 1, 2), read(1, 3, 4), write(3, 5, 6), read(1, 7, 8)],
        [write(1, 0, OPEN), write(2, 1, 2), read(1, 3, 4), write(3, 5, 6), read(3, 7, 8)],
    ),
    "unknown writes in turn": Pair(  # each may be late, none may return
        Register(),
        [write(1, 0, OPEN), write(2, 0, OPEN), read(1, 3, 4), read(2, 5, 6), read(1, 7, 8)],
        [write(1, 0, OPEN), write(2, 0, OPEN), read(1, 3, 4), read(2, 5, 6), read(2, 7, 8)],
    ),
    "either of two unknown operations, but the other one later": Pair(  # only the exchange can have come first
        Register(),
        [
            write(2, 0, 1),
            cas(2, 1, None, 2, OPEN),
            write(1, 3, OPEN),
            read(1, 4, 5),
            write(5, 6, 7),
            read(5, 8, 9),
            read(2, 10, 11),
        ],
        [
            write(2, 0, 1),
            cas(2, 1, None, 2, OPEN),
            write(1, 3, OPEN),
            read(1, 4, 5),
            write(5, 6, 7),
            read(5, 8, 9),
            read(1, 10, 11),
        ],
    ),
    "either of two unknown operations, but the other one later, in the other order": Pair(
        Register(),
        [
            write(2, 0, 1),
            write(1, 2, OPEN),
            cas(2, 1, None, 3, OPEN),
            read(1, 4, 5),
            write(5, 6, 7),
            read(5, 8, 9),
            read(2, 10, 11),
        ],
        [
            write(2, 0, 1),
            write(1, 2, OPEN),
            cas(2, 1, None, 3, OPEN),
            read(1, 4, 5),
            write(5, 6, 7),
            read(5, 8, 9),
            read(1, 10, 11),
        ],
    ),
    "two win one exchange": Pair(
        Register(),
        [write(0, 0, 1), cas(0, 1, True, 2, 5), cas(0, 2, True, 3, 6)],
        [write(0, 0, 1), cas(0, 1, True, 2, 5), cas(0, 2, False, 3, 6)],
    ),
    "an exchange is refused without a reason": Pair(
        Register(),
        [write(0, 0, 1), cas(0, 1, False, 2, 3)],
        [write(0, 0, 1), cas(5, 1, False, 2, 3)],
    ),
    "the second key": Pair(
        Register(),
        [write(1, 0, 1, "x"), write(2, 0, 1, "y"), read(1, 2, 3, "x"), read(1, 2, 3, "y")],
        [write(1, 0, 1, "x"), write(2, 0, 1, "y"), read(1, 2, 3, "x"), read(2, 2, 3, "y")],
    ),
    "the state that two orders leave": Pair(  # whoever forgets it takes the second order for the first
        Register(),
        [write(1, 0, 5), write(2, 0, 6), read(3, 7, 8)],
        [write(1, 0, 6), write(2, 0, 5), read(2, 7, 8)],
    ),
    "an increment of a list": Pair(
        KeyValueEntry(),
        [append(1, 1, 0, 1), increment(1, 2, 2, 3)],
        [append(1, 1, 0, 1), increment(1, None, 2, OPEN)],
    ),
}
