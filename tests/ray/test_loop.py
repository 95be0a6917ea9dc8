"""Who takes the turns of a node: callers who wait, or the raft thread. No Ray, no disk: only the threads are real."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from rayraft.client.leader import View
from rayraft.errors import RayraftError, StorageError
from rayraft.machine.requests import Status, reply
from rayraft.raft.types import Configuration
from rayraft.ray import loop as loop_module
from rayraft.ray import pending
from rayraft.ray.channels.poller import Poller
from rayraft.ray.loop import TURN, Item, RaftLoop
from rayraft.ray.pending import PendingCall, leave_all
from rayraft.ray.transport import RayTransport

PATIENCE = 20.0


def bare_loop() -> RaftLoop:
    """A loop whose turns only hand the inbox to its handlers, and that has no thread of its own."""
    loop = RaftLoop.__new__(RaftLoop)
    loop._inbox, loop._waiting, loop._alarm = deque(), deque(), SimpleQueue()
    loop._busy, loop.stopped, loop._broken = threading.Lock(), threading.Event(), None
    loop._due = loop._looks_at = float("inf")
    loop._stopped_by, loop._view_changed = RayraftError(""), threading.Condition()
    loop._transport = SimpleNamespace(close_slots=lambda: None, take_pending=list)  # type: ignore[assignment]
    loop._replica = SimpleNamespace(turn=lambda now: None, next_deadline=float("inf"))  # type: ignore[assignment]
    loop._after_turn = lambda: None  # type: ignore[method-assign]
    return loop


def woken(loop: RaftLoop) -> bool:
    try:
        loop._alarm.get_nowait()
    except Empty:
        return False
    return True


def in_a_thread(function: Any, *arguments: Any) -> SimpleQueue[Any]:
    """What ``function`` returns in another thread, to be waited for."""
    done: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=lambda: done.put(function(*arguments)), daemon=True).start()
    return done


def until_it_waits(loop: RaftLoop) -> None:
    while not loop._waiting:
        threading.Event().wait(0.001)


def test_what_rays_threads_bring_is_done_by_the_caller_who_waits() -> None:
    loop, slot = bare_loop(), SimpleQueue[bytes]()
    turns: list[str] = []

    def bring_the_answer(data: bytes, _: None) -> None:
        turns.append(threading.current_thread().name)
        slot.put(data)

    answer = in_a_thread(loop._wait, slot, [])
    until_it_waits(loop)
    loop._leave((bring_the_answer, b"done", None))
    assert answer.get(timeout=PATIENCE) == b"done"
    assert turns != [threading.current_thread().name]
    assert not loop._waiting
    assert not woken(loop), "no other thread was needed"


def test_where_nobody_waits_the_raft_thread_is_woken() -> None:
    loop = bare_loop()
    loop._leave((lambda *_: None, b"", None))
    assert woken(loop)


def test_a_caller_who_was_asked_for_a_turn_and_has_an_answer_leaves_the_turn_to_the_raft_thread() -> None:
    loop, slot = bare_loop(), SimpleQueue[bytes]()
    answer = in_a_thread(loop._wait, slot, [])
    until_it_waits(loop)
    loop._inbox.append((lambda *_: None, b"", None))
    asked = loop._waiting.popleft()  # as `_leave` does, and is interrupted
    slot.put(b"done")
    assert answer.get(timeout=PATIENCE) == b"done"
    asked.put(TURN)
    assert woken(loop)


def test_a_turn_that_brings_no_answer_leaves_the_caller_waiting_for_the_next() -> None:
    loop, slot = bare_loop(), SimpleQueue[bytes]()
    answer = in_a_thread(loop._wait, slot, [])
    for _ in range(3):
        until_it_waits(loop)
        loop._leave((lambda *_: None, b"", None))
    until_it_waits(loop)
    loop._leave((lambda data, _: slot.put(data), b"done", None))
    assert answer.get(timeout=PATIENCE) == b"done"


def test_who_gets_no_answer_goes_back_empty_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "REPLY_SECONDS", 0.01)
    loop = bare_loop()
    assert loop._wait(SimpleQueue(), []) == b""
    assert not loop._waiting


def test_nothing_stays_in_the_inbox_and_nobody_waits_for_ever() -> None:
    """Callers whose answers come in several steps, each brought by a thread that may not take a turn itself."""
    loop = bare_loop()
    steps: SimpleQueue[Any] = SimpleQueue()  # what threads of Ray bring
    raft_thread_ended = threading.Event()

    def first(slot: SimpleQueue[bytes], rounds: int) -> None:
        if rounds:
            steps.put((first, slot, rounds - 1))
        else:
            slot.put(b"done")

    def outside() -> None:
        while (item := steps.get()) is not None:
            loop._leave(item)

    def raft_thread() -> None:
        while not raft_thread_ended.is_set():
            loop._alarm.get()
            with loop._busy:
                loop._work()
            if loop._inbox:
                loop._alarm.put(None)

    def caller() -> list[bytes]:
        answers = []
        for _ in range(200):
            slot: SimpleQueue[bytes] = SimpleQueue()
            calls = loop._bring((first, slot, 3))
            answers.append(loop._wait(slot, calls))
        return answers

    threads = [threading.Thread(target=target, daemon=True) for target in (outside, outside, raft_thread)]
    for thread in threads:
        thread.start()
    callers = [in_a_thread(caller) for _ in range(8)]
    assert all(answers.get(timeout=PATIENCE) == [b"done"] * 200 for answers in callers)
    assert not loop._inbox
    raft_thread_ended.set()
    for end in (None, None):
        steps.put(end)
    loop._alarm.put(None)


# --- queries that need no turn ----------------------------------------------------------------------------------------


def loop_that_answers(at_once: Any) -> RaftLoop:
    """Its replica has the answer to queries from ``at_once``, or in the next turn."""
    loop = bare_loop()
    loop._replica = SimpleNamespace(  # type: ignore[assignment]
        answer_at_once=at_once,
        query=lambda data, answer: answer(b"in its turn"),
        turn=lambda now: None,
        next_deadline=float("inf"),
    )
    return loop


def test_a_query_that_waits_for_nothing_takes_no_turn() -> None:
    loop = loop_that_answers(lambda queries: b"of " + queries)
    assert loop.ask("query", b"q") == b"of q"
    assert not loop._busy.locked()
    assert not woken(loop)


def test_a_query_that_has_to_wait_takes_its_turn() -> None:
    assert loop_that_answers(lambda queries: None).ask("query", b"q") == b"in its turn"


def test_a_query_during_a_turn_waits_for_the_next() -> None:
    loop = loop_that_answers(lambda queries: pytest.fail("the replica is at work"))
    with loop._busy:
        answer = in_a_thread(loop.ask, "query", b"q")
        until_it_waits(loop)
    leave_all(loop._take_turn())
    assert answer.get(timeout=PATIENCE) == b"in its turn"


def test_a_query_takes_a_turn_with_work_that_waits() -> None:
    """Else one query after the other could keep it waiting."""
    loop, done = loop_that_answers(lambda queries: pytest.fail("work waits")), SimpleQueue[bytes]()
    loop._inbox.append((lambda data, _: done.put(data), b"done", None))
    assert loop.ask("query", b"q") == b"in its turn"
    assert done.get_nowait() == b"done"


def test_what_comes_in_while_a_query_is_answered_is_not_left_lying() -> None:
    """Whoever brought it found somebody at work, and relies on them."""
    loop = bare_loop()

    def answer(queries: bytes) -> bytes:
        assert loop._bring((lambda *_: None, b"", None)) == []
        return b"done"

    loop._replica.answer_at_once = answer  # type: ignore[method-assign]
    assert loop.ask("query", b"q") == b"done"
    assert loop._inbox
    assert woken(loop)


@pytest.mark.parametrize("end", ["stopped", "broken"])
def test_a_node_that_has_ended_answers_no_query(end: str) -> None:
    """After an error the replica is not used again."""
    loop = loop_that_answers(lambda queries: pytest.fail("asked after its end"))
    if end == "stopped":
        loop.stopped.set()
    else:
        loop._broken = OSError("the disk")
    assert loop._answer_at_once(b"q") is None


def test_an_error_in_a_query_that_takes_no_turn_ends_the_node_as_in_a_turn() -> None:
    error = OSError("the disk")

    def fail(queries: bytes) -> bytes:
        raise error

    loop = loop_that_answers(fail)
    assert loop._answer_at_once(b"q") is None
    assert loop._broken is error
    assert woken(loop)
    assert not loop._busy.locked()


@pytest.mark.parametrize("error", [OSError("the disk"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_turn_that_is_broken_off_ends_the_node_whatever_was_raised(error: BaseException) -> None:
    """By a user's ``__setstate__``, say: the node went on with a state that was half restored, and voted."""
    loop, turns = bare_loop(), list[float]()

    def turn(now: float) -> None:
        turns.append(now)
        raise error

    loop._replica.turn = turn  # type: ignore[method-assign]
    for _ in range(2):
        loop._bring((lambda *_: None, b"", None))
    assert isinstance(loop._broken, Exception)
    assert str(error) in str(loop._broken)
    assert len(turns) == 1
    assert woken(loop)
    assert not loop._busy.locked()


def test_a_query_that_leaves_the_process_ends_the_node_and_not_the_thread_that_asks() -> None:
    def leave(queries: bytes) -> bytes:
        raise SystemExit

    loop = loop_that_answers(leave)
    assert loop._answer_at_once(b"q") is None
    assert "SystemExit" in str(loop._broken)
    assert woken(loop)


def test_a_step_between_two_turns_that_is_broken_off_ends_the_node() -> None:
    loop = bare_loop()
    with pytest.raises(StorageError, match="SystemExit"):
        loop.run(lambda replica: sys.exit())
    assert "SystemExit" in str(loop._broken)


def test_a_step_that_is_refused_ends_nothing() -> None:
    loop = bare_loop()
    with pytest.raises(ZeroDivisionError):
        loop.run(lambda replica: 1 // 0)
    assert loop._broken is None


# --- calls to other nodes ---------------------------------------------------------------------------------------------


@dataclass
class Peers:
    """What `PendingCall` asks Ray for: calls to other nodes, which are answered when the test says so."""

    loop: RaftLoop
    made: list[PendingCall] = field(default_factory=list)  # in the turn that goes on
    answers: dict[str, SimpleQueue[Item]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)  # to Ray's own threads

    def call(self, name: str) -> None:
        self.answers[name] = SimpleQueue()
        self.made.append(PendingCall(name, lambda item, here: self.loop._leave(item, here)))

    def take_pending(self) -> list[PendingCall]:
        made, self.made = self.made, []
        return made

    # --- in the place of Ray ---

    def is_initialized(self) -> bool:
        return True

    def get(self, name: str, timeout: float) -> Item:
        try:
            return self.answers[name].get(timeout=PATIENCE if timeout else 0)
        except Empty:
            raise GetTimeoutError from None

    def wait(self, names: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        while not any(not self.answers[name].empty() for name in names):
            threading.Event().wait(0.001)
        ready = [name for name in names if not self.answers[name].empty()][:num_returns]
        return ready, [name for name in names if name not in ready]


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Peers:
    peers = Peers(bare_loop())
    peers.loop._transport = SimpleNamespace(close_slots=lambda: None, take_pending=peers.take_pending)  # type: ignore[assignment]
    monkeypatch.setattr(pending, "ray", peers)
    monkeypatch.setattr(PendingCall, "leave", lambda self: peers.left.append(self._reference))
    return peers


def test_a_caller_takes_the_answer_to_the_call_that_was_made_for_it(peers: Peers) -> None:
    """No other thread is woken: neither to take the answer nor for the turn that it brings."""
    loop, slot, turns = peers.loop, SimpleQueue[bytes](), SimpleQueue[str]()

    def command(_: bytes, __: None) -> None:
        turns.put(threading.current_thread().name)
        peers.call("append")

    def acknowledged(_: bytes, __: None) -> None:
        turns.put(threading.current_thread().name)
        slot.put(b"done")

    answer = in_a_thread(lambda: loop._wait(slot, loop._bring((command, b"", None))))
    caller = turns.get(timeout=PATIENCE)
    peers.answers["append"].put((acknowledged, b"", None))
    assert answer.get(timeout=PATIENCE) == b"done"
    assert turns.get(timeout=PATIENCE) == caller
    assert not woken(loop)
    assert not peers.left


def test_of_several_calls_the_first_answers_are_taken_and_the_rest_is_left(peers: Peers) -> None:
    loop, slot = peers.loop, SimpleQueue[bytes]()

    def command(_: bytes, __: None) -> None:
        for name in ("2", "3", "4", "5"):
            peers.call(name)

    acknowledged: list[bytes] = []

    def acknowledge(name: bytes, _: None) -> None:
        acknowledged.append(name)
        if len(acknowledged) == 2:
            slot.put(b"done")

    answer = in_a_thread(lambda: loop._wait(slot, loop._bring((command, b"", None))))
    while len(peers.answers) < 4:
        threading.Event().wait(0.001)
    peers.answers["4"].put((acknowledge, b"4", None))
    peers.answers["2"].put((acknowledge, b"2", None))
    assert answer.get(timeout=PATIENCE) == b"done"
    assert sorted(acknowledged) == [b"2", b"4"]
    assert sorted(peers.left) == ["3", "5"]


def test_a_caller_who_has_waited_long_enough_for_one_call_hears_of_others(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "WAIT_SECONDS", 0.0)
    loop, slot = peers.loop, SimpleQueue[bytes]()
    answer = in_a_thread(lambda: loop._wait(slot, loop._bring((lambda *_: peers.call("hangs"), b"", None))))
    until_it_waits(loop)
    assert peers.left == ["hangs"]
    loop._leave((lambda data, _: slot.put(data), b"done", None))
    assert answer.get(timeout=PATIENCE) == b"done"


def test_calls_that_lead_to_calls_keep_nobody_for_ever(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "REPLY_SECONDS", 0.01)
    loop = peers.loop

    def once_more(_: bytes, __: None) -> None:
        peers.call("again")
        peers.answers["again"].put((once_more, b"", None))

    assert loop._wait(SimpleQueue(), loop._bring((once_more, b"", None))) == b""
    assert "again" in peers.left


def test_who_has_an_answer_waits_for_no_call(peers: Peers) -> None:
    loop, slot = peers.loop, SimpleQueue[bytes]()

    def serve(data: bytes, _: None) -> None:
        peers.call("heartbeat")
        slot.put(data)

    assert loop._wait(slot, loop._bring((serve, b"done", None))) == b"done"
    assert peers.left == ["heartbeat"]


# --- what is told to those who watch ----------------------------------------------------------------------------------


class Group:
    """The core's view of a group, to be changed by a test, and whom the node has looked up."""

    def __init__(self) -> None:
        self.raft = SimpleNamespace(
            id=1, term=1, leader=2, configuration=Configuration((1, 2, 3)), removed=False, is_leader=False
        )
        self.raft.log = SimpleNamespace(applied=0)
        self.met: list[set[int]] = []

    def loop(self) -> RaftLoop:
        loop = RaftLoop.__new__(RaftLoop)
        loop._replica = SimpleNamespace(raft=self.raft)  # type: ignore[assignment]
        loop._transport = SimpleNamespace(meet=self.met.append)  # type: ignore[assignment]
        loop.view, loop._configuration, loop._view_changed = View(), None, threading.Condition()
        loop.stopped, loop.recovery, loop._stored_commit, loop._watched = threading.Event(), 0.0, 0, 2
        loop._after_turn()
        return loop


def test_a_new_member_is_looked_up_when_it_joins_and_not_when_it_is_needed() -> None:
    group = Group()
    loop = group.loop()
    assert group.met == [{2, 3}]
    loop._after_turn()
    assert group.met == [{2, 3}]  # nothing is new
    group.raft.configuration = Configuration((1, 2, 3), learners=(4,))
    loop._after_turn()
    assert group.met == [{2, 3}, {2, 3, 4}]
    assert loop.view == View(1, 2, (1, 2, 3, 4))


class Peer:
    """Another node's handle: who was introduced to it, and how often it was called for the sake of the connection."""

    def __init__(self) -> None:
        self.introduced: list[int] = []
        self.connected = 0
        self.greet = SimpleNamespace(remote=self.introduced.append)
        self.__ray_ready__ = SimpleNamespace(remote=self.connect)

    def connect(self) -> None:
        self.connected += 1


def test_a_node_that_looks_another_one_up_introduces_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer()
    monkeypatch.setattr(loop_module, "node_handle", lambda group, node: {("bank", 2): peer}[group, node])
    loop = RaftLoop.__new__(RaftLoop)
    loop._group, loop._node = "bank", 1
    assert loop._introduce_to(2) is peer
    assert peer.introduced == [1]


def test_a_node_that_is_greeted_connects_to_the_new_process() -> None:
    """It had a connection to the old one only, and in an election a new one takes longer than all the rest."""
    peer, loop = Peer(), bare_loop()
    loop._transport = RayTransport(lambda node: peer, lambda *_: None, lambda *_: None, Poller())
    loop._transport.meet([2])
    while loop._transport.handle(2) is None:
        threading.Event().wait(0.001)
    assert peer.connected == 0
    loop.greeted(2)
    assert woken(loop), "it is done in a turn"
    loop._take_turn()
    assert peer.connected == 1
    loop._transport.greet(99)
    assert 99 not in loop._transport._peers, "a stranger is not looked up for a greeting"


def test_who_watches_hears_of_new_members() -> None:
    group = Group()
    loop = group.loop()
    answer = in_a_thread(loop.wait_for_view, 1, 2, PATIENCE)
    while not loop._view_changed._waiters:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    group.raft.configuration = Configuration((1, 2, 4))
    loop._after_turn()
    assert answer.get(timeout=PATIENCE) == View(1, 2, (1, 2, 4))


def test_what_comes_while_a_node_ends_is_refused_at_once() -> None:
    """It waited for a minute: of what came behind the end in the inbox, or during it, nobody took notice."""
    loop, ending, ended = bare_loop(), threading.Event(), threading.Event()
    taken: list[bytes] = []
    loop._replica = SimpleNamespace(  # type: ignore[assignment]
        turn=lambda now: None,
        next_deadline=float("inf"),
        answer_at_once=lambda queries: None,
        submit=lambda data, answer: taken.append(data),
        refuse_all=lambda refusal: None,
        close=lambda: None,
    )

    def removed() -> None:
        if not loop.stopped.is_set():
            loop._end("the node was removed")
            ending.set()
            ended.wait(PATIENCE)  # its directory is marked

    loop._after_turn = removed  # type: ignore[method-assign]
    leave_all = in_a_thread(loop._bring, (lambda *_: None, None, None))
    ending.wait(PATIENCE)
    refused = in_a_thread(loop.ask, "submit", b"a command")
    slot = SimpleQueue[bytes]()
    loop._leave((loop._on_call, b"messages", slot))
    ended.set()
    leave_all.get(timeout=PATIENCE)
    assert refused.get(timeout=PATIENCE) == reply(Status.FAILED, b"the node was removed")
    assert slot.get(timeout=PATIENCE) == b""
    with pytest.raises(RayraftError, match="the node was removed"):
        loop.run(lambda replica: "a report")
    assert taken == []


def test_what_is_behind_a_stop_in_the_inbox_is_refused() -> None:
    loop, slot = bare_loop(), SimpleQueue[bytes]()
    loop._replica = SimpleNamespace(refuse_all=lambda refusal: None, close=lambda: None)  # type: ignore[assignment]
    loop._inbox += [(loop._on_stop, None, None), (loop._on_submit, b"x", slot)]
    loop._take_turn()
    assert slot.get(timeout=PATIENCE) == reply(Status.FAILED, b"the node was stopped")


def test_turns_are_told_the_time_of_a_clock_that_goes_on_while_the_machine_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = {time.CLOCK_MONOTONIC: 5.0, time.CLOCK_BOOTTIME: 5.0}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clocks[clock])
    loop, told = bare_loop(), list[float]()
    loop._replica = SimpleNamespace(turn=told.append, next_deadline=6.0)  # type: ignore[assignment]
    loop._due = 0.0
    loop._work()
    loop._work()  # not due yet
    clocks[time.CLOCK_BOOTTIME] += 3600.0  # it slept for an hour
    loop._work()
    assert told == [5.0, 3605.0]
