"""One link, both sides looked at by hand: every call is answered once, whatever becomes of the two processes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from rayraft.ray.channels import caller as caller_module
from rayraft.ray.channels.caller import (
    BUSY_CALLS,
    DOUBT_SECONDS,
    IDLE_SECONDS,
    LARGE_BYTES,
    MAX_DOUBT,
    MAX_WAITING_BYTES,
    OPEN_AGAIN_SECONDS,
    OPENING_CALLS,
    WARM_SECONDS,
    Caller,
    ChannelCall,
    warm_seconds,
)
from rayraft.ray.channels.ends import FRAME_BYTES
from rayraft.ray.channels.frames import Kind
from rayraft.ray.channels.poller import Poller
from rayraft.ray.channels.server import (
    AWAKE_SECONDS,
    SERVED_SECONDS,
    UNREAD_SECONDS,
    Answer,
    ServedCaller,
    awake_seconds,
)
from rayraft.ray.channels.session import ChannelGone
from rayraft.ray.pending import PendingCall
from tests.ray.channels.support import Actor, Pair, worker

__all__ = ["worker"]
pytestmark = pytest.mark.usefixtures("worker")


def test_calls_are_answered_in_order() -> None:
    pair = Pair()
    pair.warm()
    for data in (b"a", b"b", b"c"):
        assert pair.call(data) is not None
    while len(pair.outcomes) < 3:
        pair.look()
    assert [data for _, data, _ in pair.served] == [b"a", b"b", b"c"]
    assert pair.outcomes == {b"a": b"A", b"b": b"B", b"c": b"C"}
    assert not pair.link.expects(0.0)


def test_who_may_be_asleep_is_not_called_through_a_channel() -> None:
    pair = Pair()
    assert pair.call(b"a", now=5.0) is None
    pair.link.woken(lambda *_: None, 1, b"answer", False)
    now = time.monotonic()
    assert pair.call(b"b", now) is not None
    pair.look(now)
    assert pair.outcomes == {b"b": b"B"}
    assert pair.call(b"c", now + WARM_SECONDS + 0.001) is None


@pytest.mark.parametrize("size", [0, 1 << 10, 1 << 20, 1 << 30])
def test_the_actor_looks_for_longer_than_a_caller_relies_on_it(size: int) -> None:
    """By half of that time the answer may be late, or the caller slow."""
    assert awake_seconds(size) >= 2 * warm_seconds(size) >= AWAKE_SECONDS
    assert SERVED_SECONDS >= 2 * IDLE_SECONDS >= 2 * awake_seconds(size)
    pair = Pair()
    later = time.monotonic() + 10.0
    pair.server.wake(later, size)
    pair.server.wake(later, 0)  # a small one does not cut it short
    assert pair.server.expects(later + 2 * warm_seconds(size) - 0.001)
    assert not pair.server.expects(later + awake_seconds(size) + 0.001)


def test_after_a_large_call_both_sides_look_for_longer() -> None:
    """Large ones come less often: each was a remote call again, which took a third of the best throughput."""
    pair = Pair()
    pair.warm()
    large = b"x" * (1 << 20)
    now = time.monotonic()
    pair.call(large, now)
    pair.link._warm_until = 0.0
    pair.look(now)
    later, end = now + 2 * AWAKE_SECONDS, now + warm_seconds(len(large))
    assert pair.call(b"a", later) is not None
    pair.look(later)
    assert pair.call(b"b", end - 0.001) is not None, "a small one does not cut it short"
    assert pair.server.expects(end)
    pair.look(later)
    assert pair.call(b"c", end + 0.001) is None


def test_while_a_call_is_open_both_sides_look() -> None:
    answers: list[Answer] = []
    pair = Pair(lambda kind, data, answer: answers.append(answer))
    pair.warm()
    pair.call(b"slow")
    pair.server.poll(0.0)
    later = time.monotonic() + AWAKE_SECONDS + 0.1
    pair.server._used = later
    assert pair.server.expects(later)
    assert pair.call(b"more", later) is not None, "it is awake for the sake of the first one"
    answers[0].put(b"done")
    pair.link.poll(later)
    assert pair.outcomes == {b"slow": b"done"}


def test_calls_and_answers_may_be_larger_than_a_frame() -> None:
    pair = Pair()
    pair.warm()
    large = b"x" * (3 * FRAME_BYTES)
    assert pair.call(large) is not None
    while not pair.outcomes:
        pair.look()
    assert pair.outcomes == {large: large.upper()}
    assert not pair.actor.remote_calls


def test_what_is_larger_than_all_that_may_wait_is_a_remote_call() -> None:
    pair = Pair()
    pair.warm()
    assert pair.call(b"x" * MAX_WAITING_BYTES) is None
    assert pair.call(b"y") is not None
    assert not pair.link.gone


def test_part_of_an_answer_is_a_sign_of_life() -> None:
    pair = Pair(lambda kind, data, answer: answer.put(b"x" * (3 * FRAME_BYTES)))
    pair.warm()
    now = time.monotonic()
    pair.call(b"all", now)
    pair.server.poll(now)
    assert pair.link.poll(now + 10 * DOUBT_SECONDS), "something came"
    assert not pair.link.poll(now + 10 * DOUBT_SECONDS + DOUBT_SECONDS / 2)
    assert not pair.actor.names, "nobody asks whether it is there"
    assert pair.server.poll(now), "the frame was read: go on at once"


def test_a_caller_does_not_pile_up_what_is_not_read() -> None:
    pair = Pair()
    pair.warm()
    quarter = FRAME_BYTES // 4
    made = [pair.call(b"%d" % number + b"x" * quarter) for number in range(40)]
    assert abs(sum(call is not None for call in made) - MAX_WAITING_BYTES // quarter) <= 1


# --- somebody is gone -------------------------------------------------------------------------------------------------


def asked(pair: Pair, seconds: float) -> int:
    """How often the actor is asked whether it is there, within so long without an answer."""
    start, count, passed = time.monotonic(), len(pair.actor.remote_calls), 0.0
    while passed < seconds:
        pair.link.poll(start + passed)
        passed += 0.005
    return len(pair.actor.remote_calls) - count


def test_an_actor_that_is_silent_is_asked_whether_it_is_there() -> None:
    pair = Pair()
    pair.warm()
    pair.call(b"a", time.monotonic())
    assert asked(pair, DOUBT_SECONDS * 0.5) == 0
    assert asked(pair, DOUBT_SECONDS * 3) == 1
    assert asked(pair, 10.0) == 0, "one question at a time"
    pair.actor.remote_calls[0][3].set_result(True)
    assert not pair.link.gone
    assert asked(pair, 10.0) == 1
    assert pair.link._doubt <= MAX_DOUBT


@pytest.mark.parametrize("outcome", [False, ConnectionError("it died")])
def test_calls_to_an_actor_that_is_gone_fail(outcome: Any) -> None:
    """The process is another one, or there is none: what was sent through the channel may have been done or not."""
    pair = Pair()
    pair.warm()
    pair.call(b"a", time.monotonic())
    asked(pair, 1.0)
    future = pair.actor.remote_calls[0][3]
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    assert isinstance(pair.outcomes[b"a"], ChannelGone)
    assert pair.link.gone
    assert pair.call(b"b", time.monotonic()) is None


def test_when_ray_is_shut_down_calls_fail(worker: Any) -> None:
    pair = Pair()
    pair.warm()
    pair.call(b"a")
    worker.connected = False
    assert pair.link.poll(0.0)
    assert isinstance(pair.outcomes[b"a"], ChannelGone)
    assert not pair.link.expects(0.0)


def test_a_call_that_could_not_leave_is_made_in_another_way(worker: Any) -> None:
    pair = Pair()
    pair.warm()
    worker.connected = False
    assert pair.call(b"a") is None
    assert pair.outcomes == {}, "the remote call will answer it"
    assert pair.link.gone


def test_who_is_interrupted_while_answers_are_handed_over_loses_none() -> None:
    pair = Pair()
    pair.warm()
    interrupted: list[Any] = []

    def take(answer: Any, here: bool) -> None:
        if not interrupted:
            interrupted.append(answer)
            raise KeyboardInterrupt
        pair.outcomes[b"first"] = answer

    pair.link.call(Kind.SUBMIT, b"first", take, 0.0)
    pair.call(b"second")
    for _ in range(2):
        pair.server.poll(0.0)
        pair.link._writer.flush()
    with pytest.raises(KeyboardInterrupt):
        pair.link.poll(0.0)
    while len(pair.outcomes) < 2:
        pair.look()
    assert pair.outcomes == {b"first": b"FIRST", b"second": b"SECOND"}


def test_who_can_not_take_an_answer_keeps_nobody_else_from_theirs() -> None:
    pair = Pair()
    pair.warm()

    def take(answer: Any, here: bool) -> None:
        raise ValueError(answer)

    assert pair.link.call(Kind.SUBMIT, b"first", take, 0.0) is not None
    pair.call(b"second")
    while b"second" not in pair.outcomes:
        pair.look()
    assert pair.outcomes == {b"second": b"SECOND"}
    assert not pair.link.expects(0.0), "nothing is waited for any more"


def test_a_caller_that_is_gone_is_not_looked_at_for_ever() -> None:
    pair = Pair()
    pair.warm()
    pair.call(b"a")
    pair.answers.value = b"never read"
    pair.server.poll(1.0)
    assert not pair.server._answers.is_empty
    assert pair.server.expects(1.0 + UNREAD_SECONDS / 2)
    later = time.monotonic() + UNREAD_SECONDS + AWAKE_SECONDS + 1.0
    assert not pair.server.expects(later)
    assert not pair.server.is_over(1.0 + SERVED_SECONDS / 2)
    assert pair.server.is_over(1.0 + SERVED_SECONDS + 1.0)


def test_what_was_not_used_for_long_is_given_up() -> None:
    pair = Pair()
    now = time.monotonic()
    assert not pair.link.is_over(now + IDLE_SECONDS / 2)
    assert pair.link.is_over(now + IDLE_SECONDS + 1)
    assert pair.call(b"a", now) is None


def test_a_call_that_can_not_be_read_ends_the_link_and_not_the_poller() -> None:
    def serve(kind: Kind, data: bytes, answer: Answer) -> None:
        raise ValueError(data)

    pair = Pair(serve)
    pair.warm()
    pair.call(b"a")
    assert pair.server.poll(0.0)
    assert pair.server.gone
    assert not pair.server.expects(0.0)


# --- who waits --------------------------------------------------------------------------------------------------------


def test_who_waits_looks_for_the_answer_and_the_poller_does_not() -> None:
    pair = Pair()
    pair.warm()
    call = pair.call(b"a")
    polls = []
    real = pair.link.poll

    def poll(now: float) -> bool:
        polls.append(pair.link.expects(now))
        pair.server.poll(now)
        return real(now)

    pair.link.poll = poll  # type: ignore[method-assign]
    call.wait(5.0)
    assert pair.outcomes == {b"a": b"A"}
    assert polls == [False]


def test_who_stops_waiting_leaves_it_to_the_poller() -> None:
    pair = Pair()
    pair.warm()
    call = pair.call(b"a")
    call.wait(0.0)
    assert pair.link.expects(0.0)
    assert pair.link.poller._bell.is_set()


# --- when there are channels ------------------------------------------------------------------------------------------


class Talk:
    """Remote calls one behind the other, each so long after the answer to the last one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
        self.caller, self.now = caller, 100.0
        monkeypatch.setattr(caller_module.time, "monotonic", lambda: self.now)

    def call(self, pause: float) -> PendingCall:
        self.now += pause
        call = self.caller.call(Kind.QUERY, b"q", lambda *_: None)
        assert isinstance(call, PendingCall)
        self.now += 0.05  # it takes long: what counts is the pause
        call._take(b"answer", False)
        return call


def test_channels_are_opened_for_calls_that_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    actor = Actor()
    caller = Caller(actor, Poller())
    monkeypatch.setattr(caller, "_open", lambda now: opened.append(1))
    talk = Talk(monkeypatch, caller)
    for _ in range(3):
        for pause in [WARM_SECONDS / 2] * (OPENING_CALLS - 1) + [WARM_SECONDS * 2]:
            talk.call(pause)
    assert not opened
    for _ in range(OPENING_CALLS):
        talk.call(WARM_SECONDS / 2)
    assert opened
    assert set(actor.names) == {"query"}


@pytest.mark.parametrize("accepted", [True, False, RuntimeError("gone")])
def test_channels_that_were_opened_may_soon_be_opened_again(accepted: Any) -> None:
    """Else a client made only remote calls for half a minute to a node whose process was killed and came back."""
    pair = Pair()
    caller = Caller(pair.actor, pair.link.poller)
    now = time.monotonic()
    caller._open_at = now + OPEN_AGAIN_SECONDS
    caller._on_accepted(pair.link, accepted, False)
    assert (caller._link is pair.link) == (accepted is True)
    assert (caller._open_at < now + OPEN_AGAIN_SECONDS / 2) == (accepted is True)


def test_the_remote_call_behind_which_others_come_wakes_the_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    caller = Caller(pair.actor, Poller())
    caller._link = pair.link
    talk = Talk(monkeypatch, caller)
    for _ in range(BUSY_CALLS + 1):
        talk.call(WARM_SECONDS / 2)
    wakes = [kwargs for _, _, kwargs, _ in pair.actor.remote_calls]
    assert wakes == [{}] * BUSY_CALLS + [{"wake": 7}]
    assert isinstance(caller.call(Kind.QUERY, b"q", lambda *_: None), ChannelCall)


def test_a_large_remote_call_wakes_the_actor() -> None:
    pair = Pair()
    caller = Caller(pair.actor, Poller())
    caller._link = pair.link
    caller.call(Kind.DELIVER, b"x" * (LARGE_BYTES - 1), lambda *_: None)
    call = caller.call(Kind.DELIVER, b"x" * LARGE_BYTES, lambda *_: None)
    assert [kwargs for _, _, kwargs, _ in pair.actor.remote_calls] == [{}, {"wake": 7}]
    assert isinstance(call, PendingCall)
    call._take(b"answer", False)
    assert isinstance(caller.call(Kind.DELIVER, b"d", lambda *_: None), ChannelCall)


def test_a_process_that_is_new_gets_no_more_through_the_old_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    caller = Caller(pair.actor, Poller())
    caller._link = pair.link
    pair.warm()
    lost: list[Any] = []
    caller.call(Kind.SUBMIT, b"a", lambda answer, _: lost.append(answer))
    caller.drop()
    assert isinstance(lost[0], ChannelGone)
    assert isinstance(caller.call(Kind.QUERY, b"q", lambda *_: None), PendingCall)


def test_only_real_actors_are_asked_for_channels() -> None:
    """Not those of a Ray Client, whose objects live in another process."""
    caller = Caller(SimpleNamespace(query=SimpleNamespace(remote=lambda *_: None)), Poller())
    caller._open(1e9)
    assert caller._open_at == 0.0


# --- a check that was never seen to fail proves nothing ---------------------------------------------------------------


def test_a_server_that_falls_asleep_with_a_call_open_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServedCaller, "expects", lambda self, now: now < self._awake_until)  # a mutation
    with pytest.raises(AssertionError):
        test_while_a_call_is_open_both_sides_look()


def test_a_link_that_forgets_its_calls_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(self: Any, error: Exception, *, here: bool) -> None:  # a mutation
        self.gone = True

    monkeypatch.setattr(caller_module.Link, "end", end)
    with pytest.raises(KeyError):
        test_calls_to_an_actor_that_is_gone_fail(False)
