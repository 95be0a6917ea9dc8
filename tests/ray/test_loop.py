"""Who takes the turns of a node: callers who wait, or the raft thread. No Ray, no disk: only the threads are real."""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from rayraft.client.leader import View
from rayraft.raft.types import Configuration
from rayraft.ray import loop as loop_module
from rayraft.ray.loop import TURN, RaftLoop

PATIENCE = 20.0


def bare_loop() -> RaftLoop:
    """A loop whose turns only hand the inbox to its handlers, and that has no thread of its own."""
    loop = RaftLoop.__new__(RaftLoop)
    loop._inbox, loop._waiting, loop._alarm = deque(), deque(), SimpleQueue()
    loop._busy, loop.stopped, loop._broken = threading.Lock(), threading.Event(), None
    loop._due = loop._looks_at = float("inf")
    loop._transport = SimpleNamespace(close_slots=lambda: None)  # type: ignore[assignment]
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

    answer = in_a_thread(loop._wait, slot)
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
    answer = in_a_thread(loop._wait, slot)
    until_it_waits(loop)
    loop._inbox.append((lambda *_: None, b"", None))
    asked = loop._waiting.popleft()  # as `_leave` does, and is interrupted
    slot.put(b"done")
    assert answer.get(timeout=PATIENCE) == b"done"
    asked.put(TURN)
    assert woken(loop)


def test_a_turn_that_brings_no_answer_leaves_the_caller_waiting_for_the_next() -> None:
    loop, slot = bare_loop(), SimpleQueue[bytes]()
    answer = in_a_thread(loop._wait, slot)
    for _ in range(3):
        until_it_waits(loop)
        loop._leave((lambda *_: None, b"", None))
    until_it_waits(loop)
    loop._leave((lambda data, _: slot.put(data), b"done", None))
    assert answer.get(timeout=PATIENCE) == b"done"


def test_who_gets_no_answer_goes_back_empty_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "REPLY_SECONDS", 0.01)
    loop = bare_loop()
    assert loop._wait(SimpleQueue()) == b""
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
            loop._bring((first, slot, 3))
            answers.append(loop._wait(slot))
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


def test_who_watches_hears_of_new_members() -> None:
    group = Group()
    loop = group.loop()
    answer = in_a_thread(loop.wait_for_view, 1, 2, PATIENCE)
    while not loop._view_changed._waiters:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    group.raft.configuration = Configuration((1, 2, 4))
    loop._after_turn()
    assert answer.get(timeout=PATIENCE) == View(1, 2, (1, 2, 4))
