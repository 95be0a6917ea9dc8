"""Callers who got their answers together call again together; the client waits a moment for all of them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator

import pytest

from rayraft.client.gathering import MAX_GATHERING, ROUNDS_OFF, Gathering
from tests.client.support import PATIENCE, Call, Story
from tests.client.test_client import results, story_in_session


def in_round(s: Story, others: str = "") -> Call:
    """A request of three callers who wait for its answer, and of calls that nobody waits for."""
    s.note("first")
    first = s.next()
    made = [s.note(name) for name in "abc" + others]
    loop = asyncio.new_event_loop()
    for result in made[:3]:
        result._packet.arrival(loop)
    loop.close()
    first.ok()
    request = s.next()
    assert request.contents == list("abc" + others)
    return request


def test_the_next_request_waits_for_those_who_were_answered_together() -> None:
    with story_in_session() as s:
        in_round(s).ok()
        s.client._commands.gathering.until = float("inf")
        made = [s.note("d"), s.note("e")]
        assert s.endpoints.calls.empty()
        made.append(s.note("f"))
        request = s.next()
        request.ok()
        assert request.contents == ["d", "e", "f"]
        assert results(*made) == ["d", "e", "f"]


def test_who_does_not_come_back_is_not_waited_for_long() -> None:
    with story_in_session() as s:
        in_round(s).ok()
        last = s.note("d")
        request = s.next()  # the client's own thread sends it when the moment is over
        request.ok()
        assert request.contents == ["d"]
        assert results(last) == ["d"]


def test_those_who_come_early_do_not_look_again_whether_all_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    looks = Gathering.goes_on

    def goes_on(self: Gathering, now: float) -> bool:
        looked.append(threading.current_thread())
        return looks(self, now)

    with story_in_session() as s:
        in_round(s).ok()
        s.client._commands.gathering.until = float("inf")
        monkeypatch.setattr(Gathering, "goes_on", goes_on)
        made = [s.note(name) for name in "def"]
        s.next().ok()
        assert results(*made) == ["d", "e", "f"]
    assert looked.count(threading.current_thread()) == 1


def test_a_full_packet_waits_for_nobody() -> None:
    with story_in_session(packet_calls=2) as s:
        s.client._commands.gathering.begin(5, 5, 0.0)
        s.client._commands.gathering.until = float("inf")
        s.note("a")
        s.note("b")
        assert s.next().contents == ["a", "b"]


def test_a_single_caller_is_not_waited_for() -> None:
    gathering = Gathering()
    gathering.begin(1, 1, 0.0)
    assert not gathering.goes_on(0.0)


def test_it_ends_when_all_are_there_or_the_moment_is_over() -> None:
    gathering = Gathering()
    gathering.begin(2, 2, 0.0)
    gathering.arrived()
    assert gathering.goes_on(0.0)
    gathering.arrived()
    assert not gathering.goes_on(0.0)
    gathering.begin(10, 10, 1.0)
    assert gathering.goes_on(1.0)
    assert not gathering.goes_on(1.0 + MAX_GATHERING)


def test_after_a_round_to_which_few_came_nobody_is_waited_for_a_while() -> None:
    gathering = Gathering()
    gathering.begin(4, 4, 0.0)
    gathering.arrived()
    assert not gathering.goes_on(1.0)
    for _ in range(ROUNDS_OFF):
        gathering.begin(4, 4, 2.0)
        assert not gathering.goes_on(2.0)
    gathering.begin(4, 4, 3.0)
    assert gathering.goes_on(3.0)


def test_a_round_to_which_most_came_changes_nothing() -> None:
    gathering = Gathering()
    gathering.begin(4, 4, 0.0)
    gathering.arrived()
    gathering.arrived()
    assert not gathering.goes_on(1.0)
    gathering.begin(4, 4, 2.0)
    assert gathering.goes_on(2.0)


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """No other thread runs while this one has something to do."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE)
    yield
    sys.setswitchinterval(usual)


def test_calls_that_one_caller_makes_in_series_travel_together(undisturbed: None) -> None:
    """Also the first of them, which finds nothing under way."""
    with story_in_session() as s:
        s.note("first")
        first = s.next()
        made = [s.note(name) for name in "abc"]
        first.ok()
        second = s.next()
        second.ok()
        made += [s.note(name) for name in "def"]
        assert s.endpoints.calls.empty()
        third = s.next()
        assert (second.contents, third.contents) == (["a", "b", "c"], ["d", "e", "f"])
        third.ok()
        assert results(*made) == list("abcdef")


def test_the_last_caller_who_was_waited_for_sends_also_among_calls_in_series(undisturbed: None) -> None:
    with story_in_session() as s:
        in_round(s, "xyz").ok()
        assert s.client._commands.gathering.in_series
        s.client._commands.gathering.until = float("inf")
        for name in "def":
            assert s.endpoints.calls.empty()
            s.note(name)
        assert not s.endpoints.calls.empty()  # no other thread has run
        assert s.next().contents == ["d", "e", "f"]


def test_one_call_at_a_time_is_sent_by_its_caller() -> None:
    with story_in_session() as s:
        for name in "abc":
            s.note(name)
            assert not s.endpoints.calls.empty()
            s.next().ok()
