"""Ctrl-C, wherever it comes, leaves a client that works."""

from __future__ import annotations

import linecache
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from types import FrameType
from typing import Any

import pytest

from rayraft.client import client, lane, results
from rayraft.client.results import Packet, Result
from rayraft.errors import CommandTimeout, SessionExpired
from rayraft.machine.requests import Status, reply
from tests.client.support import PATIENCE, SESSION, Call, Scripted, Story, story

# Python looks for signals after calls and at the ends of loops, not at these lines, nor as such a block is left.
BLOCKS = ("try:", "with ")
FILES = (client.__file__, lane.__file__, results.__file__)
Trace = Callable[[FrameType, str, Any], Any]


def where(frame: FrameType) -> tuple[str, int]:
    return frame.f_code.co_filename, frame.f_lineno


def interrupted_at(line: int, function: Callable[[], Any]) -> bool:
    """Run it with a KeyboardInterrupt before the ``line``th line of the client's; False when it runs fewer."""
    run = 0

    def trace(frame: FrameType, event: str, _: Any) -> Trace | None:
        nonlocal run
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and not linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith(
            BLOCKS
        ):
            run += 1
            if run == line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def serve(call: Call) -> None:
    if call.kind == "submit" and call.header.session == 0:
        call.done(reply(Status.OK, SESSION.to_bytes(8, "little")))
    else:
        call.ok()


def works(made: Story) -> None:
    """What is asked for now is answered, and nothing that was is left open."""
    assert made.note("after").result() == "after"
    assert made.look("after").result() == "after"
    lane = made.client._commands
    assert (lane.leaving, dict(lane.sent), list(lane.waiting), lane.filling.calls) == (None, {}, [], [])
    assert (made.client._open_calls, made.client._open_bytes) == (0, 0)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_call_interrupted_anywhere(fresh: bool, waits: bool) -> None:
    """Its answer comes within the call: so the same thread sends, takes the answer and hands it out."""
    for line in count(1):
        with story(Scripted(react=serve)) as made:
            made.client._start_thread()
            if not fresh:
                made.note("first").result()
            ask = made.note_and_wait if waits else made.note
            if not interrupted_at(line, lambda ask=ask: ask("x")):
                assert line > 40
                return
            works(made)


def test_a_call_interrupted_while_others_wait() -> None:
    """Packets wait behind a request, and this call makes them leave: each is sent once, and all are answered."""
    for line in count(1):
        with story(packet_calls=2, request_bytes=1 << 20) as made:
            made.client._start_thread()
            first = made.note("first")
            made.open_session()
            made.next().ok()
            first.result()
            held = made.note("held")
            blocking = made.next()
            others = [made.note(number) for number in range(1)]
            gone = interrupted_at(line, lambda made=made: made.note("last"))
            made.endpoints.react = serve
            blocking.ok()
            while not made.endpoints.calls.empty():
                made.next().ok()
            assert held.result(PATIENCE) == "held"
            assert [other.result(PATIENCE) for other in others] == [0]
            works(made)
            sent = [content for call in made.endpoints.seen[1:] if call.kind == "submit" for content in call.contents]
            assert sorted(map(str, sent)) == sorted(set(map(str, sent))), "none was sent twice"
            if not gone:
                assert line > 40
                return


class Forgetful:
    """Nodes that answer within the call, of a group that forgets its clients when it is told to."""

    def __init__(self) -> None:
        self.session = SESSION
        self.holds = False
        self.held: list[Call] = []

    def react(self, call: Call) -> None:
        if call.kind == "query":
            call.ok()
        elif call.header.session == 0:
            call.done(reply(Status.OK, self.session.to_bytes(8, "little")))
        elif self.holds:
            self.held.append(call)
        elif call.header.session != self.session:
            call.refuse(Status.SESSION_EXPIRED)
        else:
            call.ok()

    def forget(self) -> None:
        self.session += 1
        self.holds = False


@pytest.mark.parametrize("again", [False, True])
def test_news_of_a_forgotten_session_interrupted_anywhere(again: bool) -> None:
    """What was under way is sent once more, or fails: whatever it is, its callers hear of it, and others too."""
    for line in count(1):
        group = Forgetful()
        with story(Scripted(react=group.react), window=2, attempt_timeout=0.05) as made:
            made.client._start_thread()
            assert made.note("first").result() == "first"
            group.holds = True
            under_way = [made.note(number) for number in range(2)]
            news = group.held[0]
            if again:
                news.fail()
                while len(group.held) < 3:
                    threading.Event().wait(0.001)
                news = group.held[2]
            group.forget()
            gone = interrupted_at(line, lambda news=news: news.refuse(Status.SESSION_EXPIRED))
            for number, result in enumerate(under_way):
                try:
                    assert result.result(PATIENCE) == number
                except SessionExpired:
                    assert again or gone, "it left once and was refused: it was certainly not applied"
            works(made)
            if not gone:
                assert line > 15
                return


def test_a_session_may_be_found_forgotten_within_the_call() -> None:
    """Then nothing of this session leaves any more, and the next one begins with its first number."""
    group = Forgetful()
    with story(Scripted(react=group.react)) as made:
        assert made.note("first").result() == "first"
        for what in "abc":
            group.forget()
            assert made.note(what).result() == what
        numbers = [call.header.number for call in made.endpoints.seen if call.header.session == group.session]
        assert numbers == [1]
        works(made)


def two_in_a_packet(made: Story) -> tuple[Result, Result, Call]:
    """Two results that come together, behind a request that is under way."""
    first = made.note("first")
    made.open_session()
    made.next().ok()
    first.result()
    made.note("under way")
    under_way = made.next()
    mine, theirs = made.note("mine"), made.note("theirs")
    assert mine._packet is theirs._packet
    return mine, theirs, under_way


def answer(made: Story, under_way: Call, packet: Packet, waiting: int) -> None:
    """Once so many wait for the packet."""
    deadline = time.monotonic() + 1.0
    while packet.awaited < waiting and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    under_way.ok()
    made.next().ok()


def patiently(result: Result, timeout_s: float) -> Any:
    with suppress(CommandTimeout):
        return result.result(timeout_s)


@pytest.mark.parametrize("answered", [False, True])
def test_a_wait_interrupted_anywhere_keeps_nobody_else_waiting(answered: bool) -> None:
    """Two callers share a packet; the turn to wake comes to the one that was interrupted, before the answer or then."""
    for line in count(1):
        with story(window=1, attempt_timeout=PATIENCE) as made, ThreadPoolExecutor(2) as others:
            mine, theirs, under_way = two_in_a_packet(made)
            if answered:
                waiting = others.submit(patiently, theirs, PATIENCE / 2)
                answering = others.submit(answer, made, under_way, mine._packet, 2)
                gone = interrupted_at(line, lambda mine=mine: patiently(mine, PATIENCE))
            else:
                gone = interrupted_at(line, lambda mine=mine: patiently(mine, 0.01))
                waiting = others.submit(patiently, theirs, PATIENCE / 2)
                answering = others.submit(answer, made, under_way, mine._packet, 1)
            answering.result()
            assert waiting.result() == "theirs"
            if not gone:
                assert line > 10
                return
