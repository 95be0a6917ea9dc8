"""Who takes the answer to a remote call. No Ray: its futures and its waiting are the test's."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from rayraft.ray import pending
from rayraft.ray.pending import WAIT_SECONDS, PendingCall, leave_all


class Reference:
    """Stands for an object reference; ``outcome`` is what comes of the call, None as long as nothing does."""

    def __init__(self, outcome: Any = None) -> None:
        self.outcome = outcome
        self.futures: list[Future[Any]] = []

    def future(self) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


class Ray:
    """What this module needs of it; waiting takes no time."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []
        self.runs = True
        self.is_client = False
        self.util = SimpleNamespace(client=SimpleNamespace(ray=SimpleNamespace(is_connected=lambda: self.is_client)))

    def is_initialized(self) -> bool:
        return self.runs

    def get(self, reference: Reference, timeout: float) -> Any:
        self.timeouts.append(timeout)
        if reference.outcome is None:
            raise GetTimeoutError
        if isinstance(reference.outcome, BaseException):
            raise reference.outcome
        return reference.outcome

    def wait(self, references: list[Reference], num_returns: int, timeout: float) -> tuple[list[Reference], ...]:
        self.timeouts.append(timeout)
        ready = [reference for reference in references if reference.outcome is not None][:num_returns]
        return ready, [reference for reference in references if reference not in ready]


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    ray = Ray()
    monkeypatch.setattr(pending, "ray", ray)
    return ray


class Calls:
    """Pending calls, and what was handed over of them: (name, answer, whether by who waited)."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Any, bool]] = []

    def __call__(self, name: str, reference: Reference) -> PendingCall:
        return PendingCall(reference, lambda answer, here: self.taken.append((name, answer, here)))


def test_who_waits_takes_the_answer(ray: Ray) -> None:
    calls, reference = Calls(), Reference(b"yes")
    calls("a", reference).wait(0.5)
    assert calls.taken == [("a", b"yes", True)]
    assert not reference.futures, "Ray has nobody to tell"
    assert ray.timeouts == [WAIT_SECONDS]


def test_a_ray_that_was_shut_down_is_not_asked(ray: Ray) -> None:
    """It would start anew."""
    ray.runs = False
    calls, reference = Calls(), Reference(b"yes")
    calls("a", reference).wait()
    [(name, answer, here)] = calls.taken
    assert (name, type(answer), here) == ("a", ConnectionError, True)
    assert not ray.timeouts
    assert not reference.futures


def test_nobody_waits_longer_than_asked_for(ray: Ray) -> None:
    Calls()("a", Reference()).wait(0.001)
    assert ray.timeouts == [0.001]


def test_what_takes_longer_is_handed_over_by_ray(ray: Ray) -> None:
    calls, reference = Calls(), Reference()
    calls("a", reference).wait()
    assert calls.taken == []
    (future,) = reference.futures
    future.set_result(b"late")
    assert calls.taken == [("a", b"late", False)]


def test_an_error_is_handed_over_like_an_answer() -> None:
    calls, error = Calls(), ConnectionError("the node is gone")
    calls("a", Reference(error)).wait()
    reference = Reference()
    calls("b", reference).leave()
    reference.futures[0].set_exception(error)
    assert calls.taken == [("a", error, True), ("b", error, False)]


def test_a_ray_that_is_shutting_down_can_not_be_left_anything() -> None:
    calls, error = Calls(), RuntimeError("the core worker is gone")

    def future() -> Future[Any]:
        raise error

    reference = Reference()
    reference.future = future  # type: ignore[method-assign]
    calls("a", reference).leave()
    assert calls.taken == [("a", error, False)]


def test_an_interrupt_is_not_taken_for_an_answer() -> None:
    calls, reference = Calls(), Reference(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        calls("a", reference).wait()
    reference.futures[0].set_result(b"yes")
    assert calls.taken == [("a", b"yes", False)]


def test_of_several_the_first_that_comes_is_taken_and_the_others_go_on() -> None:
    calls, references = Calls(), {name: Reference() for name in "abc"}
    references["b"].outcome = b"yes"
    others = PendingCall.wait_for_first([calls(name, reference) for name, reference in references.items()])
    assert calls.taken == [("b", b"yes", True)]
    assert [call._reference for call in others] == [references["a"], references["c"]]
    assert not any(reference.futures for reference in references.values())
    leave_all(others)
    for name in "ac":
        references[name].futures[0].set_result(name)
    assert calls.taken[1:] == [("a", "a", False), ("c", "c", False)]


@pytest.mark.parametrize("names", ["a", "abc"])
def test_where_none_comes_in_time_all_are_left_to_ray(names: str) -> None:
    calls, references = Calls(), {name: Reference() for name in names}
    assert PendingCall.wait_for_first([calls(name, reference) for name, reference in references.items()]) == []
    assert calls.taken == []
    for name, reference in references.items():
        (future,) = reference.futures
        future.set_result(name)
    assert calls.taken == [(name, name, False) for name in names]


def test_by_ray_client_no_answer_is_taken_in_the_thread_that_brings_it(ray: Ray) -> None:
    """It waited for the client's lock, and who held that waited for this thread: the first call never came back."""
    ray.is_client = True
    taken: SimpleQueue[tuple[Any, bool, threading.Thread]] = SimpleQueue()
    lock = threading.Lock()

    def take(answer: Any, here: bool) -> None:
        with lock:
            taken.put((answer, here, threading.current_thread()))

    references = [Reference(), Reference()]
    for reference in references:
        PendingCall(reference, take).leave()
    with lock:  # held by somebody who asks Ray for something
        references[0].futures[0].set_result(b"first")
        references[1].futures[0].set_exception(ConnectionError("lost"))
    answer, here, thread = taken.get(timeout=30)
    assert (answer, here) == (b"first", False)
    assert thread is not threading.current_thread()
    assert isinstance(taken.get(timeout=30)[0], ConnectionError)
