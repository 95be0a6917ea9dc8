"""Two processes, the same calls: what a command must not depend on is found, and what it may depend on is not."""

from __future__ import annotations

import datetime
import os
import random
import sys
import time
import uuid
from typing import Any

import cloudpickle
import pytest

import rayraft
from rayraft.errors import BadCall, CommandFailed, StateDiverged
from rayraft.machine import determinism
from rayraft.machine.determinism import Evidence, check_determinism, first_difference
from rayraft.raft.types import Entry, EntryKind

random.seed(1)  # some module seeds it: that makes nothing deterministic


class Gallery:
    def __init__(self, start: int = 0) -> None:
        self.seen: list[Any] = [start]
        self.words: set[str] = set()

    @rayraft.command
    def keep(self, value: Any) -> None:
        self.seen.append(value)

    @rayraft.command
    def keep_words(self, text: str) -> int:
        self.words |= set(text.split())
        print("printing does no harm", *self.words)
        return len(self.words)

    @rayraft.command
    def fail(self) -> None:
        raise ValueError(f"not allowed {object()}")

    @rayraft.command
    def first_word(self) -> None:
        self.seen.append(next(iter(self.words)))

    @rayraft.command
    def clock(self) -> None:
        self.seen.append(int(time.time()))

    @rayraft.command
    def today(self) -> None:
        self.seen.append(datetime.datetime.now())

    @rayraft.command
    def dice(self, *, sides: int = 6) -> None:
        self.seen.append([random.randint(1, sides) for _ in range(50)])

    @rayraft.command
    def token(self) -> None:
        self.seen.append(uuid.uuid4().hex)

    @rayraft.command
    def address(self) -> None:
        self.seen.append(id(self.seen))

    @rayraft.command
    def hashed(self, text: str) -> None:
        self.seen.append(hash(text))

    @rayraft.command
    def process(self) -> None:
        self.seen.append(os.getpid())

    @rayraft.command
    def die(self) -> None:
        os._exit(7)

    @rayraft.query
    def count(self) -> int:
        return len(self.seen)


WORDS = ("keep_words", ("one two three four five six seven eight nine ten eleven twelve",))


@pytest.mark.parametrize(
    ("calls", "named"),
    [
        ([WORDS, ("first_word", ())], "call 2 of 2, first_word()"),
        ([("keep", (1,)), ("clock", ()), ("keep", (2,))], "call 2 of 3, clock()"),
        ([("today", ())], "today()"),
        ([("keep", (1,)), ("dice", (), {"sides": 9})], "dice(sides=9)"),
        ([("token", ())], "token()"),
        ([("address", ())], "address()"),
        ([("hashed", ("abc",))], "hashed('abc')"),
        ([("process", ())], "process()"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_the_first_call_that_is_not_deterministic_is_named(calls: list[Any], named: str) -> None:
    with pytest.raises(StateDiverged) as caught:
        check_determinism(Gallery, calls)
    assert named in str(caught.value)


class Born(Gallery):
    def __init__(self) -> None:
        super().__init__()
        self.secret = random.random()


def test_an_object_that_is_made_differently_is_not_blamed_on_a_call() -> None:
    calls: list[Any] = [("keep", (number,)) for number in range(100)]
    with pytest.raises(StateDiverged, match=r"^Born.__init__ is not deterministic: two processes that made the object"):
        check_determinism(Born, calls)


def test_a_node_that_looks_for_the_command_is_told_that_it_is_none() -> None:
    found = first_difference(cloudpickle.dumps((Born, (), {})), Evidence(b"", log_of([("keep", (1,))])))
    assert str(found) == "__init__ is not deterministic: run twice it makes two states"


def test_a_deterministic_object_passes_whatever_it_is_made_of() -> None:
    calls: list[Any] = [("keep", (number,)) for number in range(50)]
    check_determinism(Gallery, [*calls, WORDS, ("fail", ()), ("keep", ({"a", "b"},))], kwargs={"start": 5})
    check_determinism(Gallery, [], args=(5,))


def test_the_callers_limit_of_recursion_stays_as_it_is() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 777)
    try:
        check_determinism(Gallery, [("keep", (1,))])
        assert sys.getrecursionlimit() == limit + 777
    finally:
        sys.setrecursionlimit(limit)


def test_a_class_of_a_script_can_be_checked() -> None:
    class Local(Gallery):
        pass

    with pytest.raises(StateDiverged, match="token"):
        check_determinism(Local, [("keep", (1,)), ("token", ())])


def test_an_object_that_its_snapshot_does_not_give_back_is_found() -> None:
    with pytest.raises(StateDiverged, match="__getstate__"):
        check_determinism(Half, [("keep", (1,)), ("keep", (2,))])


class Half(Gallery):
    """Its digest is of what it saves; what it restores is something else."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.seen = self.seen[:1]


def test_what_is_no_command_or_query_is_refused() -> None:
    with pytest.raises(BadCall, match="no_such_thing"):
        check_determinism(Gallery, [("no_such_thing", ())])


class Nosy(Gallery):
    @rayraft.query
    def look(self, limit: int) -> int:
        if len(self.seen) > limit:
            self.seen.append("looked")
        return len(self.seen)


def test_a_query_that_changes_the_object_is_named() -> None:
    calls: list[Any] = [("count", ()), ("look", (1,)), ("keep", (1,)), ("count", ()), ("look", (2,))]
    check_determinism(Nosy, calls)
    with pytest.raises(StateDiverged, match=r"the query look\(1\) has changed the object"):
        check_determinism(Nosy, [*calls, ("look", (1,))])


def test_queries_count_as_calls() -> None:
    with pytest.raises(StateDiverged, match=r"call 4 of 5, token\(\)"):
        check_determinism(Gallery, [("count", ()), ("keep", (1,)), ("count", ()), ("token", ()), ("keep", (1,))])


def test_a_process_that_dies_or_hangs_ends_the_search() -> None:
    with pytest.raises(CommandFailed, match="status"):
        check_determinism(Gallery, [("die", ())])
    machine = cloudpickle.dumps((Gallery, (), {}))
    hanging = Evidence(b"", log_of([("keep", (1,))]))
    with pytest.raises(CommandFailed):
        first_difference(machine, hanging, timeout_s=0.0)


def log_of(calls: list[tuple[str, tuple[Any, ...]]]) -> list[Entry]:
    requests = [determinism.encode_opening(1, determinism.TTL)]
    session = determinism.session_id(determinism.request_header(requests[0]).number, index=1, place=0)
    for number, (name, args) in enumerate(calls, 1):
        call = determinism.encode_call(name, args, {})
        requests.append(determinism.encode_request(session, number, 0, [call]))
    return [
        Entry(index, 1, EntryKind.COMMAND, determinism.encode_batch(determinism.CommandBatch(0, [request])))
        for index, request in enumerate(requests, 1)
    ]


@pytest.mark.parametrize("place", [0, 31, 32, 1023, 1024, 1499, 1999])
def test_the_one_command_among_many_is_found_in_passes(place: int) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = [("keep", (number,)) for number in range(2000)]
    calls[place] = ("token", ())
    found = first_difference(cloudpickle.dumps((Gallery, (), {})), Evidence(b"", log_of(calls)))
    assert found is not None
    assert (found.step, found.index, found.call) == (place + 1, place + 2, "token()")


def test_a_request_that_came_twice_counts_once() -> None:
    log = log_of([("keep", (1,)), ("token", ())])
    again = [log[0], log[1], Entry(3, 1, EntryKind.COMMAND, log[1].data), Entry(4, 1, EntryKind.COMMAND, log[2].data)]
    found = first_difference(cloudpickle.dumps((Gallery, (), {})), Evidence(b"", again))
    assert found is not None
    assert (found.step, found.index, found.call) == (2, 4, "token()")


def test_entries_without_commands_take_no_processes() -> None:
    entries = [Entry(1, 1, EntryKind.NOOP), Entry(2, 1, EntryKind.DIGEST)]
    assert first_difference(b"not even looked at", Evidence(b"", entries)) is None
