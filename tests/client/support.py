"""The nodes as a client sees them, in the hands of a test: scripted ones, and a whole group on a bad network."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from rayraft.client.client import Client
from rayraft.client.config import ClientConfig
from rayraft.client.endpoints import Done
from rayraft.client.lane import Clocks
from rayraft.client.leader import View
from rayraft.client.results import Result
from rayraft.machine.calls import decode_call, encode_call, encode_results, freeze
from rayraft.machine.requests import (
    RequestHeader,
    Status,
    not_leader,
    query_packet,
    reply,
    request_commands,
    request_header,
    unpack,
)
from rayraft.machine.sessions import DEFAULT_TTL_MS
from rayraft.raft.types import NodeId
from rayraft.replica.admission import Admission
from tests.machine.support import Journal, Log, ask, replicated

PATIENCE = 30.0  # seconds that a test waits for what must come; nothing waits so long that goes well
SESSION = 77
NODES = (1, 2, 3)


@dataclass(frozen=True)
class Call:
    """A call that reached a node and waits there for its answer."""

    kind: str
    node: NodeId
    data: bytes
    done: Done

    @property
    def header(self) -> RequestHeader:
        return request_header(self.data)

    @property
    def contents(self) -> list[Any]:
        """The first argument of every command or query in it."""
        calls = unpack(query_packet(self.data)) if self.kind == "query" else request_commands(self.data)
        return [decode_call(call).args[0] for call in calls]

    def ok(self) -> None:
        """Served: each command gives back its argument."""
        self.done(reply(Status.OK, encode_results([freeze(content) for content in self.contents])))

    def refuse(self, status: Status) -> None:
        self.done(reply(status))

    def not_leader(self, leader: NodeId = 0, term: int = 0) -> None:
        self.done(not_leader(leader, term))

    def fail(self) -> None:
        self.done(ConnectionError("the node is gone"))


class Deferred:
    """A call whose answer nobody takes before `wait` or `leave`, as of Ray; each answer is, where several come."""

    def __init__(self, done: Done, patience: float = PATIENCE) -> None:
        self._done = done
        self._patience = patience
        self._answers: SimpleQueue[bytes | BaseException] = SimpleQueue()
        self._lock = threading.Lock()
        self.left = False
        self.takers: list[threading.Thread] = []

    def _take(self, answer: bytes | BaseException) -> None:
        self.takers.append(threading.current_thread())
        self._done(answer)

    def answer(self, answer: bytes | BaseException) -> None:
        with self._lock:
            if not self.left:
                self._answers.put(answer)
                return
        self._take(answer)

    def leave(self) -> None:
        with self._lock:
            self.left = True
        with suppress(Empty):
            while True:
                self._take(self._answers.get_nowait())

    def wait(self, timeout_s: float) -> None:
        with suppress(Empty):
            self._take(self._answers.get(timeout=min(timeout_s, self._patience)))
        self.leave()


@dataclass
class Scripted:
    """Nodes that answer when the story says so, or within the very call if ``react`` does.

    ``deferred``: what is answered is taken only by who asks for it.
    """

    nodes: tuple[NodeId, ...] = NODES
    react: Callable[[Call], Any] | None = None
    calls: SimpleQueue[Call] = field(default_factory=SimpleQueue)
    watches: dict[NodeId, SimpleQueue[Done]] = field(default_factory=lambda: {node: SimpleQueue() for node in NODES})
    seen: list[Call] = field(default_factory=list)
    deferred: list[Deferred] | None = None

    def refresh(self, delay_s: float = 0.0) -> None:
        """The members never change here."""

    def submit(self, node: NodeId, request: bytes, done: Done) -> Deferred | None:
        return self._arrive("submit", node, request, done)

    def query(self, node: NodeId, queries: bytes, done: Done) -> Deferred | None:
        return self._arrive("query", node, queries, done)

    def watch(self, node: NodeId, term: int, leader: NodeId, done: Done) -> None:
        self.watches[node].put(done)

    def _arrive(self, kind: str, node: NodeId, data: bytes, done: Done) -> Deferred | None:
        pending = None
        if self.deferred is not None:
            pending = Deferred(done)
            self.deferred.append(pending)
            done = pending.answer
        call = Call(kind, node, data, done)
        self.seen.append(call)
        if self.react is None:
            self.calls.put(call)
        else:
            self.react(call)
        return pending


class Story:
    """A client among scripted nodes. ``note(x)`` is a command that gives back ``x`` when it is served."""

    def __init__(self, endpoints: Scripted | None = None, **config: Any) -> None:
        self.endpoints = endpoints or Scripted()
        self.clocks = Clocks(100.0, 5000.0)  # moved by the test
        settings = {"backoff": 0.001, "max_backoff": 0.002, "attempt_timeout": PATIENCE, **config}
        self.client = Client(self.endpoints, ClientConfig(**settings), lambda: self.clocks)

    def note(self, what: Any, timeout_s: float | None = None) -> Result:
        return self.client.command(encode_call("note", (what,), {}), PATIENCE if timeout_s is None else timeout_s)

    def note_and_wait(self, what: Any, timeout_s: float = PATIENCE) -> Any:
        return self.client.command(encode_call("note", (what,), {}), timeout_s, waits=True).result()

    def look(self, what: Any, timeout_s: float | None = None) -> Result:
        return self.client.query(encode_call("look", (what,), {}), PATIENCE if timeout_s is None else timeout_s)

    def next(self) -> Call:
        """The next call that reaches a node."""
        return self.endpoints.calls.get(timeout=PATIENCE)

    def open_session(self, session: int = SESSION) -> None:
        """Let through the request that opens the session; it comes before the first command."""
        opening = self.next()
        assert opening.header.session == 0
        opening.done(reply(Status.OK, session.to_bytes(8, "little")))

    def tell_of_leader(self, leader: NodeId, term: int) -> None:
        """A watch says who leads now."""
        self.endpoints.watches[NODES[0]].get(timeout=PATIENCE)(View(term, leader).encode())


@contextmanager
def story(endpoints: Scripted | None = None, **config: Any) -> Iterator[Story]:
    made = Story(endpoints, **config)
    try:
        yield made
    finally:
        made.client.close()


@contextmanager
def story_in_session(**config: Any) -> Iterator[Story]:
    """With a session, one command served, and so a leader that is known."""
    with story(**config) as made:
        first = made.note("first")
        made.open_session()
        made.next().ok()
        assert first.result() == "first"
        yield made


# --- a group on a bad network -----------------------------------------------------------------------------------------


class FlakyGroup:
    """A real machine behind a door, a leader that moves, and a network that loses, doubles and reorders everything."""

    nodes = NODES

    def refresh(self, delay_s: float = 0.0) -> None:
        """The members never change here."""

    def __init__(self, seed: int, forgets: float = 0.0) -> None:
        """``forgets``: how probable it is at each request that the group forgets every session."""
        self.log = Log(replicated(Journal))
        self._forgets = forgets
        self.admission = Admission(self.log.machine.sessions)
        self.leader, self.term = 1, 1
        self.rng = random.Random(seed)
        self._watching: list[Done] = []
        self._todo: list[Callable[[], None]] = []
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, node: NodeId, request: bytes, done: Done) -> Deferred:
        pending = Deferred(done, 0.001)
        self._soon(lambda: self._on_request(node, request, pending.answer))
        return pending

    def query(self, node: NodeId, queries: bytes, done: Done) -> Deferred:
        pending = Deferred(done, 0.001)
        self._soon(lambda: self._on_query(node, queries, pending.answer))
        return pending

    def watch(self, node: NodeId, term: int, leader: NodeId, done: Done) -> None:
        self._soon(lambda: self._on_watch(term, leader, done))

    def notes(self) -> list[Any]:
        found: list[Any] = ask(self.log.machine.machine, "all")
        return found

    def end(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify()
        self._thread.join(PATIENCE)

    # --- in the thread of the network ---------------------------------------------------------------------------------

    def _soon(self, what: Callable[[], None]) -> None:
        with self._news:
            self._todo.append(what)
            self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._todo or self._ended, PATIENCE)
                if self._ended:
                    return
                what = self._todo.pop(self.rng.randrange(len(self._todo)))
            what()

    def _chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def _on_request(self, node: NodeId, request: bytes, done: Done) -> None:
        if self._chance(0.05):
            self._move_leader()
        if self._forgets and self._chance(self._forgets):
            sessions = self.log.machine.sessions
            sessions.advance(sessions.time + DEFAULT_TTL_MS + 1)
        if self._chance(0.1):
            done(ConnectionError("the call was lost"))
            return
        if self._chance(0.2):
            self._soon(lambda: self._on_request(node, request, lambda answer: None))  # a copy that comes late
        if node != self.leader:
            done(not_leader(self.leader if self._chance(0.7) else 0, self.term))
        elif self._chance(0.1):
            done(reply(Status.BUSY))
        else:
            for admitted in self.admission.admit(request, lambda answer: self._answer(done, answer)):
                for key, answer in self.log.commit(admitted):
                    self.admission.answered(key, answer)

    def _answer(self, done: Done, answer: bytes) -> None:
        lost = self._chance(0.2)
        self._soon(lambda: done(ConnectionError("the answer was lost") if lost else answer))
        if self._chance(0.2):
            self._soon(lambda: done(answer))

    def _on_query(self, node: NodeId, queries: bytes, done: Done) -> None:
        if node != self.leader:
            done(not_leader(self.leader, self.term))
        else:
            answer = reply(Status.OK, self.log.machine.machine.query(query_packet(queries)))
            self._answer(done, answer)

    def _on_watch(self, term: int, leader: NodeId, done: Done) -> None:
        if (term, leader) == (self.term, self.leader):
            self._watching.append(done)
        else:
            done(View(self.term, self.leader).encode())

    def _move_leader(self) -> None:
        self.term += 1
        self.leader = self.rng.choice([node for node in NODES if node != self.leader])
        self.admission.refuse_all(not_leader(self.leader, self.term))
        watching, self._watching = self._watching, []
        for done in watching:
            view = View(self.term, self.leader).encode()
            self._soon(lambda done=done, view=view: done(view))  # type: ignore[misc]
