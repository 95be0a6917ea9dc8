"""Reads the reference library's scenario files: a story of commands, each with the output that is expected.

A file is a sequence of stanzas; ``#`` begins a comment line between them::

    command positional key=value key=(a,b)
    input, any number of lines
    ----
    expected output, up to a blank line

Output that contains blank lines is enclosed in doubled separators: ``----`` twice before it and twice after it.

The files are another project's and stay outside this one: ``RAYRAFT_SCENARIOS`` names their directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from rayraft.raft.membership import Change, ChangeKind

SEPARATOR = "----"

_ROOT = Path(__file__).resolve().parents[1]
_ARGUMENT = re.compile(r"(?P<key>[^\s=()]+)(?:=(?:\((?P<list>[^()]*)\)|(?P<value>[^\s()]*)))?(?=\s|$)\s*")


class ScenarioError(ValueError):
    """A scenario file does not have the form described above."""


@dataclass(frozen=True, slots=True)
class Stanza:
    """One command of a scenario and what the reference answered."""

    command: str
    positional: tuple[str, ...] = ()
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)  # key=value is a tuple of one
    input: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    where: str = ""  # file:line, for messages

    def option(self, key: str, default: str = "") -> str:
        """The value of an option that takes exactly one."""
        values = self.options.get(key, (default,))
        if len(values) != 1:
            raise ScenarioError(f"{self.where}: {key} takes one value, not {len(values)}")
        return values[0]


def directory() -> Path:
    """Where the scenarios are expected to be."""
    return Path(os.environ.get("RAYRAFT_SCENARIOS") or _ROOT.parent / "shared" / "scenarios")


def scenario_files(subfolder: str) -> list[ParameterSet]:
    """A pytest parameter for each file of ``subfolder``; a single one that skips where there are none."""
    folder = directory() / subfolder
    files = sorted(folder.glob("*.txt"))
    if not files:
        reason = f"no scenario files in {folder}: set RAYRAFT_SCENARIOS to their directory"
        return [pytest.param(folder, id="absent", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(path, id=path.stem) for path in files]


def read(path: Path) -> list[Stanza]:
    """Every stanza of a file, in order."""
    return list(parse(path.read_text(encoding="utf-8"), path.name))


def parse(text: str, name: str = "scenario") -> Iterator[Stanza]:
    """The stanzas of ``text``; ``name`` is what messages call it."""
    lines = _Lines(text.splitlines(), name)
    while (directive := lines.next_directive()) is not None:
        where = lines.where
        command, positional, options = _parse_directive(directive, where)
        given = lines.until_separator()
        yield Stanza(command, positional, options, given, lines.expected(), where)


_WORDS = {"v": ChangeKind.ADD_VOTER, "l": ChangeKind.ADD_LEARNER, "r": ChangeKind.REMOVE, "w": ChangeKind.ADD_WITNESS}


def changes_of(*words: str) -> tuple[Change, ...]:
    """``v1 l2 r3``, and ``w4`` for a witness; ``u5`` ("update") changes nothing, so there is no `Change` for it."""
    changes = []
    for word in " ".join(words).split():
        if not re.fullmatch(r"[vlrwu]\d+", word):
            raise ScenarioError(f"no change of membership: {word!r}")
        if word[0] != "u":
            changes.append(Change(_WORDS[word[0]], int(word[1:])))
    return tuple(changes)


def _parse_directive(text: str, where: str) -> tuple[str, tuple[str, ...], dict[str, tuple[str, ...]]]:
    command, _, rest = text.partition(" ")
    positional: list[str] = []
    options: dict[str, tuple[str, ...]] = {}
    at, rest = 0, rest.strip()
    while at < len(rest):
        argument = _ARGUMENT.match(rest, at)
        if argument is None:
            raise ScenarioError(f"{where}: can not read the arguments from {rest[at:]!r}")
        at = argument.end()
        key, listed, value = argument["key"], argument["list"], argument["value"]
        if key in options:
            raise ScenarioError(f"{where}: {key} is given twice")
        if listed is not None:
            options[key] = tuple(item.strip() for item in listed.split(",")) if listed.strip() else ()
        elif value is not None:
            options[key] = (value,)
        else:
            positional.append(key)
    return command, tuple(positional), options


class _Lines:
    """A cursor over the lines of one file."""

    def __init__(self, lines: list[str], name: str) -> None:
        self._lines = lines
        self._name = name
        self._at = 0  # lines consumed, hence the number of the last one read

    @property
    def where(self) -> str:
        return f"{self._name}:{self._at}"

    def next_directive(self) -> str | None:
        while (line := self._next()) is not None:
            line = line.strip()
            if line and not line.startswith("#"):
                return line
        return None

    def until_separator(self) -> tuple[str, ...]:
        start = self.where
        taken: list[str] = []
        while (line := self._next()) != SEPARATOR:
            if line is None:
                raise ScenarioError(f"{start}: the stanza has no {SEPARATOR}")
            taken.append(line)
        return tuple(taken)

    def expected(self) -> tuple[str, ...]:
        if self._peek() == SEPARATOR:
            self._next()
            return self._until_double_separator()
        taken: list[str] = []
        while (line := self._next()) is not None and line.strip():
            taken.append(line)
        return tuple(taken)

    def _until_double_separator(self) -> tuple[str, ...]:
        taken: list[str] = []
        while True:
            taken.extend(self.until_separator())
            if self._peek() == SEPARATOR:
                self._next()
                return tuple(taken)
            taken.append(SEPARATOR)  # a single one belongs to the output

    def _peek(self) -> str | None:
        return self._lines[self._at] if self._at < len(self._lines) else None

    def _next(self) -> str | None:
        line = self._peek()
        if line is not None:
            self._at += 1
        return line
