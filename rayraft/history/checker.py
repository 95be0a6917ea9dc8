"""Is a history linearizable? The search of Wing and Gong with the cache of Lowe, key by key.

A *configuration* is a set of operations that were put in an order, and the state they lead to. From each one the
search goes on with every operation that may come next: one that was invoked before any of the remaining ones returned.
Two orders of the same operations that lead to the same state have the same future, so a cache of configurations that
were seen keeps the search from going through it twice. What keeps the configurations few and small:

1. Operations are sorted by invocation, and a configuration holds the number of leading ones that are all done and
   a bitset of the others: its size goes with what is concurrent, not with the length of the history.
2. An operation that only reads comes first wherever it can: it is in nobody's way, so no other choice is tried.
3. An operation of unknown outcome may stay undone for ever. It is tried only where it changes the state, only the
   first of equal ones is, and a configuration is not looked at when the same one was seen with fewer of them used.
4. A search that is longer than `Limits` ends as undecided. It is never silent.

Where each write of a key has a value of its own, only the explanation needs a search (`rayraft.history.zones`).
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any, Final, NamedTuple

from rayraft.history.models import Model, State
from rayraft.history.operations import History, Operation, show
from rayraft.history.zones import decide

TOLD_OF_PREFIX: Final = 8  # operations at the end of the longest prefix that an explanation names
TOLD_OF_VIOLATIONS: Final = 3
POSSIBLE: Final = 6  # expected outputs to name ...
POSSIBLE_FROM: Final = 100_000  # ... found in so many configurations


class Verdict(enum.Enum):
    LINEARIZABLE = "yes"
    VIOLATED = "no"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to search, for each key."""

    steps: int = 1_000_000  # operations tried on a state
    configurations: int = 500_000  # kept in memory


@dataclass(frozen=True, slots=True)
class Violation:
    """The longest order that was found of the operations of a key, and why it can not be continued."""

    key: str
    prefix: tuple[Operation, ...]
    state: State
    stuck: tuple[Operation, ...]  # any may come next, none fits; the first one must, before whatever began later
    possible: tuple[Any, ...]  # what the first of them might have returned, with other orders too
    unplaced: int  # operations with an answer that are not in the prefix

    def __str__(self) -> str:
        first, *others = self.stuck
        last = self.prefix[-TOLD_OF_PREFIX:]
        lines = [
            f"key {self.key!r}: {first}",
            f"  can not be placed; expected was {' or '.join(map(show, self.possible))}",
            f"  longest order found, {len(self.prefix)} operations ({self.unplaced} remain)",
            *(["    ..."] if len(last) < len(self.prefix) else []),
            *(f"    {operation}" for operation in last),
            f"  after which the value is {show(self.state)}",
        ]
        if others:
            lines += ["  and none of these may come next either", *(f"    {operation}" for operation in others)]
        return "\n".join(lines)


@dataclass(slots=True)
class Report:
    """What was found, of all keys together."""

    operations: int = 0
    keys: int = 0
    steps: int = 0
    violations: list[Violation] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)  # keys

    @property
    def verdict(self) -> Verdict:
        if self.violations:
            return Verdict.VIOLATED
        return Verdict.UNDECIDED if self.undecided else Verdict.LINEARIZABLE

    def __str__(self) -> str:
        return f"{self.verdict.value} ({self.operations:,} operations, {self.keys:,} keys)"

    def explain(self) -> str:
        """What is wrong, for a reader; empty when nothing is."""
        lines = [str(violation) for violation in self.violations[:TOLD_OF_VIOLATIONS]]
        if len(self.violations) > len(lines):
            lines.append(f"and {len(self.violations) - len(lines)} more keys whose operations have no order")
        lines += (f"key {key!r}: the search was given up, nothing is known" for key in self.undecided)
        return "\n".join(lines)


def check(history: History, model: Model, limits: Limits | None = None) -> Report:
    """Whether every key's operations have an order that keeps to real time and to the model. Raises BadHistory."""
    report, limits = Report(operations=len(history)), limits or Limits()
    for key, operations in history.by_key().items():
        report.keys += 1
        fits = decide(operations, model.initial)
        if fits:
            continue
        search = _Search(operations, model, limits)
        verdict = search.run()
        report.steps += search.steps
        if fits is False or verdict is Verdict.VIOLATED:  # known already: the search finds what there is to be shown
            report.violations.append(search.explain(key))
        elif verdict is Verdict.UNDECIDED:
            report.undecided.append(key)
    return report


class _Configuration(NamedTuple):
    low: int  # so many leading operations are done ...
    done: int  # ... and of those from there on the ones in this bitset
    used: int  # bitset of operations of unknown outcome
    state: State
    parent: _Configuration | None  # the way here, for the explanation
    by: Operation | None

    @property
    def depth(self) -> int:
        return self.low + self.done.bit_count()


class _Search:
    """The search on one key."""

    def __init__(self, operations: list[Operation], model: Model, limits: Limits) -> None:
        self._apply = model.apply
        self._limits = limits
        self._closed = sorted((one for one in operations if not one.is_open), key=_by_invocation)
        self._unknown = _groups(one for one in operations if one.is_open and not one.only_reads)
        self._seen: dict[tuple[int, int, State], list[int]] = {}
        self._kept = 0
        self._deepest = _Configuration(0, 0, 0, model.initial, None, None)
        self.steps = 0

    def run(self) -> Verdict:
        goal, limits = len(self._closed), self._limits
        stack = [self._deepest]
        while stack:
            here = stack.pop()
            if here.low == goal:
                return Verdict.LINEARIZABLE
            if not self._is_new(here):
                continue
            if self.steps >= limits.steps or self._kept >= limits.configurations:
                return Verdict.UNDECIDED
            if here.depth > self._deepest.depth:
                self._deepest = here
            stack.extend(self._next(here))
        return Verdict.VIOLATED

    def _is_new(self, here: _Configuration) -> bool:
        """Remember a configuration, unless one that can do all it can was seen."""
        key = here.low, here.done, here.state
        seen = self._seen.get(key)
        if seen is None:
            self._seen[key] = [here.used]
        elif any(used & here.used == used for used in seen):
            return False
        else:
            seen.append(here.used)
        self._kept += 1
        return True

    def _next(self, here: _Configuration) -> list[_Configuration]:
        """The configurations one operation further, the most promising last.

        Nothing that began later can come before the first operation to return. So what makes that one fit goes
        first; then the others in the order in which they returned; then what may never have happened.
        """
        found: list[tuple[float, _Configuration]] = []
        urgent: Operation | None = None
        bound = float("inf")
        for place, operation in self._candidates(here):
            assert operation.returned is not None
            if operation.returned < bound:
                bound, urgent = operation.returned, operation
            self.steps += 1
            state, output = self._apply(here.state, operation)
            if output == operation.output:
                step = _with(here, place, state, operation)
                if operation.only_reads:
                    return [step]
                found.append((operation.returned, step))
        found.sort(key=_by_return)
        further = [configuration for _, configuration in found]
        further.extend(self._with_unknown(here, bound))
        if urgent is not None and not any(one.by is urgent for one in further):
            further.sort(key=lambda one: self._apply(one.state, urgent)[1] != urgent.output)
        further.reverse()
        return further

    def _candidates(self, here: _Configuration) -> Iterator[tuple[int, Operation]]:
        """Those that are not done and were invoked before one of those returned; with their places above ``low``."""
        closed, low, done = self._closed, here.low, here.done
        bound = float("inf")
        for index in range(low, len(closed)):
            operation = closed[index]
            if operation.invoked > bound:
                return
            if not done >> (index - low) & 1:
                assert operation.returned is not None
                bound = min(bound, operation.returned)
                yield index - low, operation

    def _with_unknown(self, here: _Configuration, bound: float) -> Iterator[_Configuration]:
        for first, equal in self._unknown:
            used = (here.used >> first & (1 << len(equal)) - 1).bit_count()
            if used == len(equal) or equal[used].invoked > bound:
                continue
            self.steps += 1
            state, _ = self._apply(here.state, equal[used])
            if state != here.state:
                mark = 1 << (first + used)
                yield _Configuration(here.low, here.done, here.used | mark, state, here, equal[used])

    def explain(self, key: str) -> Violation:
        """Behind the deepest configuration nothing fits, or there were a deeper one."""
        end = self._deepest
        stuck = sorted((operation for _, operation in self._candidates(end)), key=lambda one: one.returned or 0.0)
        prefix: list[Operation] = []
        here: _Configuration | None = end
        while here is not None:
            if here.by is not None:
                prefix.append(here.by)
            here = here.parent
        possible = self._possible(stuck[0], end)
        return Violation(key, tuple(prefix[::-1]), end.state, tuple(stuck), possible, len(self._closed) - end.depth)

    def _possible(self, operation: Operation, end: _Configuration) -> tuple[Any, ...]:
        """What an operation was expected to return, wherever the search came to it; that of ``end`` first."""
        found = [self._apply(end.state, operation)[1]]
        for low, done, state in islice(self._seen, POSSIBLE_FROM):
            if len(found) == POSSIBLE:
                break
            here = _Configuration(low, done, 0, state, None, None)
            if any(candidate is operation for _, candidate in self._candidates(here)):
                output = self._apply(state, operation)[1]
                if output not in found:
                    found.append(output)
        return tuple(found)


def _with(here: _Configuration, place: int, state: State, operation: Operation) -> _Configuration:
    done = here.done | 1 << place
    leading = (~done & (done + 1)).bit_length() - 1  # ones at its low end
    return _Configuration(here.low + leading, done >> leading, here.used, state, here, operation)


def _groups(operations: Iterable[Operation]) -> list[tuple[int, list[Operation]]]:
    """Equal ones together in the order of invocation, each group with the place of its first in the bitset."""
    groups: dict[tuple[Any, Any], list[Operation]] = defaultdict(list)
    for operation in sorted(operations, key=_by_invocation):
        groups[operation.kind, operation.input].append(operation)
    places = accumulate(map(len, groups.values()), initial=0)
    return list(zip(places, groups.values(), strict=False))


def _by_invocation(operation: Operation) -> float:
    return operation.invoked


def _by_return(found: tuple[float, _Configuration]) -> float:
    return found[0]
