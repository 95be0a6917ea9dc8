"""A machine in the hands of a test: calls by name, snapshots as bytes."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import settings

from rayraft.machine.calls import decode_results, encode_call, unwrap
from rayraft.machine.objects import ObjectMachine, command, query
from rayraft.machine.protocol import StateMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import NEW_SESSION, CommandBatch, RequestKey, Status, encode_batch, encode_request, pack
from rayraft.raft.types import Entry, EntryKind

QUICK = settings(max_examples=40, deadline=None)  # a busy machine is no failure


def run(machine: StateMachine, method: str, *args: Any, **kwargs: Any) -> Any:
    """What a command returns; raises what it raises."""
    return unwrap(decode_results(machine.apply(pack([encode_call(method, args, kwargs)])))[0])


def ask(machine: StateMachine, method: str, *args: Any, **kwargs: Any) -> Any:
    """What a query returns; raises what it raises."""
    return unwrap(decode_results(machine.query(pack([encode_call(method, args, kwargs)])))[0])


def saved(machine: StateMachine | ReplicatedMachine) -> bytes:
    stream = io.BytesIO()
    machine.save(stream)
    return stream.getvalue()


def restored(cls: type, data: bytes, *args: Any) -> ObjectMachine:
    machine = ObjectMachine(cls, args)
    machine.restore(io.BytesIO(data))
    return machine


class Journal:
    """Remembers every note in order: what was lost, doubled or reordered shows."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    @command
    def note(self, what: Any) -> int:
        self.notes.append(what)
        return len(self.notes)

    @command
    def note_set(self, *items: str) -> set[str]:
        self.notes.append(set(items))
        return set(items)

    @query
    def all(self) -> list[Any]:
        return self.notes


class Log:
    """Feeds a machine with entries, as a committed log does."""

    def __init__(self, machine: ReplicatedMachine) -> None:
        self.machine = machine
        self.index = 0

    def commit(self, *requests: bytes, time: int = 0) -> list[tuple[RequestKey, bytes]]:
        """One entry with these requests; their replies."""
        self.index += 1
        return self.machine.apply(
            Entry(self.index, 1, EntryKind.COMMAND, encode_batch(CommandBatch(time, list(requests))))
        )

    def open_session(self, nonce: int = 7) -> int:
        [(_, answer)] = self.commit(encode_request(NEW_SESSION, nonce, 0, []))
        assert answer[0] == Status.OK
        return int.from_bytes(answer[1:], "little")

    def send(self, session: int, number: int, method: str, *args: Any, answered: int = 0, time: int = 0) -> bytes:
        """One request with one command; its encoded reply."""
        request = encode_request(session, number, answered, [encode_call(method, args, {})])
        [(key, answer)] = self.commit(request, time=time)
        assert key == (session, number)
        return answer


def replicated(cls: type = Journal) -> ReplicatedMachine:
    return ReplicatedMachine(ObjectMachine(cls))


def value(answer: bytes) -> Any:
    """The result of the one command of a request that went well."""
    assert answer[0] == Status.OK, Status(answer[0])
    [result] = decode_results(answer[1:])
    return unwrap(result)
