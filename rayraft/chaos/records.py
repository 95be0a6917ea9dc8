"""What clients and observers on the machines write down, line by line, in a directory that no fault touches.

Times are of the monotonic clock, which all machines of the bed share.

1. A line is complete when it ends; what follows the last end of line was cut off by the death of its writer.
2. An operation is written down before its request leaves, and its answer after it came: what is missing is unknown.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import msgspec

from rayraft.history import History, Kind, Operation


class Begun(msgspec.Struct, frozen=True, tag="begun", omit_defaults=True):
    at: float
    client: str
    number: int
    kind: Kind
    key: str
    input: Any = None


class Ended(msgspec.Struct, frozen=True, tag="ended", omit_defaults=True):
    at: float
    client: str
    number: int
    output: Any = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    at: float
    client: str
    number: int
    error: str
    certain: bool  # it did not happen, and never will


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    """What the node of a machine said of itself."""

    at: float
    machine: int
    node: int
    pid: int
    state: str
    role: str
    term: int
    leader: int
    serves: bool
    first: int  # of its log
    last: int
    commit: int
    applied: int
    voters: list[int]
    error: str


Record: TypeAlias = Begun | Ended | Failed | Seen


class Journal:
    """A file that is only written to at its end, by one process; each record is in the file when `write` returns."""

    _encoder: ClassVar = msgspec.json.Encoder()

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record: Record) -> None:
        os.write(self._file, self._encoder.encode(record) + b"\n")


class Tail:
    """Reads the journals of a directory while they grow."""

    _decoder: ClassVar = msgspec.json.Decoder(Record)

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}

    def news(self) -> Iterator[Record]:
        for path in sorted(self._directory.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                data = file.read()
            end = data.rfind(b"\n") + 1
            self._offsets[path] = self._offsets.get(path, 0) + end
            for line in data[:end].splitlines():
                yield self._decoder.decode(line)


class Books:
    """What was asked and answered so far."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, int], Begun] = {}
        self._ended: dict[tuple[str, int], Ended] = {}
        self.failures: list[tuple[Begun, Failed]] = []
        self.acknowledged: list[tuple[float, str]] = []  # when a command was, and of which client

    def add(self, record: Record) -> None:
        if isinstance(record, Begun):
            self._begun[record.client, record.number] = record
        elif isinstance(record, Ended):
            self._ended[record.client, record.number] = record
            if self._begun[record.client, record.number].kind is not Kind.READ:
                self.acknowledged.append((record.at, record.client))
        elif isinstance(record, Failed):
            self.failures.append((self._begun[record.client, record.number], record))
            if record.certain:
                del self._begun[record.client, record.number]

    @property
    def errors(self) -> dict[str, int]:
        """What went wrong, and how often."""
        return dict(Counter(failed.error for _, failed in self.failures))

    def history(self) -> History:
        return History(self._operation(begun, self._ended.get(key)) for key, begun in self._begun.items())

    @staticmethod
    def _operation(begun: Begun, ended: Ended | None) -> Operation:
        given = tuple(begun.input) if isinstance(begun.input, list) else begun.input
        if ended is None:
            return Operation(begun.client, begun.kind, begun.key, given, None, begun.at)
        output = tuple(ended.output) if isinstance(ended.output, list) else ended.output
        return Operation(begun.client, begun.kind, begun.key, given, output, begun.at, ended.at)


def lost_commands(history: History, final: dict[str, Any], read_at: float) -> list[Operation]:
    """What was added to lists and numbers, and acknowledged, before ``read_at``, and was not there then."""
    lost: list[Operation] = []
    for key, operations in history.by_key().items():
        done = [each for each in operations if each.returned is not None and each.returned < read_at]
        items = final.get(key) if isinstance(final.get(key), tuple) else ()
        lost += [each for each in done if each.kind is Kind.APPEND and each.input not in (items or ())]
        increments = [each for each in done if each.kind is Kind.INCREMENT]
        missing = sum(each.input for each in increments) - (final.get(key) or 0) if increments else 0
        lost += increments[: max(0, missing)]  # which of them, nobody can tell
    return lost


def repeated_commands(final: dict[str, Any]) -> list[str]:
    """Items that are in a list more than once: each was added by one command."""
    return [
        f"{key}: {item}"
        for key, items in final.items()
        if isinstance(items, tuple)
        for item in set(items)
        if items.count(item) > 1
    ]
