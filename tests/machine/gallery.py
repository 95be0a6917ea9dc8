"""States that must all hash differently, and others that are equal although they were built differently."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import re
from typing import Any, NamedTuple

from sortedcontainers import SortedSet

from rayraft.machine.digest import digest_of
from tests.machine.support import Journal, Log, replicated


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Weekday(enum.IntEnum):
    MONDAY = 1


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


class Box:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a


class Callable(Box):
    """Has a state of its own, although it can be called."""

    def __call__(self) -> None: ...


class Dict(dict[Any, Any]):
    """A dict with attributes."""


class Set(set[Any]):
    """A set with attributes."""


class TextState:
    """Keeps a set as its whole state."""

    def __init__(self, *words: str) -> None:
        self.words = set(words)

    def __getstate__(self) -> set[str]:
        return self.words

    def __setstate__(self, words: set[str]) -> None:
        self.words = words


def with_attribute(value: Any, attribute: Any) -> Any:
    value.attribute = attribute
    return value


def ring(length: int, of: type = list) -> Any:
    """A cycle of lists."""
    first: list[Any] = of()
    last = first
    for _ in range(length - 1):
        last.append(of())
        last = last[0]
    last.append(first)
    return first


def family(name: str, *children: str) -> Box:
    """A parent that holds its children in a set, each of which knows its parent."""
    parent = Box(name=name)
    return with_attribute(parent, {Box(name=child, parent=parent) for child in children})  # type: ignore[no-any-return]


WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def different() -> list[Any]:
    """No two of them are the same state."""
    return [
        None, True, False, 0, 1, -1, 0.0, -0.0, 1.0, 1j, float("inf"), float("nan"), 10**5000, 10**5000 + 1,
        "", "1", "one", b"", b"1", bytearray(b"1"), "\ud800", ...,
        [], (), {}, set(), frozenset(), [1], (1,), {1}, frozenset({1}), {1: 1}, {1: None},
        [[], []], [[[]]], ["a", "b"], ["ab"], ["a", ["b"]], [["a"], "b"], {"a": "b"}, {"b": "a"},
        {1: 2, 3: 4}, {3: 4, 1: 2}, set(WORDS), set(WORDS[1:]), {frozenset(WORDS)}, {frozenset(WORDS[1:])},
        {(1, 2)}, {(2, 1)}, range(3), range(0, 3, 2), slice(3), int, str, len, digest_of, ring,
        Color.RED, Color.BLUE, Weekday.MONDAY, Point(1, 2), Point(2, 1), Pair(1, 2), Pair(1, "2"),
        Box(), Box(a=1), Box(a=2), Box(b=1), Slotted(1), Slotted(2), Callable(a=1), Callable(a=2),
        Dict(), Dict({1: 1}), with_attribute(Dict({1: 1}), 1), with_attribute(Dict({1: 1}), 2),
        Set(), Set({1}), with_attribute(Set({1}), 1), with_attribute(Set({1}), 2), TextState("a"), TextState("a", "b"),
        collections.deque([1]), collections.deque([1], 2), collections.Counter("aab"), collections.OrderedDict({1: 1}),
        collections.defaultdict(int, {1: 1}), collections.defaultdict(list, {1: 1}), SortedSet([1]), SortedSet([2]),
        datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2), decimal.Decimal("1"), decimal.Decimal("1.0"),
        functools.partial(len, ()), functools.partial(len, []), re.compile("a"), re.compile("b"),
        ring(1), ring(2), [ring(1)], family("ann"), family("ann", *WORDS), family("ann", *WORDS[1:]),
    ]  # fmt: skip


def twins() -> list[tuple[Any, Any]]:
    """Equal states: shared and copied parts, sets filled in another order, an equal string that is another object."""
    shared = ["x"]
    built = "".join(["o", "ne"])
    return [
        ([shared, shared], [["x"], ["x"]]),
        ({"a": shared, "b": shared}, {"a": ["x"], "b": ["x"]}),
        ({0, 8}, {8, 0}),  # they fall into one place of the table, so their order is that of insertion
        ({built, "two"}, {"two", "one"}),
        (Pair(shared, shared), Pair(["x"], ["x"])),
        ({1, 2**40, -5}, {-5, 2**40, 1}),
        (Set(WORDS), Set(reversed(WORDS))),
        (TextState(*WORDS), TextState(*reversed(WORDS))),
        (family("ann", *WORDS), family("ann", *reversed(WORDS))),
        (ring(3), ring(3)),
        (Callable(a=1), Callable(a=1)),
    ]


def describe(state: Any) -> str:
    return hex(state) if type(state) is int else repr(state)  # in decimal Python refuses very long ones


def replica_digest() -> bytes:
    """Of a machine whose replies contain a set: it pickles in another order in every process."""
    log = Log(replicated(Journal))
    session = log.open_session()
    log.send(session, 1, "note_set", *WORDS)
    return log.machine.digest()


def all_digests() -> list[str]:
    return [digest_of(state).hex() for state in different()] + [replica_digest().hex()]
