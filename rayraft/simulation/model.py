"""What the machine must do, told a second time and independently: plain dicts, no code shared with `machine`.

Only the bytes of requests and replies are read with the real codec.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

from rayraft.machine.calls import decode_call, decode_results
from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import command
from rayraft.machine.requests import (
    LAST,
    NEW_SESSION,
    RequestKey,
    Status,
    decode_batch,
    request_commands,
    request_header,
)
from rayraft.raft.types import Entry, EntryKind

HOUR = 3_600_000  # ms

Replies: TypeAlias = list[tuple[RequestKey, bytes]]


class Notebook(KeyValue):
    """The replicated object of the simulator: a key-value store with lists."""

    @command
    def append(self, key: str, item: Any) -> int:
        items = self._data.get(key, [])
        self._set(key, [*items, item])
        return len(items) + 1


class Model:
    """The state after every committed entry in order, and the first reply to each request.

    1. A request of a session changes the state only when its number is one above the last one that did.
    2. The first reply to (session, number) is the only successful one there is.
    3. A session lives while the log's time has not passed its last use by more than its time to live, and nobody has
       ended it.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.history: list[tuple[dict[str, Any], dict[int, int]]] = [({}, {})]  # state and sessions after each index
        self.first_reply: dict[RequestKey, bytes] = {}
        self._applied: dict[int, int] = {}
        self._time = 0  # the newest in the log
        self._used: dict[int, int] = {}  # when, by that time
        self._lifetime: dict[int, int] = {}
        self._confirmed: dict[int, int] = defaultdict(int)

    def apply(self, entry: Entry, replies: Replies) -> str:
        """Take in the next entry and the replies a node gave to it; what is wrong with them, or an empty string."""
        wrong = self._entry(entry, replies)
        self.history.append((dict(self.state), dict(self._applied)))  # no value in them is ever changed in place
        return wrong

    def _entry(self, entry: Entry, replies: Replies) -> str:
        if entry.kind is not EntryKind.COMMAND:
            return "a reply to an entry without commands" if replies else ""
        batch = decode_batch(entry.data)
        requests = batch.requests
        self._pass_time(batch.time)
        if len(requests) != len(replies):
            return f"{len(replies)} replies to {len(requests)} requests"
        for request, (key, answer) in zip(requests, replies, strict=True):
            wrong = self._request(request, key, answer)
            if wrong:
                return f"{key}: {wrong}"
        return ""

    def _pass_time(self, time: int) -> None:
        """Who was silent for longer than its time to live, by the log's time alone, is forgotten (thesis §6.3)."""
        self._time = max(self._time, time)
        for session in [one for one, used in self._used.items() if used + self._lifetime[one] < self._time]:
            del self._used[session], self._applied[session]

    def lives(self, session: int) -> bool:
        return session in self._applied

    def _request(self, request: bytes, key: RequestKey, answer: bytes) -> str:
        session, number, answered = header = request_header(request)
        if header.key != key:
            return f"the reply is for {key}"
        status, body = Status(answer[0]), answer[1:]
        if session == NEW_SESSION:
            opened = int.from_bytes(body, "little")
            if status is not Status.OK or opened in self._applied:
                return f"no new session: {status.name} {opened}"
            self._applied[opened] = 0
            self._used[opened], self._lifetime[opened] = self._time, answered or HOUR
            return ""
        if session not in self._applied:
            return "" if status is Status.SESSION_EXPIRED else f"{status.name} to a session that is not open"
        if number == LAST:
            del self._used[session], self._applied[session]
            self.first_reply[key] = answer
            return "" if status is Status.OK else f"{status.name} to the end of a session"
        if number <= self._applied[session]:
            return self._repeated(header.key, answer)
        if number > self._applied[session] + 1:
            return "" if status is Status.OUT_OF_ORDER else f"{status.name} to a number out of order"
        self._applied[session] = number
        self._used[session] = self._time
        self._confirmed[session] = max(self._confirmed[session], answered)
        self.first_reply[key] = answer
        expected = [self._run(data) for data in request_commands(request)]
        if status is not Status.OK or decode_results(body) != expected:
            return f"{status.name} {decode_results(body) if status is Status.OK else body!r} instead of {expected}"
        return ""

    def _repeated(self, key: RequestKey, answer: bytes) -> str:
        """The first reply again; once the client has confirmed that one, any refusal will do."""
        session, number = key
        if answer == self.first_reply[key]:
            return ""
        if number <= self._confirmed[session] and answer[0] != Status.OK:
            return ""
        return f"a repeat gets {answer!r}, the first answer was {self.first_reply[key]!r}"

    def _run(self, data: bytes) -> Any:
        method, args, _ = decode_call(data)
        key, state = args[0], self.state
        if method == "increment":
            state[key] = state.get(key, 0) + args[1]
            return state[key]
        if method == "append":
            state[key] = [*state.get(key, []), args[1]]
            return len(state[key])
        if method == "compare_and_swap":
            if state.get(key) != args[1]:
                return False
            state[key] = args[2]
            return True
        assert method == "put", method
        state[key] = args[1]
        return None
