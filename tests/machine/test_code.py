"""An edit of a class shows in the hash of its code; where it came from does not."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from rayraft.machine.classes import load_class, pack_class
from rayraft.machine.code import code_digest
from rayraft.machine.keyvalue import KeyValue

SOURCE = """
class Purse:
    limit = 10

    def __init__(self):
        self.total = 0

    def add(self, amount=1):
        "Add an amount."
        if self.kind(amount) in {"one", "two", "few"}:
            self.total += amount
        return sorted((lambda: [self.total, amount])())

    def kind(self, amount):
        return "few"

    @property
    def rich(self):
        return self.total > 9

    @staticmethod
    def help():
        return "help"

    @decorate
    def take(self):
        self.total -= 1
"""


def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def made(source: str) -> type:
    namespace: dict[str, Any] = {"decorate": decorate, "__name__": "purses"}
    exec(source, namespace)
    cls: type = namespace["Purse"]
    return cls


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("+= amount", "+= 10 * amount"),
        ("+= amount", "+= self.limit"),
        ("self.total = 0", "self.total = 1"),
        ("self.total = 0", "self.amount = 0"),
        ("amount=1", "amount=2"),
        ("limit = 10", "limit = 11"),
        ('return "few"', 'return "many"'),
        ("> 9", "> 8"),
        ('return "help"', 'return "helped"'),
        ("-= 1", "-= 2"),
        ("[self.total, amount]", "[amount, self.total]"),
        ('"two", ', ""),
    ],
)
def test_an_edit_shows(before: str, after: str) -> None:
    assert before in SOURCE
    assert code_digest(made(SOURCE)) != code_digest(made(SOURCE.replace(before, after, 1)))


def test_an_edit_of_a_base_shows_if_that_is_of_the_same_package() -> None:
    one, other = made(SOURCE), made(SOURCE.replace("-= 1", "-= 2"))
    for package, shows in (("purses", True), ("purses.more", True), ("wallets", False)):
        digests = {code_digest(type("Mine", (base,), {"__module__": package})) for base in (one, other)}
        assert (len(digests) > 1) is shows


def test_another_version_of_rayraft_does_not() -> None:
    before, after = (type("Store", (KeyValue,), {"__module__": "rayraft.more", "step": step}) for step in (1, 2))
    assert code_digest(before) == code_digest(after)


@pytest.mark.parametrize(("before", "after"), [("\n", "\n\n# why\n"), ("an amount", "some coins")])
def test_comments_lines_and_docstrings_do_not(before: str, after: str) -> None:
    assert code_digest(made(SOURCE)) == code_digest(made(SOURCE.replace(before, after)))


def test_how_it_travels_does_not() -> None:
    cls = made(SOURCE)
    known = code_digest(cls)
    assert known
    assert code_digest(cloudpickle.loads(cloudpickle.dumps(cls))) == known
    assert code_digest(load_class(pack_class(cls), cls).cls) == known


def test_every_process_makes_the_same() -> None:
    script = "from tests.machine.test_code import *; print(code_digest(made(SOURCE)))"
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{code_digest(made(SOURCE))}\n"}


def test_what_can_not_be_looked_at_is_not_known() -> None:
    class Odd:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise ValueError

    class Purse:
        def add(self, amount: Any = Odd()) -> None: ...  # noqa: B008

    assert code_digest(Purse) == ""
