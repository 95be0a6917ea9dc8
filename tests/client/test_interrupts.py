"""Ctrl-C, wherever it comes, leaves a client that works."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import pytest

from rayraft.client import client, results
from rayraft.machine.requests import Status, reply
from tests.client.support import PATIENCE, SESSION, Call, Scripted, Story, story

# Python looks for signals after calls and at the ends of loops, not at these lines, nor as such a block is left.
BLOCKS = ("try:", "with ")
FILES = (client.__file__, results.__file__)
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
