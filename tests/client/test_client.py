"""The pipeline from many callers to one leader: packing, numbering, following the leader, giving up."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from rayraft.client.client import MAX_LANES, Client
from rayraft.client.config import ClientConfig
from rayraft.client.lane import Clocks
from rayraft.client.reads import LINEARIZABLE, Reads
from rayraft.client.results import Packet, Reply, Result
from rayraft.errors import BadCall, BadConfiguration, ClientClosed, CommandTimeout, Overloaded, SessionExpired, TooStale
from rayraft.machine.calls import encode_call, encode_results, freeze
from rayraft.machine.requests import LAST, NEW_SESSION, Status, reply
from tests.client.support import (
    NODES,
    PATIENCE,
    SESSION,
    Call,
    Deferred,
    FlakyGroup,
    Scripted,
    Story,
    story,
    story_in_session,
)


def results(*made: Result) -> list[Any]:
    return [result.result() for result in made]


def serve(call: Call) -> None:
    """What a leader that is never busy says."""
    if call.kind == "submit" and call.header.session == NEW_SESSION:
        call.done(reply(Status.OK, SESSION.to_bytes(8, "little")))
    else:
        call.ok()


# --- packing and numbering --------------------------------------------------------------------------------------------


def test_calls_made_while_the_window_is_full_travel_together() -> None:
    with story_in_session(window=1) as s:
        made = [s.note("a")]
        first = s.next()
        made += [s.note(what) for what in "bcd"]
        first.ok()
        second = s.next()
        second.ok()
        assert [first.contents, second.contents] == [["a"], ["b", "c", "d"]]
        assert results(*made) == ["a", "b", "c", "d"]


def test_calls_made_before_the_session_is_open_travel_together() -> None:
    with story() as s:
        made = [s.note(what) for what in "abc"]
        s.open_session()
        packet = s.next()
        assert (packet.header.session, packet.header.number, packet.contents) == (SESSION, 1, ["a", "b", "c"])
        packet.ok()
        assert results(*made) == ["a", "b", "c"]


def test_packets_are_numbered_one_after_another_and_tell_what_was_answered() -> None:
    with story_in_session(window=3) as s:
        made = [s.note(what) for what in "abc"]
        packets = [s.next() for _ in made]
        assert [packet.header.number for packet in packets] == [2, 3, 4]
        packets[1].ok()
        packets[2].ok()
        late = s.note("d")
        fourth = s.next()
        assert fourth.header == (SESSION, 5, 1), "number 2 was not answered: its reply must be kept"
        packets[0].ok()
        fourth.ok()
        assert results(*made, late) == ["a", "b", "c", "d"]


def test_a_full_packet_leaves_without_waiting_for_an_answer() -> None:
    with story_in_session(window=1, max_window=3, packet_calls=2) as s:
        made = [s.note(what) for what in "abcdef"]
        packets = [s.next() for _ in range(3)]
        assert [packet.contents for packet in packets] == [["a"], ["b", "c"], ["d", "e"]]
        for packet in packets:
            packet.ok()
        s.next().ok()
        assert results(*made) == list("abcdef")


def test_a_packet_is_full_by_its_bytes_too() -> None:
    with story_in_session(window=1, max_window=2, packet_bytes=200) as s:
        made = [s.note("a"), s.note("b" * 200), s.note("c")]
        assert [s.next().contents, s.next().contents] == [["a"], ["b" * 200]]
        assert not any(result.done() for result in made)


def test_queries_travel_beside_the_commands_and_open_no_session() -> None:
    with story() as s:
        look = s.look("k")
        call = s.next()
        assert (call.kind, call.contents) == ("query", ["k"])
        call.ok()
        assert look.result() == "k"
        assert [seen.kind for seen in s.endpoints.seen] == ["query"]


def answer_query(call: Call, *values: Any) -> None:
    call.done(reply(Status.OK, encode_results([freeze(value) for value in values])))


def test_queries_with_large_answers_leave_beside_each_other() -> None:
    """Else the leader had nothing to do while the client read what it had answered to many of them together."""
    with story(window=1, max_window=4, packet_bytes=4_000, request_bytes=20_000) as s:
        first = s.look("a")
        made = [s.look(what) for what in "bcd"]
        answer_query(s.next(), "A")
        together = s.next()
        assert together.contents == ["b", "c", "d"], "small answers: few calls are better"
        answer_query(together, *["x" * 200_000] * 3)
        made += [s.look(what) for what in "efghi"]
        apart = [s.next() for _ in range(4)]
        assert [call.contents for call in apart] == [["e"], ["f"], ["g"], ["h"]]
        for call in apart:
            answer_query(call, "x")
        answer_query(s.next(), "x")
        assert [len(result.result()) for result in (first, *made)] == [1] + [200_000] * 3 + [1] * 5
        for _ in range(40):  # they became small
            look = s.look("k")
            s.next().ok()
            assert look.result() == "k"
        made = [s.look(what) for what in "abc"]
        calls = [s.next()]
        assert calls[0].contents == ["a"]
        calls[0].ok()
        calls.append(s.next())
        assert calls[1].contents == ["b", "c"]
        calls[1].ok()


def test_answers_to_commands_do_not_make_them_leave_apart() -> None:
    """What is logged and synced together is cheaper by far."""
    with story_in_session(window=1, max_window=4, packet_bytes=4_000) as s:
        first = s.note("a")
        answer_query(s.next(), "x" * 20_000)
        assert len(first.result()) == 20_000
        made = [s.note(what) for what in "bcd"]
        s.next().ok()
        together = s.next()
        assert together.contents == ["c", "d"]
        together.ok()
        assert results(*made) == ["b", "c", "d"]


def test_a_call_above_the_limit_is_refused_before_it_is_sent() -> None:
    with story(max_call_bytes=100) as s:
        with pytest.raises(BadCall, match="above the limit of 100"):
            s.note("x" * 100)
        assert s.endpoints.seen == []


@pytest.mark.parametrize(("window", "max_window"), [(0, 1), (3, 2)])
def test_a_window_out_of_range_is_refused(window: int, max_window: int) -> None:
    with pytest.raises(BadConfiguration, match="window"):
        ClientConfig(window=window, max_window=max_window)


# --- following the leader ---------------------------------------------------------------------------------------------


def test_a_refusal_that_names_the_leader_is_followed_with_the_same_bytes() -> None:
    with story_in_session() as s:
        made = s.note("a")
        first = s.next()
        leader = first.node % 3 + 1
        first.not_leader(leader, term=5)
        second = s.next()
        assert (second.node, second.data) == (leader, first.data)
        second.ok()
        assert made.result() == "a"


Refusal = Callable[[Call], None]
REFUSALS: dict[str, Refusal] = {
    "it does not lead and knows nobody": lambda call: call.not_leader(),
    "the call failed": lambda call: call.fail(),
    "the node can not serve": lambda call: call.refuse(Status.FAILED),
}


@pytest.mark.parametrize("why", list(REFUSALS))
def test_a_node_that_does_not_serve_is_left_for_the_others_until_one_does(why: str) -> None:
    with story_in_session() as s:
        made = s.note("a")
        asked = []
        for _ in range(4):
            call = s.next()
            asked.append(call)
            REFUSALS[why](call)
        last = s.next()
        assert {call.node for call in [*asked, last]} == set(NODES)
        assert {call.data for call in [*asked, last]} == {last.data}
        last.ok()
        assert made.result() == "a"


@pytest.mark.parametrize("status", [Status.BUSY, Status.OUT_OF_ORDER])
def test_a_leader_that_has_no_room_is_asked_again(status: Status) -> None:
    with story_in_session() as s:
        made = s.note("a")
        calls = []
        for _ in range(3):
            calls.append(s.next())
            calls[-1].refuse(status)
        calls.append(s.next())
        assert len({(call.node, call.data) for call in calls}) == 1
        calls[-1].ok()
        assert made.result() == "a"


def test_when_a_watch_tells_of_a_new_leader_everything_goes_there_once_and_in_order() -> None:
    with story_in_session(window=3) as s:
        made = [s.note(what) for what in "abc"]
        before = [s.next() for _ in made]
        new = before[0].node % 3 + 1
        s.tell_of_leader(new, term=9)
        after = [s.next() for _ in made]
        assert [call.node for call in after] == [new] * 3
        assert [call.data for call in after] == [call.data for call in before]
        s.tell_of_leader(new, term=9)  # no news
        for call in before:
            call.fail()  # the old leader's process is gone: known already
        s.look("k")
        look = s.next()
        assert (look.kind, look.node) == ("query", new), "an answer to an old attempt counted against the new leader"
        for call in after:
            call.ok()
        assert results(*made) == ["a", "b", "c"]
        s.note("d")
        assert s.next().contents == ["d"], "something was sent a third time"


def test_the_first_answer_counts_wherever_it_comes_from_and_copies_change_nothing() -> None:
    with story_in_session() as s:
        made = s.note("a")
        before = s.next()
        s.tell_of_leader(before.node % 3 + 1, term=9)
        after = s.next()
        before.ok()
        assert made.result() == "a"
        after.done(reply(Status.SESSION_EXPIRED))
        after.fail()
        before.ok()
        assert s.note("b").done() is False
        assert s.next().header.number == 3


def test_news_of_an_older_term_is_no_news() -> None:
    with story_in_session() as s:
        s.tell_of_leader(2, term=9)
        made = s.note("a")
        while (call := s.next()).node != 2:
            call.not_leader(2, term=9)
        call.not_leader(3, term=4)
        s.tell_of_leader(3, term=8)
        while (call := s.next()).node != 2:
            assert call.node in NODES
            call.not_leader(2, term=9)
        call.ok()
        assert made.result() == "a"


def test_a_call_that_is_lost_without_a_word_is_repeated_also_when_the_client_was_idle_before() -> None:
    """Its own thread slept without an end: a caller that sends tells it when to look."""
    with story_in_session(attempt_timeout=1.0) as s:
        for number in range(2):
            result = s.note(number)
            lost = s.next()
            again = s.next()
            assert (again.contents, again.header.number) == (lost.contents, lost.header.number)
            again.ok()
            assert result.result() == number


def test_a_call_that_is_lost_without_a_word_is_repeated_also_when_the_clients_own_thread_has_sent_it() -> None:
    """As all that waited for the answer before."""
    with story_in_session(attempt_timeout=1.0, window=1) as s:
        first = s.note("first of two")
        under_way = s.next()
        second = s.note("second")
        under_way.ok()
        assert first.result() == "first of two"
        lost = s.next()
        again = s.next()
        assert (again.contents, again.header.number) == (lost.contents, lost.header.number)
        again.ok()
        assert second.result() == "second"


def test_a_leader_that_lets_attempts_run_out_is_left_for_another_node() -> None:
    """Otherwise a hung process would hold its clients for ever, although the others have a leader."""
    with story(attempt_timeout=0.01) as s:
        made = s.note("a")
        s.open_session()
        first = s.next()
        s.tell_of_leader(first.node, term=5)
        asked = {first.node}
        while len(asked) < len(NODES):
            call = s.next()
            asked.add(call.node)
        call.ok()
        assert made.result() == "a"


def first_of_a_new_session(s: Story, *contents: str) -> Call:
    s.open_session(SESSION + 1)
    packet = s.next()
    assert (packet.header, packet.contents) == ((SESSION + 1, 1, 0), list(contents))
    return packet


def sent_twice(s: Story) -> Call:
    """The attempt of which nobody knows whether the one before it was applied."""
    s.next().fail()
    return s.next()


def check_what_a_forgotten_session_may_have_applied_fails() -> None:
    with story_in_session(window=1) as s:
        lost = s.note("lost")
        under_way = sent_twice(s)
        kept = s.note("kept")
        under_way.refuse(Status.SESSION_EXPIRED)
        with pytest.raises(SessionExpired):
            lost.result()
        packet = first_of_a_new_session(s, "kept")
        under_way.ok()  # too late
        packet.ok()
        assert kept.result() == "kept"
        assert s.client._open_calls == s.client._open_bytes == 0


def test_what_a_forgotten_session_may_have_applied_fails_and_the_rest_goes_in_a_new_one() -> None:
    check_what_a_forgotten_session_may_have_applied_fails()


def test_what_came_back_from_a_forgotten_session_the_first_time_goes_in_a_new_one_and_all_behind_it() -> None:
    """It left once and was refused, so it was not applied; numbers are applied without gaps, so nothing behind was."""
    with story_in_session(window=3) as s:
        made = [s.note("a")]
        first = s.next()
        made.append(s.note("b"))
        second = sent_twice(s)
        made.append(s.note("c"))
        s.next()
        made.append(s.note("d"))  # waits
        first.refuse(Status.SESSION_EXPIRED)
        second.refuse(Status.SESSION_EXPIRED)  # nobody asks any more
        packet = first_of_a_new_session(s, "a", "b", "c", "d")
        packet.ok()
        assert results(*made) == ["a", "b", "c", "d"]
        assert s.client._open_calls == s.client._open_bytes == 0


def test_what_left_before_the_one_that_came_back_fails() -> None:
    """It may have been applied while the session lived."""
    with story_in_session(window=2) as s:
        lost = s.note("a")
        s.next()
        kept = s.note("b")
        s.next().refuse(Status.SESSION_EXPIRED)
        with pytest.raises(SessionExpired):
            lost.result()
        packet = first_of_a_new_session(s, "b")
        packet.ok()
        assert kept.result() == "b"


def test_a_session_that_is_forgotten_at_once_is_not_tried_for_ever() -> None:
    """Of more clients than the group remembers, say."""
    with story_in_session() as s:
        made = s.note("a")
        for session in (SESSION + 1, SESSION + 2):
            s.next().refuse(Status.SESSION_EXPIRED)
            if session == SESSION + 1:
                s.open_session(session)
        with pytest.raises(SessionExpired):
            made.result()
        again = s.note("b")
        s.open_session(SESSION + 2)
        s.next().ok()
        assert again.result() == "b"
        once_more = s.note("c")
        s.next().refuse(Status.SESSION_EXPIRED)
        s.open_session(SESSION + 3)
        s.next().ok()
        assert once_more.result() == "c", "the one before was answered, so this is the first time"


@pytest.mark.parametrize(("awake", "passed"), [(1801.0, 1801.0), (0.0, 7200.0), (1801.0, -7200.0)])
def test_a_client_that_was_idle_for_long_takes_a_new_session_before_the_group_forgets_the_old_one(
    awake: float, passed: float
) -> None:
    """Also after its computer slept, when one clock stood still, or the other was set back."""
    with story_in_session() as s:
        s.clocks = Clocks(s.clocks.monotonic + awake, s.clocks.wall + passed)
        result = s.note("after a break")
        packet = first_of_a_new_session(s, "after a break")
        packet.ok()
        assert result.result() == "after a break"


def test_a_client_that_was_idle_for_a_while_keeps_its_session() -> None:
    with story_in_session() as s:
        for number in (2, 3, 4):  # more than an hour altogether
            s.clocks = Clocks(s.clocks.monotonic + 1799.0, s.clocks.wall + 1799.0)
            s.note("again")
            call = s.next()
            assert call.header == (SESSION, number, number - 1)
            call.ok()


def check_a_session_with_something_under_way_is_not_left() -> None:
    """A retry in another session could be applied twice: only the group can say that the old one is gone."""
    with story_in_session(window=2) as s:
        lost = [s.note("a")]
        first = sent_twice(s)
        s.clocks = Clocks(s.clocks.monotonic + 7200.0, s.clocks.wall + 7200.0)
        lost.append(s.note("b"))
        assert s.next().header == (SESSION, 3, 1)
        first.refuse(Status.SESSION_EXPIRED)
        for result in lost:
            with pytest.raises(SessionExpired):
                result.result()
        kept = s.note("c")
        s.open_session(SESSION + 1)
        s.next().ok()
        assert kept.result() == "c"


def test_a_session_with_something_under_way_is_not_left() -> None:
    check_a_session_with_something_under_way_is_not_left()


def test_the_request_that_opens_a_session_names_its_time_to_live() -> None:
    with story(session_ttl=1.5) as s:
        s.note("a")
        assert s.next().header.answered == 1500


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_to_live_out_of_range_is_refused(ttl: float) -> None:
    with pytest.raises(BadConfiguration, match="session_ttl"):
        ClientConfig(session_ttl=ttl)


def test_nodes_that_answer_within_the_very_call_are_served_as_well() -> None:
    with story(Scripted(react=serve), window=1, packet_calls=2) as s:
        assert results(*[s.note(n) for n in range(20)], *[s.look(n) for n in range(5)]) == [*range(20), *range(5)]


def test_nodes_that_refuse_within_the_very_call_are_asked_again() -> None:
    tries = count()

    def third_time(call: Call) -> None:
        fate = next(tries) % 4
        if fate == 0:
            call.fail()
        elif fate == 1:
            call.not_leader(2, term=3)
        elif fate == 2:
            call.refuse(Status.BUSY)
        else:
            serve(call)

    with story(Scripted(react=third_time), window=1) as s:
        assert results(*[s.note(n) for n in range(5)]) == list(range(5))


def test_a_defect_in_the_clients_own_thread_ends_the_calls_instead_of_hanging_them() -> None:
    class Broken(Scripted):
        def watch(self, *args: Any) -> None:
            raise RuntimeError("a defect")

    with story(Broken()) as s:
        with pytest.raises(RuntimeError, match="a defect"):
            s.note("a").result()
        with pytest.raises(RuntimeError, match="a defect"):
            s.note("b")


# --- giving up --------------------------------------------------------------------------------------------------------


def test_a_call_that_did_not_leave_is_withdrawn_and_certainly_has_no_effect() -> None:
    with story() as s:
        withdrawn, kept = s.note("withdrawn", timeout_s=0), s.note("kept")
        opening = s.next()
        for _ in range(2):  # asked again, it says so again
            with pytest.raises(CommandTimeout) as caught:
                withdrawn.result(timeout_s=0)
            assert caught.value.outcome_known
        opening.done(reply(Status.OK, SESSION.to_bytes(8, "little")))
        packet = s.next()
        assert packet.contents == ["kept"]
        packet.ok()
        assert kept.result() == "kept"
        with pytest.raises(CommandTimeout) as caught:
            withdrawn.result()
        assert caught.value.outcome_known
        assert s.client._open_calls == s.client._open_bytes == 0


def test_a_packet_of_which_everything_was_withdrawn_is_not_sent() -> None:
    with story() as s:
        withdrawn = s.note("withdrawn", timeout_s=0)
        opening = s.next()
        with pytest.raises(CommandTimeout):
            withdrawn.result(timeout_s=0)
        opening.done(reply(Status.OK, SESSION.to_bytes(8, "little")))
        kept = s.note("kept")
        packet = s.next()
        assert (packet.header.number, packet.contents) == (1, ["kept"])
        packet.ok()
        assert kept.result() == "kept"
        assert s.client._open_calls == s.client._open_bytes == 0


def test_to_wait_for_less_than_the_handles_time_withdraws_nothing() -> None:
    """To look whether it is there yet, `result(timeout_s=0)`, took the call back."""
    with story() as s:
        made = s.note("made")
        opening = s.next()
        for timeout_s in (0, 0.001):
            with pytest.raises(CommandTimeout) as caught:
                made.result(timeout_s=timeout_s)
            assert not caught.value.outcome_known
        opening.done(reply(Status.OK, SESSION.to_bytes(8, "little")))
        s.next().ok()
        assert made.result() == "made"


def test_a_query_that_nobody_has_time_for_is_not_asked_again() -> None:
    """One that never ended was sent to each new leader, and hung that one too."""
    with story_in_session(attempt_timeout=0.02) as s:
        endless = s.look("endless", timeout_s=0.01)
        lane = s.client._queries[LINEARIZABLE]
        assert s.next().contents == ["endless"]
        while not endless.done():  # to wait for it is to have time for it
            threading.Event().wait(0.001)
        with pytest.raises(CommandTimeout, match="not asked again") as caught:
            endless.result()
        assert caught.value.outcome_known
        assert not lane.in_use
        assert s.client._open_calls == s.client._open_bytes == 0
        s.look("short")
        assert s.next().contents == ["short"], "the endless one was sent once"


def test_a_query_that_somebody_waits_for_is_asked_again() -> None:
    with story_in_session(attempt_timeout=0.02) as s, ThreadPoolExecutor(1) as other:
        slow = s.look("slow", timeout_s=0.01)
        answer = other.submit(slow.result, PATIENCE)
        for _ in range(5):
            call = s.next()
            assert call.contents == ["slow"]
        call.ok()
        assert answer.result(PATIENCE) == "slow"


def test_a_call_that_left_may_still_take_effect_and_its_result_can_be_had_later() -> None:
    with story_in_session() as s:
        made = s.note("slow")
        call = s.next()
        with pytest.raises(CommandTimeout) as caught:
            made.result(timeout_s=0)
        assert not caught.value.outcome_known
        call.ok()
        assert made.result() == "slow"


def test_any_timeout_that_is_a_number_can_be_given() -> None:
    with story(Scripted(react=serve)) as s:
        assert s.note("a", timeout_s=float("inf")).result() == "a"
        assert s.note("b").result(timeout_s=float("inf")) == "b"
        assert s.note("c").result(timeout_s=1e300) == "c"


def test_when_too_many_calls_are_open_the_caller_waits_for_room_and_then_is_told() -> None:
    with story_in_session(window=2, max_open_calls=2) as s:
        made = [s.note("a"), s.note("b")]
        with pytest.raises(Overloaded, match="2 calls"):
            s.note("c", timeout_s=0.01)
        with pytest.raises(Overloaded):
            s.look("c", timeout_s=0.01)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(s.note, "d")
            s.next().ok()
            made.append(waiting.result(PATIENCE))
        for _ in range(2):
            s.next().ok()
        assert results(*made) == ["a", "b", "d"]
        assert s.client._open_calls == s.client._open_bytes == 0


def test_a_single_call_above_the_bound_still_goes_alone() -> None:
    with story(Scripted(react=serve), max_open_bytes=10) as s:
        assert s.note("x" * 100).result() == "x" * 100


@contextmanager
def threads_in_turns() -> Iterator[None]:
    """As many changes of threads as can be had, for races within a few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_who_waits_is_counted_while_event_loops_come_and_go() -> None:
    """The count is taken as the answer arrives: an error there would lose the answer."""

    class Loop:
        create_future = object

    packet, _ = packet_of("a")
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            packet.arrival(Loop())  # type: ignore[arg-type]
            with packet._lock:
                packet._arrivals.clear()

    with threads_in_turns():
        thread = threading.Thread(target=come_and_go)
        thread.start()
        try:
            counts = {packet.awaited for _ in range(20_000)}
        finally:
            ended.set()
            thread.join()
    assert counts <= {0, 1}


# --- who waits for one packet, woken one by the other -----------------------------------------------------------------


def waiting_for(packet: Packet, pool: ThreadPoolExecutor) -> Future[bool]:
    """Another thread that waits, after those that do already."""
    before = packet.awaited
    waiting = pool.submit(packet.wait, 3 * PATIENCE)
    while packet.awaited == before:
        threading.Event().wait(0.001)
    return waiting


def a_thread_that_waits_no_longer(packet: Packet) -> threading.Lock:
    """Its place among those who wait, which it is about to leave: its deadline has passed, or it was interrupted."""
    place = threading.Lock()
    place.acquire()
    packet._waiters.append(place)
    return place


def end(packet: Packet) -> None:
    packet.complete(Reply(encode_results(["a"])))


def test_all_who_wait_are_woken() -> None:
    packet, _ = packet_of("a")
    with ThreadPoolExecutor(8) as pool:
        waiting = [waiting_for(packet, pool) for _ in range(8)]
        end(packet)
        assert all(future.result(PATIENCE) for future in waiting)
    assert not packet._to_wake


def check_who_waits_no_longer_keeps_nobody_waiting(place: int) -> None:
    """``place`` in the line of four, of the one that leaves it."""
    packet, _ = packet_of("a")
    with ThreadPoolExecutor(3) as pool:
        waiting = [waiting_for(packet, pool) for _ in range(place)]
        leaver = a_thread_that_waits_no_longer(packet)
        waiting += [waiting_for(packet, pool) for _ in range(3 - place)]
        end(packet)
        for future in waiting[:place]:
            assert future.result(PATIENCE)
        packet._stop_waiting(leaver)
        assert all(future.result(PATIENCE) for future in waiting)


@pytest.mark.parametrize("place", range(4))
def test_who_waits_no_longer_keeps_nobody_waiting(place: int) -> None:
    check_who_waits_no_longer_keeps_nobody_waiting(place)


def test_who_left_before_its_turn_takes_no_turn_of_others() -> None:
    packet, _ = packet_of("a")
    first = a_thread_that_waits_no_longer(packet)
    second = a_thread_that_waits_no_longer(packet)
    last = a_thread_that_waits_no_longer(packet)
    end(packet)
    packet._stop_waiting(second)
    assert packet._to_wake == [last]
    assert last.locked()
    packet._stop_waiting(first)  # whose turn it was
    assert not last.locked()


def test_an_interrupt_leaves_no_place_behind() -> None:
    packet, _ = packet_of("a")

    def interrupt(timeout_s: float) -> None:
        raise KeyboardInterrupt

    packet.call = SimpleNamespace(wait=interrupt, leave=lambda: None)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        packet.wait(PATIENCE)
    assert packet.awaited == 0


# --- who takes the answer ---------------------------------------------------------------------------------------------


@contextmanager
def story_of_deferred_answers() -> Iterator[tuple[Story, list[Deferred]]]:
    """A story in a session; the calls of which nobody has taken the answer yet."""
    deferred: list[Deferred] = []
    with story_in_session(endpoints=Scripted(deferred=deferred)) as s:
        deferred.clear()
        yield s, deferred


def check_a_caller_who_waits_takes_its_answer() -> None:
    with story_of_deferred_answers() as (s, deferred), ThreadPoolExecutor(1, "caller") as pool:
        waiting = pool.submit(s.note_and_wait, "a")
        s.next().ok()
        assert waiting.result(PATIENCE) == "a"
        (call,) = deferred
        assert [taker.name for taker in call.takers] == ["caller_0"]


def test_a_caller_who_waits_takes_its_answer() -> None:
    check_a_caller_who_waits_takes_its_answer()


def test_what_nobody_waits_for_at_once_is_taken_by_others() -> None:
    with story_of_deferred_answers() as (s, deferred):
        result = s.note("a")
        (call,) = deferred
        assert call.left
        s.next().ok()
        assert result.result() == "a"


def test_a_batch_is_taken_by_who_sends_it() -> None:
    with story_of_deferred_answers() as (s, deferred), ThreadPoolExecutor(1, "caller") as pool:
        packet, _ = packet_of("a", "b")

        def send() -> bool:
            s.client.batch(packet, PATIENCE)
            return packet.wait(PATIENCE)

        waiting = pool.submit(send)
        s.next().ok()
        assert waiting.result(PATIENCE)
        assert packet.outcomes() == ["a", "b"]
        assert [taker.name for taker in deferred[0].takers] == ["caller_0"]


def test_a_refusal_that_a_caller_takes_is_followed_like_any() -> None:
    with story_of_deferred_answers() as (s, _), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(s.note_and_wait, "a")
        first = s.next()
        others = [node for node in NODES if node != first.node]
        first.not_leader(others[0], term=9)
        again = s.next()
        assert (again.node, again.data) == (others[0], first.data)
        again.ok()
        assert waiting.result(PATIENCE) == "a"


def test_a_caller_whose_deadline_passes_leaves_the_answer_to_others() -> None:
    with story_of_deferred_answers() as (s, deferred):
        with pytest.raises(CommandTimeout):
            s.note_and_wait("a", 0.01)
        assert deferred[0].left
        s.next().ok()
        assert s.client._open_calls == 0


def check_who_takes_the_answer_is_one_of_those_who_wait_for_it() -> None:
    """They are waited for when they call again; one of them left out, their calls would seem to come in a series."""
    packet, _ = packet_of("a")
    counts = []
    packet.call = SimpleNamespace(wait=lambda timeout_s: counts.append(packet.awaited))  # type: ignore[assignment]
    assert not packet.wait(0.0)
    assert counts == [1]


def test_who_takes_the_answer_is_one_of_those_who_wait_for_it() -> None:
    check_who_takes_the_answer_is_one_of_those_who_wait_for_it()


# --- batches ----------------------------------------------------------------------------------------------------------


def packet_of(*notes: str) -> tuple[Packet, list[Result]]:
    packet = Packet()
    return packet, [packet.add(encode_call("note", (note,), {}), PATIENCE) for note in notes]


def test_a_batch_goes_whole_and_after_the_calls_made_before_it() -> None:
    with story_in_session(window=1) as s:
        made = [s.note("a"), s.note("b")]
        first = s.next()
        packet, batched = packet_of("c", "d")
        s.client.batch(packet, PATIENCE)
        made += [*batched, s.note("e")]
        first.ok()
        second = s.next()
        second.ok()
        assert [first.contents, second.contents] == [["a"], ["b", "c", "d", "e"]]
        assert results(*made) == ["a", "b", "c", "d", "e"]
        assert s.client._open_calls == s.client._open_bytes == 0


def test_batches_that_wait_travel_together_and_each_gets_its_own_results() -> None:
    with story_in_session(window=1) as s:
        s.note("first")
        first = s.next()
        packets = [packet_of(*notes) for notes in ("ab", "cde", "f")]
        for packet, _ in packets:
            s.client.batch(packet, PATIENCE)
        withdrawn, kept = packets[1][0], packets[1][1][1]
        assert withdrawn.withdraw([0])
        first.ok()
        together = s.next()
        assert together.contents == ["a", "b", "d", "e", "f"]
        together.ok()
        assert packets[0][0].outcomes() == ["a", "b"]
        assert packets[2][0].outcomes() == ["f"]
        assert results(kept) == ["d"]
        with pytest.raises(CommandTimeout):
            packets[1][1][0].result(timeout_s=0)


def test_batches_that_are_full_together_leave_without_waiting_for_an_answer() -> None:
    with story_in_session(window=1, packet_calls=4) as s:
        s.note("first")
        s.next()
        for notes in ("ab", "cd"):
            s.client.batch(packet_of(*notes)[0], PATIENCE)
        assert s.next().contents == ["a", "b", "c", "d"]


def test_what_waits_leaves_beside_a_large_request_only_when_it_is_as_much() -> None:
    size = len(encode_call("note", ("a",), {}))
    with story_in_session(window=1, packet_bytes=size) as s:
        s.client.batch(packet_of(*"abcdefgh")[0], PATIENCE)
        s.next()
        for notes in ("ij", "klm"):
            s.client.batch(packet_of(*notes)[0], PATIENCE)
        assert s.endpoints.calls.empty()
        s.client.batch(packet_of(*"nopqrstu")[0], PATIENCE)
        assert s.next().contents == list("ijklmnopqrstu")


def test_requests_without_room_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="request_bytes"):
        ClientConfig(request_bytes=0)


def test_what_travels_together_is_bounded_in_bytes() -> None:
    size = len(encode_call("note", ("a",), {}))
    with story_in_session(window=1, max_window=1, request_bytes=4 * size) as s:
        s.note("first")
        first = s.next()
        for notes in ("abc", "de"):
            s.client.batch(packet_of(*notes)[0], PATIENCE)
        first.ok()
        second = s.next()
        second.ok()
        assert [second.contents, s.next().contents] == [["a", "b", "c"], ["d", "e"]]


def test_a_batch_that_did_not_leave_is_withdrawn_as_a_whole() -> None:
    with story() as s:
        packet, batched = packet_of("a", "b")
        s.client.batch(packet, PATIENCE)
        opening = s.next()
        with pytest.raises(CommandTimeout) as caught:
            packet.give_up((0, 1), 0.0)
        assert caught.value.outcome_known
        opening.done(reply(Status.OK, SESSION.to_bytes(8, "little")))
        s.note("kept")
        assert s.next().contents == ["kept"]
        for result in batched:
            with pytest.raises(CommandTimeout):
                result.result(timeout_s=0)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closing_fails_what_is_open_wherever_it_is() -> None:
    with story_in_session(window=1, packet_calls=2, max_window=1) as s:
        made = [s.note(what) for what in "abcd"] + [s.look("e")]
        call = s.next()
        s.client.close()
        s.client.close()
        for result in made:
            with pytest.raises(ClientClosed):
                result.result()
        call.ok()
        call.fail()
        with pytest.raises(ClientClosed):
            s.note("f")
        with pytest.raises(ClientClosed):
            s.client.batch(packet_of("g")[0], PATIENCE)


def test_closing_releases_a_caller_who_waits_for_room() -> None:
    with story_in_session(max_open_calls=1) as s, ThreadPoolExecutor(1) as pool:
        s.note("a")
        waiting = pool.submit(s.note, "b")
        s.client.close()
        with pytest.raises(ClientClosed):
            waiting.result(PATIENCE)


def test_a_client_that_is_closed_ends_its_thread_and_sends_nothing_more() -> None:
    with story_in_session() as s:
        thread = s.client._thread
        assert thread is not None
        s.client.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_when_ray_is_gone_the_calls_fail_at_once() -> None:
    with story_in_session() as s:
        made = s.note("a")
        s.next().done(ClientClosed("Ray was shut down"))
        with pytest.raises(ClientClosed, match="Ray was shut down"):
            made.result()


def test_an_error_that_many_callers_share_does_not_grow_with_each_of_them() -> None:
    with story() as s:
        made = s.note("a")
        s.client.close()
        for attempt in (made.result, lambda: s.note("b")):
            depths = set()
            for _ in range(3):
                with pytest.raises(ClientClosed) as caught:
                    attempt()
                depths.add(len(traceback.extract_tb(caught.value.__traceback__)))
            assert len(depths) == 1


# --- asyncio ----------------------------------------------------------------------------------------------------------


def test_results_can_be_awaited_together_and_again() -> None:
    with story_in_session() as s:

        async def main() -> list[Any]:
            made = [s.note(what) for what in "ab"]
            waiting = asyncio.gather(*made)
            await asyncio.sleep(0)
            for _ in made:
                s.next().ok()
            return [*await waiting, await made[0], made[1].result()]

        assert asyncio.run(main()) == ["a", "b", "a", "b"]


def test_those_who_await_in_one_loop_are_woken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with story_in_session() as s:

        async def main() -> tuple[list[Any], int]:
            made = [s.note(what) for what in "abcd"]  # "a" travels alone
            waiting = asyncio.gather(*made)
            await asyncio.sleep(0)
            loop, woken = asyncio.get_running_loop(), 0
            wake = loop.call_soon_threadsafe

            def count(*what: Any) -> Any:
                nonlocal woken
                woken += 1
                return wake(*what)

            monkeypatch.setattr(loop, "call_soon_threadsafe", count)
            s.next().ok()
            s.next().ok()
            return await waiting, woken

        assert asyncio.run(main()) == (["a", "b", "c", "d"], 2)


def test_two_loops_may_await_one_result() -> None:
    with story_in_session() as s:
        made = s.note("a")

        async def both() -> list[Any]:
            other = asyncio.to_thread(asyncio.run, awaiting(made))
            waiting = asyncio.gather(awaiting(made), other)
            while made._packet.awaited < 2:
                await asyncio.sleep(0)
            s.next().ok()
            return await waiting

        assert asyncio.run(both()) == ["a", "a"]


async def awaiting(result: Result) -> Any:
    return await result


def test_an_await_that_runs_out_says_whether_the_command_can_still_take_effect() -> None:
    async def known(result: Result) -> bool:
        with pytest.raises(CommandTimeout) as caught:
            await result
        return caught.value.outcome_known

    with story() as s:
        made = s.note("unsent", timeout_s=0.01)
        assert asyncio.run(known(made)) is True
    with story_in_session() as s:
        made = s.note("sent", timeout_s=0.01)
        s.next()
        assert asyncio.run(known(made)) is False


def test_an_await_that_is_cancelled_leaves_the_command_on_its_way() -> None:
    with story_in_session() as s:

        async def main() -> Any:
            made = s.note("a")
            task = asyncio.ensure_future(made)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            s.next().ok()
            return await made

        assert asyncio.run(main()) == "a"


def test_an_answer_that_comes_after_the_loop_was_closed_hurts_nobody() -> None:
    with story_in_session() as s:
        made = s.note("a")
        loop = asyncio.new_event_loop()
        task = loop.create_task(awaiting(made))
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        s.next().ok()
        assert made.result() == "a"


# --- a whole group on a bad network -----------------------------------------------------------------------------------


@contextmanager
def on_a_bad_network(seed: int, forgets: float = 0.0, **settings: Any) -> Iterator[tuple[FlakyGroup, Client]]:
    group = FlakyGroup(seed, forgets)
    config = ClientConfig(window=2, max_window=4, packet_calls=3, backoff=0.0005, max_backoff=0.002, **settings)
    client = Client(group, config)
    try:
        yield group, client
        assert client._open_calls == client._open_bytes == 0
    finally:
        client.close()
        group.end()


def check_exactly_once_and_in_order(seed: int, patience: float = PATIENCE) -> None:
    """Several threads write through one client: each note is there once, in its thread's order, with its answer."""
    threads, each = 4, 20
    request_bytes = (1, 1 << 20)[seed % 2]  # many small requests, or fewer large ones

    def write(thread: int) -> list[tuple[Any, int]]:
        waits = thread % 2 == 0  # for each one before the next
        made = []
        for n in range(each):
            result = client.command(encode_call("note", ((thread, n),), {}), patience, waits=waits)
            made.append((n, result))
            if waits:
                result.result()
        return [((thread, n), result.result()) for n, result in made]

    with on_a_bad_network(seed, request_bytes=request_bytes) as (group, client):
        with ThreadPoolExecutor(threads) as pool:
            answers = [pair for written in pool.map(write, range(threads)) for pair in written]
        notes = group.notes()
        for thread in range(threads):
            assert [n for writer, n in notes if writer == thread] == list(range(each)), "lost, doubled or overtaken"
        assert [(notes[place - 1], place) for _, place in answers] == answers, "an answer went to the wrong call"
        read = client.query(encode_call("all", (), {}), patience)
        assert read.result() == notes


@pytest.mark.parametrize("seed", range(20))
def test_on_a_bad_network_every_command_is_applied_once_and_in_order(seed: int) -> None:
    check_exactly_once_and_in_order(seed)


def check_forgotten_sessions(seed: int, patience: float = PATIENCE) -> None:
    """Now and then the group forgets all sessions: what is answered was applied once, what fails at most once."""
    threads, each = 4, 25

    def write(thread: int) -> list[tuple[Any, Result]]:
        return [((thread, n), client.command(encode_call("note", ((thread, n),), {}), patience)) for n in range(each)]

    def place(result: Result) -> int | None:
        with suppress(SessionExpired):
            found: int = result.result()
            return found
        return None

    with on_a_bad_network(seed, forgets=0.1) as (group, client):
        with ThreadPoolExecutor(threads) as pool:
            places = {what: place(result) for written in pool.map(write, range(threads)) for what, result in written}
        notes = group.notes()
        assert len(set(notes)) == len(notes), "applied twice"
        assert all(at is None or notes[at - 1] == what for what, at in places.items())
        for thread in range(threads):
            written = [n for writer, n in notes if writer == thread]
            assert written == sorted(written), "overtaken"


@pytest.mark.parametrize("seed", range(20))
def test_what_a_forgotten_session_fails_is_applied_once_or_never(seed: int) -> None:
    check_forgotten_sessions(seed)


def test_many_threads_share_one_client() -> None:
    with story(Scripted(react=serve)) as s:
        started = threading.Barrier(8)

        def work(thread: int) -> list[Any]:
            started.wait(PATIENCE)
            return [s.note((thread, n)).result() for n in range(50)]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [[(thread, n) for n in range(50)] for thread in range(8)]
        numbers = [call.header.number for call in s.endpoints.seen if call.header.session != NEW_SESSION]
        assert numbers == list(range(1, len(numbers) + 1))
        assert s.client._open_calls == s.client._open_bytes == 0


# --- queries that any node can answer ---------------------------------------------------------------------------------


def look_stale(made: Story, what: Any, max_age: float = 1.0) -> Result:
    return made.client.query(encode_call("look", (what,), {}), PATIENCE, Reads.of("stale", max_age))


@pytest.mark.parametrize("fresh", NODES)
def test_every_node_is_asked_before_a_read_is_too_stale(fresh: int) -> None:
    """Without a leader that answers there was one more try, at whichever node."""

    def react(call: Call) -> None:
        call.ok() if call.node == fresh else call.refuse(Status.TOO_STALE)

    with story(Scripted(react=react)) as s:
        assert [look_stale(s, number).result() for number in range(6)] == list(range(6))


def test_a_read_is_too_stale_when_all_say_so() -> None:
    with story(Scripted(react=lambda call: call.refuse(Status.TOO_STALE))) as s:
        with pytest.raises(TooStale):
            look_stale(s, 1).result()
        assert {call.node for call in s.endpoints.seen} == set(NODES)


def test_a_node_that_hangs_holds_up_no_read_that_others_can_answer() -> None:
    asked: list[int] = []

    def react(call: Call) -> None:
        asked.append(call.node)
        if call.node != 2:
            call.ok()

    with story(Scripted(react=react), hedge_after=0.001) as s:
        assert [look_stale(s, number).result() for number in range(9)] == list(range(9))
    assert asked.count(2) == 1, "then it is spared for a while"


def test_a_node_that_says_who_leads_is_not_taken_for_one_that_hangs() -> None:
    with story() as s:
        result = look_stale(s, "x")
        first = s.next()
        first.not_leader(leader=3, term=7)
        s.next().ok()
        assert result.result() == "x"
        assert first.node not in s.client._tracker._silent


def test_lanes_of_queries_do_not_pile_up() -> None:
    with story(Scripted(react=Call.ok)) as s:
        for number in range(500):
            assert look_stale(s, number, 1.0 + number).result() == number
        assert len(s.client._queries) <= MAX_LANES


# --- its own thread ---------------------------------------------------------------------------------------------------


def test_a_thread_that_could_not_be_started_is_started_by_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with story(Scripted(react=serve)) as s:

        def full(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            with pytest.raises(RuntimeError):
                s.note("lost")
        assert s.note("found").result(PATIENCE) == "found"


# --- a forked child ---------------------------------------------------------------------------------------------------


def test_a_forked_child_is_told_to_connect_anew() -> None:
    """It has neither the thread nor the connections, and whoever held the lock is not there."""
    with story_in_session() as s:
        held, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with s.client._lock:
                held.set()
                let_go.wait(PATIENCE)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(PATIENCE)
        pending = s.client._commands.filling.add(encode_call("note", ("open",), {}))
        pid = os.fork()
        if pid == 0:
            told = 0
            for ask in (lambda: s.note("x"), pending.result, lambda: s.look("x")):
                try:
                    ask()
                except ClientClosed as error:
                    told += "forked" in str(error)
            os._exit(0 if told == 3 else 1)
        let_go.set()
        holder.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        again = s.note("the parent goes on")
        s.next().ok()
        assert again.result() == "the parent goes on"


# --- leaving ----------------------------------------------------------------------------------------------------------


def check_a_client_that_leaves_ends_its_session() -> None:
    """Once: whether it was heard is not waited for."""
    with story_in_session() as s:
        s.client.leave()
        ending = s.next()
        assert ending.header == (SESSION, LAST, 0)
        ending.fail()
        s.client.leave()
        assert s.endpoints.calls.empty()


def test_a_client_that_leaves_ends_its_session() -> None:
    check_a_client_that_leaves_ends_its_session()


def test_a_client_without_a_session_has_none_to_end() -> None:
    with story() as s:
        s.client.leave()
        assert s.endpoints.calls.empty()


def test_what_is_under_way_when_a_client_leaves_fails() -> None:
    with story_in_session() as s:
        made = s.note("a")
        late = s.next()
        s.client.leave()
        with pytest.raises(ClientClosed):
            made.result()
        assert s.next().header == (SESSION, LAST, 0)
        late.ok()


# --- held, left and held again ----------------------------------------------------------------------------------------


def test_a_client_that_lingers_is_held_again_with_its_session() -> None:
    endpoints = Scripted()
    client = Client(endpoints, ClientConfig(), linger_s=PATIENCE)
    held = client.hold()
    assert client.hold() is held
    s = Story(endpoints)
    s.client = client
    first = s.note("first")
    s.open_session()
    s.next().ok()
    assert first.result() == "first"
    del held
    assert client.hold() is not None
    again = s.note("again")
    packet = s.next()
    assert packet.header == (SESSION, 2, 1)
    packet.ok()
    assert again.result() == "again"
    client.close()
    with pytest.raises(ClientClosed):
        client.hold()


def check_a_client_that_nobody_held_for_its_time_leaves() -> None:
    endpoints = Scripted()
    client = Client(endpoints, ClientConfig(), linger_s=0.01)
    held = client.hold()
    s = Story(endpoints)
    s.client = client
    first = s.note("first")
    s.open_session()
    s.next().ok()
    assert first.result() == "first"
    thread = client._thread
    assert thread is not None
    del held
    assert s.next().header == (SESSION, LAST, 0)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_client_that_nobody_held_for_its_time_leaves() -> None:
    check_a_client_that_nobody_held_for_its_time_leaves()
