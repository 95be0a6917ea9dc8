"""Finding the command that is not deterministic: the same calls in two fresh processes, whose states are compared.

The two differ in all that a command must not depend on: the seed of hashes (so the order of sets), the clock, the
random numbers, the addresses of objects, the process. What does not differ between them is not found: files, the
network, environment variables, and whatever a global variable had kept from earlier calls.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import msgspec

from rayraft.errors import BadCall, CommandFailed, StateDiverged
from rayraft.machine.calls import decode_call, encode_call
from rayraft.machine.classes import unpack_class
from rayraft.machine.objects import UPGRADE, ObjectMachine, marked_methods
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import (
    NEW_SESSION,
    CommandBatch,
    decode_batch,
    encode_batch,
    encode_opening,
    encode_request,
    pack,
    request_commands,
    request_header,
    session_id,
)
from rayraft.raft.types import Entry, EntryKind

PARTS = 32  # digests that one pass takes: the log is searched in passes, each in one part of the last one's
SEEDS = (1, 2)
TTL = 1 << 40  # of that session, in milliseconds
PassResult: TypeAlias = "list[Mark]"
Call: TypeAlias = "tuple[str, Sequence[Any]] | tuple[str, Sequence[Any], dict[str, Any]]"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A state and what was applied to it: ``snapshot`` is what `ReplicatedMachine.save` wrote, empty for a new one."""

    snapshot: bytes
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first command after which two runs had different states; ``__init__`` when they had before the first one."""

    step: int  # counted from 1 over all commands that were applied
    index: int  # of its log entry
    call: str  # as it would be written in Python

    def __str__(self) -> str:
        if not self.step:
            return f"{self.call} is not deterministic: run twice it makes two states"
        return f"{self.call} (entry {self.index}) is not deterministic: applied twice it gives two states"


class Job(NamedTuple):
    """What a process is to look at: the same for every pass."""

    path: list[str]
    machine: bytes  # cloudpickle of (class, args, kwargs)
    evidence: Evidence


class Mark(NamedTuple):
    """The state after the command number ``step``."""

    step: int  # 0: of the new object
    entry: int  # its index
    digest: bytes
    call: str


def first_difference(machine: bytes, evidence: Evidence, *, timeout_s: float = 600.0) -> Difference | None:
    """The first command of ``evidence`` that two processes apply differently, or ``__init__``; None: they agree.

    ``machine`` is the cloudpickle of (class, args, kwargs). It takes as long as applying the entries twice per pass,
    with a few passes, and a digest of the state for each of `PARTS` parts. Raises CommandFailed when that can not be
    done, or is not done within ``timeout_s`` seconds.
    """
    low, high = 0, sum(_count(entry) for entry in evidence.entries)  # the states are equal after ``low`` commands
    if not high:
        return None
    with _processes(Job(sys.path, machine, evidence), timeout_s) as processes:
        while True:
            stride = max(1, -(-(high - low) // PARTS))
            one, other = _pass(processes, (low, high, stride))
            differing = next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a.digest != b.digest), None)
            if differing is None:
                return None
            if stride == 1 or not one[differing].step:
                return Difference(one[differing].step, one[differing].entry, one[differing].call)
            low, high = (one[differing - 1].step if differing else low), one[differing].step


def check_determinism(
    machine: type, calls: Sequence[Call], *, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
) -> None:
    """Run ``calls``, each (name, args) or (name, args, kwargs), in two fresh processes; for your own tests.

    Raises StateDiverged, which names the first command after which the two objects differ (or ``__init__``), or a query
    that has changed the object, or says that the object is another one after it was saved and restored, as it is in
    a snapshot. Raises BadCall for what is neither a command nor a query.
    """
    methods = marked_methods(machine)
    opening = encode_opening(1, TTL)
    batches, session = [opening], session_id(request_header(opening).number, index=1, place=0)
    commands: list[int] = []  # their numbers among the calls
    queries: dict[int, list[bytes]] = {}  # by the index of the entry after which they are made
    for number, (name, arguments, *keywords) in enumerate(calls, 1):
        if name not in methods:
            raise BadCall(f"{machine.__name__} has no such command or query: {name}")
        call = encode_call(name, tuple(arguments), *keywords or [{}])
        if methods[name].is_command:
            batches.append(encode_request(session, len(commands) + 1, len(commands), [call]))
            commands.append(number)
        else:
            queries.setdefault(len(batches), []).append(call)
    entries = [
        Entry(index, 1, EntryKind.COMMAND, encode_batch(CommandBatch(0, [request])))
        for index, request in enumerate(batches, 1)
    ]
    found = first_difference(cloudpickle.dumps((machine, tuple(args), kwargs or {})), Evidence(b"", entries))
    if found is not None:
        if found.step:
            what, then = f"call {commands[found.step - 1]} of {len(calls)}, {found.call},", "made the same calls"
        else:
            what, then = f"{machine.__name__}.__init__", "made the object"
        raise StateDiverged(
            f"{what} is not deterministic: two processes that {then} have different states after it. It must depend on "
            "nothing but the state and its arguments: pass times, random numbers and ids in as arguments, and go "
            "through sets in sorted order"
        )
    _check_here(ObjectMachine(machine, args, kwargs), entries, queries)


def _check_here(machine: ObjectMachine, entries: list[Entry], queries: Mapping[int, list[bytes]]) -> None:
    """Queries must change nothing, and a node that starts from a snapshot must have the state that it was taken of."""
    replicated, limit = ReplicatedMachine(machine), sys.getrecursionlimit()
    for entry in entries:
        replicated.apply(entry)
        for query in queries.get(entry.index, ()):
            _check_query(machine, query)
    sys.setrecursionlimit(limit)  # which `apply` sets: this is the process of the caller
    before, stream = machine.digest(), io.BytesIO()
    machine.save(stream)
    stream.seek(0)
    machine.restore(stream)
    if machine.digest() != before:
        raise StateDiverged(
            "the object differs from itself after it was saved and restored, as it is by snapshots: see what its "
            "__getstate__ leaves out, or which attribute does not pickle to the same value"
        )


def _check_query(machine: ObjectMachine, query: bytes) -> None:
    before = machine.digest()
    machine.query(pack([query]))
    if machine.digest() != before:
        raise StateDiverged(
            f"the query {describe(query)} has changed the object: it runs on one replica only, so it must change "
            "nothing. Mark it with @rayraft.command, or let it work on a copy"
        )


def _count(entry: Entry) -> int:
    """The commands in an entry; some may turn out to be repeats."""
    if entry.kind is not EntryKind.COMMAND or not entry.data:
        return 0
    return sum(_commands_in(request) for request in decode_batch(entry.data).requests)


def _commands_in(request: bytes) -> int:
    if request_header(request).session == NEW_SESSION:
        return 0
    try:
        return len(request_commands(request))
    except msgspec.DecodeError:  # it was answered as malformed
        return 0


# --- the two processes ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _processes(job: Job, timeout_s: float) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "rayraft.machine.replay", str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for place, seed in enumerate(SEEDS)
    ]

    def kill() -> None:
        for process in processes:
            process.kill()

    timer = threading.Timer(timeout_s, kill)
    timer.daemon = True
    timer.start()
    try:
        for process in processes:
            _tell(process, job)
        yield processes
    finally:
        timer.cancel()
        kill()
        for process in processes:
            process.communicate()


def _pass(processes: list[subprocess.Popen[bytes]], span: tuple[int, int, int]) -> list[PassResult]:
    for process in processes:
        _tell(process, span)
    return [_hear(process) for process in processes]


def _tell(process: subprocess.Popen[bytes], item: Any) -> None:
    assert process.stdin is not None
    try:
        pickle.dump(item, process.stdin)
        process.stdin.flush()
    except OSError as error:
        raise _ended(process) from error


def _hear(process: subprocess.Popen[bytes]) -> PassResult:
    assert process.stdout is not None
    try:
        result: PassResult = pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError) as error:
        raise _ended(process) from error
    return result


def _ended(process: subprocess.Popen[bytes]) -> CommandFailed:
    return CommandFailed(f"the commands could not be applied again: the process ended with status {process.poll()}")


def describe(command: bytes) -> str:
    """A command as it would be written in Python."""
    call = decode_call(command)
    if call.method == UPGRADE:
        return f"the upgrade to {unpack_class(call.args[1]).name}"
    arguments = [_short(value) for value in call.args]
    arguments += [f"{name}={_short(value)}" for name, value in call.kwargs.items()]
    return f"{call.method}({', '.join(arguments)})"


def _short(value: Any, limit: int = 80) -> str:
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
