"""Classes of scripts and notebooks: each process that runs one has other classes of the same names."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from rayraft.errors import BadCall
from rayraft.machine.objects import ObjectMachine
from tests.machine.support import ask, run, saved

SCRIPT = """
import enum
from dataclasses import dataclass

import rayraft


class Kind(enum.Enum):
    DEPOSIT = 1
    WITHDRAW = 2


@dataclass(frozen=True)
class Entry:
    kind: Kind
    amount: int


class Book:
    def __init__(self, *first: Entry) -> None:
        self.entries = list(first)

    @rayraft.command
    def enter(self, entry: Entry) -> bool:
        self.entries.append(entry)
        return entry.kind is Kind.WITHDRAW

    @rayraft.command
    def keep(self, value: object) -> object:
        self.entries.append(value)

    @rayraft.query
    def find(self, kind: Kind, amount: int) -> list[int]:
        entry = Entry(kind, amount)
        return [place for place, each in enumerate(self.entries) if each == entry and each.kind is kind]

    @rayraft.query
    def size(self) -> int:
        return len(self.entries)


class Stray:
    pass
"""
Script = Callable[[], Any]


@pytest.fixture
def script() -> Script:
    """The script's names, as in another process that runs it."""

    def start() -> Any:
        cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()  # what that process would not know
        cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.clear()
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(SCRIPT, scope)
        return SimpleNamespace(**scope)

    return start


def founded_by(driver: Any, *args: Any) -> ObjectMachine:
    return ObjectMachine.founded(cloudpickle.dumps((driver.Book, args, {})))


def test_the_machines_own_classes_are_the_same_whichever_process_calls(script: Script) -> None:
    """By tracker alone they were those of the process that had started the group, and what others passed equalled
    nothing: the command went another way, and nobody was told.
    """
    first = script()
    machine = founded_by(first, first.Entry(first.Kind.DEPOSIT, 1))
    for driver in (first, script(), script()):
        assert run(machine, "enter", driver.Entry(driver.Kind.WITHDRAW, 5)) is True
        assert run(machine, "enter", driver.Entry(driver.Kind.DEPOSIT, 5)) is False
    late = script()
    assert ask(machine, "find", late.Kind.WITHDRAW, 5) == [1, 3, 5]
    assert ask(machine, "find", late.Kind.DEPOSIT, 1) == [0]


def test_a_state_that_was_saved_is_of_the_classes_of_the_script_that_resumes_it(script: Script) -> None:
    first = script()
    machine = founded_by(first)
    run(machine, "enter", first.Entry(first.Kind.WITHDRAW, 5))
    data, again = saved(machine), script()
    resumed = founded_by(again)
    resumed.restore(io.BytesIO(data))
    assert ask(resumed, "find", again.Kind.WITHDRAW, 5) == [0]
    assert resumed.digest() == machine.digest()


def test_an_object_of_a_class_that_only_the_caller_has_is_refused(script: Script) -> None:
    driver = script()
    machine = founded_by(driver)
    for argument in (driver.Stray(), driver.Stray, [driver.Stray()], lambda: driver.Stray()):
        with pytest.raises(BadCall, match=r"of __main__\.Stray, .* module that the nodes can import"):
            run(machine, "keep", argument)
    assert ask(machine, "size") == 0


def test_a_function_of_the_caller_may_be_passed(script: Script) -> None:
    machine = founded_by(script())
    run(machine, "keep", lambda number: 2 * number)
    assert ask(machine, "size") == 1
