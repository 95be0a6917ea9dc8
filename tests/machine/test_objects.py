"""A user's plain class as a state machine: what is served, what is refused, and what a failing command leaves."""

from __future__ import annotations

import pickle
import re
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest

import rayraft
from rayraft.errors import BadCall, BadConfiguration, CommandFailed
from rayraft.machine.calls import decode_results, encode_call, encode_places, unwrap
from rayraft.machine.objects import MAX_PLACES, RESERVED_NAMES, ObjectMachine, command, marked_methods, query
from rayraft.machine.requests import pack
from tests.machine.support import Journal, ask, restored, run, saved


class Ledger:
    def __init__(self, opening: int = 0) -> None:
        self.balance = {"bank": opening}

    @command
    def deposit(self, who: str, amount: int) -> int:
        self.balance[who] = self.balance.get(who, 0) + amount
        return self.balance[who]

    @command(atomic=True)
    def move(self, source: str, target: str, amount: int) -> None:
        self.balance[target] = self.balance.get(target, 0) + amount
        self.balance[source] -= amount
        if self.balance[source] < 0:
            raise ValueError("not enough")

    @command
    def careless_move(self, source: str, target: str, amount: int) -> None:
        self.balance[target] = self.balance.get(target, 0) + amount
        self.balance[source] -= amount  # KeyError comes too late

    @query
    def all(self) -> dict[str, int]:
        return self.balance

    def helper(self) -> None:
        """Not marked: nobody may call it from outside."""


# --- what is served ---------------------------------------------------------------------------------------------------


def test_commands_change_the_object_and_queries_read_it() -> None:
    machine = ObjectMachine(Ledger, (5,))
    assert run(machine, "deposit", "ann", amount=3) == 3
    assert ask(machine, "all") == {"bank": 5, "ann": 3}


def test_only_marked_methods_can_be_called_and_only_as_what_they_are() -> None:
    machine = ObjectMachine(Ledger)
    for call, name in ((run, "helper"), (run, "all"), (ask, "deposit"), (run, "__init__"), (run, "nonsense")):
        with pytest.raises(BadCall, match=name):
            call(machine, name)


def test_wrong_arguments_are_the_callers_error() -> None:
    with pytest.raises(TypeError, match="amount"):
        run(ObjectMachine(Ledger), "deposit", "ann")


@pytest.mark.parametrize(
    "item", [b"nonsense", b"", pickle.dumps(3), [], [1], [["deposit"]], {"deposit": 1}, None, ["deposit", "ann", "ten"]]
)
def test_what_is_no_call_is_an_error_of_that_call_alone(item: Any) -> None:
    machine, broken_call = ObjectMachine(Ledger), msgspec.msgpack.encode(item)
    broken, sound = decode_results(machine.apply(pack([broken_call, encode_call("deposit", ("ann", 1), {})])))
    assert unwrap(sound) == 1
    with pytest.raises(Exception, match=r".*"):
        unwrap(broken)


def test_marked_methods_are_inherited_and_so_are_the_marks_of_overridden_ones() -> None:
    class Strict(Ledger):
        def deposit(self, who: str, amount: int) -> int:
            return super().deposit(who, abs(amount))

        def move(self, source: str, target: str, amount: int) -> None:
            super().move(source, target, 2 * amount)

        @query
        def careless_move(self, source: str, target: str, amount: int) -> None:
            """Only looks at it."""

        helper = Ledger.all
        all = None  # type: ignore[assignment]

    machine = ObjectMachine(Strict)
    assert machine.methods == {"deposit": True, "move": True, "careless_move": False, "helper": False}
    assert run(machine, "deposit", "ann", -3) == 3
    with pytest.raises(ValueError, match="not enough"):
        run(machine, "move", "ann", "bank", 2)
    assert ask(machine, "helper") == {"bank": 0, "ann": 3}, "what it had changed was rolled back"


def test_properties_and_class_methods_do_not_stand_in_the_way() -> None:
    class Shape:
        sides = 4

        def __init__(self) -> None:
            self.size = 1

        @property
        def broken(self) -> int:
            raise RuntimeError("a property is not run when methods are looked up")

        @classmethod
        @query
        def count_sides(cls) -> int:
            return cls.sides

        @staticmethod
        @query
        def unit() -> str:
            return "cm"

        @command
        def grow(self) -> int:
            self.size += 1
            return self.size

    machine = ObjectMachine(Shape)
    assert [run(machine, "grow"), ask(machine, "count_sides"), ask(machine, "unit")] == [2, 4, "cm"]


# --- classes that can not be served -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [staticmethod, classmethod, property])
def test_a_command_must_be_a_plain_method(kind: Any) -> None:
    def change(_: Any = None) -> None: ...

    for mark in (command, command(atomic=True), query):
        with pytest.raises(BadConfiguration, match="must be a plain method"):
            mark(kind(change))
    under = type("Under", (Ledger,), {"change": kind(command(change))})
    with pytest.raises(BadConfiguration, match=r"Under\.change must be a plain method"):
        marked_methods(under)
    with pytest.raises(BadConfiguration, match=r"Over\.deposit must be a plain method"):
        marked_methods(type("Over", (Ledger,), {"deposit": kind(change)}))


def test_a_query_must_not_be_a_property() -> None:
    with pytest.raises(BadConfiguration, match=r"Wide\.width must be a plain method"):
        marked_methods(type("Wide", (Ledger,), {"width": property(query(lambda _: 1))}))


def refusal_of(cls: Any) -> str:
    with pytest.raises(BadConfiguration) as caught:
        marked_methods(cls)
    return str(caught.value)


def test_a_class_without_a_command_or_an_object_in_its_place_is_refused() -> None:
    class Mute:
        @query
        def look(self) -> None: ...

    assert "no method marked with @rayraft.command" in refusal_of(Mute)
    assert "pass the class itself" in refusal_of(Ledger())


@pytest.mark.parametrize("base", [dict, list, set, str, int, bytes, deque])
def test_a_class_that_is_a_container_is_refused(base: type) -> None:
    cls = type("Mine", (base,), {"touch": command(lambda self: None)})
    assert "keep containers in attributes" in refusal_of(cls)


def test_a_method_that_waits_or_yields_is_refused() -> None:
    class Waits:
        @command
        async def later(self) -> None: ...

    class Yields:
        @command
        def items(self) -> Iterator[int]:
            yield 1

    class YieldsLater:
        @command
        async def items(self) -> AsyncIterator[int]:
            yield 1

    for cls in (Waits, Yields, YieldsLater):
        assert "plain method" in refusal_of(cls)


@pytest.mark.parametrize("name", [*sorted(RESERVED_NAMES), "_private", "__call__"])
def test_names_that_a_handle_uses_itself_are_refused(name: str) -> None:
    assert "handles use that name" in refusal_of(type("Taken", (), {name: command(lambda self: None)}))


def test_every_public_name_of_handles_and_batches_is_reserved() -> None:
    public = {name for cls in (rayraft.Handle, rayraft.Batch) for name in dir(cls) if not name.startswith("_")}
    assert public == RESERVED_NAMES


# --- what is raised ---------------------------------------------------------------------------------------------------


class Raiser:
    def __init__(self) -> None:
        self.calls = 0

    @command
    def fail(self, kind: str) -> None:
        self.calls += 1
        raise FAILURES[kind]()

    @command
    def give(self, kind: str) -> Any:
        self.calls += 1
        return {"generator": (n for n in range(3)), "lock": threading.Lock()}[kind]

    @query
    def count(self) -> int:
        return self.calls


class NeedsTwo(Exception):
    """Pickles, but does not load again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("both")


class HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class Unspeakable(HoldsALock):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class ExitsWhenPickled(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class TurnsIntoText(Exception):
    def __reduce__(self) -> Any:
        return str, ("not an exception",)


FAILURES: dict[str, Callable[[], BaseException]] = {
    kind.__name__: kind
    for kind in (
        KeyError, StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError,
        HoldsALock, Unspeakable, ExitsWhenPickled, TurnsIntoText,
    )
}  # fmt: skip
FAILURES["NeedsTwo"] = lambda: NeedsTwo(1, 2)


@pytest.mark.parametrize("kind", ["KeyError", "StopIteration", "RecursionError"])
def test_an_ordinary_exception_reaches_its_caller_as_it_is(kind: str) -> None:
    with pytest.raises(type(FAILURES[kind]())):
        run(ObjectMachine(Raiser), "fail", kind)


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_ends_a_process_does_not_end_the_node_but_reaches_the_caller(kind: str) -> None:
    machine = ObjectMachine(Raiser)
    with pytest.raises(type(FAILURES[kind]())):
        run(machine, "fail", kind)
    assert ask(machine, "count") == 1


@pytest.mark.parametrize("kind", ["NeedsTwo", "HoldsALock", "Unspeakable", "ExitsWhenPickled", "TurnsIntoText"])
def test_an_exception_that_can_not_travel_is_described_and_spoils_no_neighbour(kind: str) -> None:
    machine = ObjectMachine(Raiser)
    results = decode_results(machine.apply(pack([encode_call("fail", (name,), {}) for name in (kind, "KeyError")])))
    with pytest.raises(CommandFailed, match=kind):
        unwrap(results[0])
    with pytest.raises(KeyError):
        unwrap(results[1])
    assert ask(machine, "count") == 2


@pytest.mark.parametrize("kind", ["generator", "lock"])
def test_a_result_that_can_not_travel_is_an_error_and_the_machine_goes_on(kind: str) -> None:
    machine = ObjectMachine(Raiser)
    with pytest.raises(TypeError, match=kind):
        run(machine, "give", kind)
    assert ask(machine, "count") == 1


def check_commands_behind_a_roll_back_count() -> None:
    """In one packet: the object is another one after the roll back, and those behind it must find that one."""
    machine = ObjectMachine(Ledger)
    calls = [("deposit", ("ann", 1)), ("move", ("ann", "bob", 5)), ("deposit", ("ann", 2)), ("deposit", ("cid", 7))]
    results = decode_results(machine.apply(pack([encode_call(name, args, {}) for name, args in calls])))
    with pytest.raises(ValueError, match="not enough"):
        unwrap(results[1])
    assert [unwrap(result) for result in (results[0], *results[2:])] == [1, 3, 7]
    assert ask(machine, "all") == {"bank": 0, "ann": 3, "cid": 7}


def test_commands_behind_a_roll_back_in_the_same_packet_count() -> None:
    check_commands_behind_a_roll_back_count()


def test_what_a_failing_command_changed_stays_unless_it_is_atomic() -> None:
    machine = ObjectMachine(Ledger, (5,))
    with pytest.raises(KeyError):
        run(machine, "careless_move", "nobody", "ann", 7)
    assert ask(machine, "all") == {"bank": 5, "ann": 7}
    with pytest.raises(ValueError, match="not enough"):
        run(machine, "move", "bank", "bob", 6)
    assert ask(machine, "all") == {"bank": 5, "ann": 7}
    run(machine, "move", "bank", "bob", 5)
    assert ask(machine, "all") == {"bank": 0, "ann": 7, "bob": 5}


class Drafts:
    """Its ``__setstate__`` adds to what is there, and a command makes an attribute that was not there."""

    def __init__(self) -> None:
        self.text = "first"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @command(atomic=True)
    def scribble(self, error: bool) -> None:
        self.text = "second"
        self.margin = "notes"
        if error:
            raise SystemExit

    @query
    def attributes(self) -> dict[str, Any]:
        return dict(self.__dict__)


class SlottedDrafts:
    __slots__ = ("margin", "text")

    def __init__(self) -> None:
        self.text = "first"

    scribble = Drafts.scribble

    @query
    def attributes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if hasattr(self, name)}


@pytest.mark.parametrize("cls", [Drafts, SlottedDrafts])
def test_rolling_back_removes_attributes_that_the_command_made(cls: type) -> None:
    machine = ObjectMachine(cls)
    with pytest.raises(SystemExit):
        run(machine, "scribble", True)
    assert ask(machine, "attributes") == {"text": "first"}
    run(machine, "scribble", False)
    assert ask(machine, "attributes") == {"text": "second", "margin": "notes"}


# --- what leaves the machine is a copy --------------------------------------------------------------------------------


def test_a_result_is_what_it_was_when_its_command_returned() -> None:
    class Grows:
        def __init__(self) -> None:
            self.items: list[int] = []

        @command
        def add(self, item: int) -> list[int]:
            self.items.append(item)
            return self.items

    machine = ObjectMachine(Grows)
    results = decode_results(machine.apply(pack([encode_call("add", (n,), {}) for n in (1, 2)])))
    assert [unwrap(result) for result in results] == [[1], [1, 2]]
    unwrap(results[1]).append("scribbled")
    assert unwrap(results[1]) == [1, 2]
    assert run(machine, "add", 3) == [1, 2, 3]


def test_an_argument_that_the_caller_changes_later_does_not_change_the_state() -> None:
    machine = ObjectMachine(Journal)
    mine = [1]
    run(machine, "note", mine)
    mine.append(2)
    assert ask(machine, "all") == [[1]]


# --- snapshots of any class -------------------------------------------------------------------------------------------


class Plain:
    def __init__(self) -> None:
        self.n = 0

    @command
    def bump(self) -> int:
        self.n += 1
        return self.n


class Slotted:
    __slots__ = ("n", "never_set")

    def __init__(self) -> None:
        self.n = 0

    bump = Plain.bump


class SlottedChild(Slotted):
    """With slots from its parent and a dict of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = "kept"


class WithLock(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"n": self.n}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.n = state["n"]
        self.lock = threading.Lock()


class WithFalseState(Plain):
    """A state that is false is a state."""

    def __getstate__(self) -> int:
        return self.n - 2

    def __setstate__(self, state: int) -> None:
        self.n = state + 2


class TakesArguments(Plain):
    def __new__(cls, needed: int) -> TakesArguments:
        return super().__new__(cls)

    def __init__(self, needed: int) -> None:
        super().__init__()
        self.needed = needed


@pytest.mark.parametrize(
    ("cls", "args"),
    [(Plain, ()), (Slotted, ()), (SlottedChild, ()), (WithLock, ()), (WithFalseState, ()), (TakesArguments, (3,))],
)
def test_a_snapshot_brings_back_the_object_and_its_methods(cls: type, args: tuple[Any, ...]) -> None:
    machine = ObjectMachine(cls, args)
    assert [run(machine, "bump"), run(machine, "bump")] == [1, 2]
    other = restored(cls, saved(machine), *args)
    assert other.digest() == machine.digest()
    assert [run(machine, "bump"), run(other, "bump")] == [3, 3]
    assert other.digest() == machine.digest()


def test_a_class_without_any_state_can_be_saved() -> None:
    class Empty:
        __slots__ = ()

        def __setstate__(self, state: Any) -> None:
            raise AssertionError("pickle does not set a state that there is not")

        @command
        def touch(self) -> str:
            return "touched"

    assert run(restored(Empty, saved(ObjectMachine(Empty))), "touch") == "touched"


# --- where it was raised ----------------------------------------------------------------------------------------------


class Deep:
    def _dig(self, depth: int) -> None:
        if depth == 0:
            raise ValueError("rock")
        self._dig(depth - 1)

    @command
    def dig(self, depth: int) -> None:
        self._dig(depth)

    @query
    def look(self) -> None:
        raise KeyError("dark")


def notes_of(result: Any) -> str:
    with pytest.raises(Exception, match=r"rock|dark|no such") as caught:
        unwrap(result)
    return "\n".join(getattr(caught.value, "__notes__", []))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_an_exception_says_where_it_was_raised() -> None:
    machine = ObjectMachine(Deep)
    calls = [("dig", (0,)), ("nonsense", ()), ("dig", (100,))]
    answer = machine.apply(pack([encode_call(name, args, {}) for name, args in calls]))
    assert [notes_of(result) for result in decode_results(answer)] == ["", "", ""]
    near, none, far = map(notes_of, decode_results(answer + machine.take_places()))
    assert re.search(r'test_objects.py", line \d+, in dig\n .*test_objects.py", line \d+, in _dig$', near)
    assert none == "", "nobody's code has raised it"
    assert far.count("in _dig") == 20
    [seen] = decode_results(machine.query(pack([encode_call("look", (), {})])))
    assert "in look" in notes_of(seen)


def test_only_the_last_packet_and_the_first_that_have_raised_say_where() -> None:
    machine = ObjectMachine(Deep)
    machine.apply(pack([encode_call("dig", (0,), {})] * 100))
    machine.apply(pack([encode_call("dig", (0,), {})]))
    assert machine.take_places() == encode_places({0: places_in(machine, 1)[0]})
    assert sorted(places_in(machine, 100)) == list(range(MAX_PLACES))
    assert machine.take_places() == b""


def places_in(machine: ObjectMachine, calls: int) -> dict[int, str]:
    machine.apply(pack([encode_call("dig", (0,), {})] * calls))
    places: dict[int, str] = pickle.loads(machine.take_places())
    return places


# --- what can not be saved --------------------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("lock", "total")

    def __init__(self, lock: Any) -> None:
        self.total, self.lock = 0, lock

    @command
    def change(self) -> None: ...


class Secretive(Slotted):
    def __getstate__(self) -> Any:
        if self.lock is None:
            raise ValueError("no lock")
        return [self.lock]


@pytest.mark.parametrize(
    ("cls", "lock", "words"),
    [
        (Slotted, threading.Lock(), "the attribute 'lock' of Slotted"),
        (Slotted, [threading.Lock()], "the attribute 'lock' of Slotted"),
        (Secretive, threading.Lock(), "the state of Secretive"),
        (Secretive, None, r"the state of Secretive .*no lock"),
    ],
)
def test_what_can_not_be_pickled_is_named(cls: type, lock: Any, words: str) -> None:
    with pytest.raises(BadConfiguration, match=words):
        ObjectMachine(cls, (lock,)).check_saves()


def test_what_can_be_pickled_is_let_through() -> None:
    for machine in (ObjectMachine(Slotted, ("none",)), ObjectMachine(Ledger), ObjectMachine(Secretive, ("none",))):
        machine.check_saves()
