"""What the labs' nodes apply to, and the rule that every lab watches: all apply the same entries in the same order."""

from __future__ import annotations

import struct
from typing import BinaryIO

import msgspec

from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import ObjectMachine, command
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import RequestKey
from rayraft.raft.types import Entry, EntryKind

_INDEX = struct.Struct("<Q")


class Ledger:
    """What was applied at each index, by whoever came first; all others must agree (§5.4.3)."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}

    def applied(self, entry: Entry, after: int) -> None:
        assert entry.index == after + 1, f"entry {entry.index} was applied after {after}"
        known = self.entries.setdefault(entry.index, entry)
        assert known == entry, f"at {entry.index} one node applied {known}, another one {entry}"


class WatchedMachine(ReplicatedMachine):
    """A replicated machine that accounts for every entry to the ledger, also across snapshots."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ObjectMachine(Store))
        self.ledger = ledger
        self.applied = 0

    def apply(self, entry: Entry) -> list[tuple[RequestKey, bytes]]:
        self.ledger.applied(entry, self.applied)
        self.applied = entry.index
        return super().apply(entry)

    def save(self, stream: BinaryIO) -> None:
        stream.write(_INDEX.pack(self.applied))
        super().save(stream)

    def restore(self, stream: BinaryIO) -> None:
        (self.applied,) = _INDEX.unpack(stream.read(_INDEX.size))
        super().restore(stream)


class LogMachine(WatchedMachine):
    """Its state is the commands themselves, by index: None where an entry carries none. For the labs of the log."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.commands: list[bytes | None] = []

    def apply(self, entry: Entry) -> list[tuple[RequestKey, bytes]]:
        self.ledger.applied(entry, self.applied)
        self.applied = entry.index
        self.commands.append(entry.data if entry.kind is EntryKind.COMMAND else None)
        return []

    def save(self, stream: BinaryIO) -> None:
        stream.write(_INDEX.pack(self.applied) + msgspec.msgpack.encode(self.commands))

    def restore(self, stream: BinaryIO) -> None:
        (self.applied,) = _INDEX.unpack(stream.read(_INDEX.size))
        self.commands = msgspec.msgpack.decode(stream.read(), type=list[bytes | None])
        for index, data in enumerate(self.commands, 1):
            known = self.ledger.entries[index]
            assert data == (known.data if known.kind is EntryKind.COMMAND else None), f"a snapshot differs at {index}"


class Store(KeyValue):
    """The labs' key-value service: put, get and append."""

    @command
    def append(self, key: str, value: str) -> None:
        self._set(key, self._data.get(key, "") + value)
