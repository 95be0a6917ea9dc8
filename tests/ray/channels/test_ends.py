"""What goes into a channel comes out of it in the same order, and nothing is asked of Ray once it is down."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.dag import compiled_dag_node

from rayraft.ray.channels.ends import FRAME_BYTES, Reader, Writer
from rayraft.ray.channels.frames import OVERHEAD, Item
from rayraft.ray.channels.session import ChannelGone, sessions
from tests.ray.channels.support import SingleValue, a_worker, an_item, texts, worker

__all__ = ["worker"]


def numbers(reader: Reader) -> list[int]:
    return [item.number for item in reader.read() or ()]


def test_what_finds_the_last_frame_unread_travels_together(worker: Any) -> None:
    channel = SingleValue()
    writer, reader = Writer(channel), Reader(channel)
    for number in range(4):
        writer.put(an_item(number, b"x"))
    assert numbers(reader) == [0]
    assert numbers(reader) == [], "nobody has written the rest yet"
    writer.flush()
    assert numbers(reader) == [1, 2, 3]
    assert writer.is_empty
    assert len(channel.written) == 2


def test_a_frame_is_never_larger_than_the_channel(worker: Any) -> None:
    channel = SingleValue()
    writer, reader = Writer(channel), Reader(channel)
    half = b"x" * (FRAME_BYTES // 2)
    for number in range(5):
        writer.put(an_item(number, half))
    found = numbers(reader)
    while not writer.is_empty:
        writer.flush()
        found += numbers(reader)
    assert found == [0, 1, 2, 3, 4]
    assert max(map(len, channel.written)) <= FRAME_BYTES


@pytest.mark.parametrize("size", [FRAME_BYTES - OVERHEAD, FRAME_BYTES - OVERHEAD + 1, 3 * FRAME_BYTES])
def test_what_does_not_fit_into_a_frame_goes_in_several(worker: Any, size: int) -> None:
    channel = SingleValue()
    writer, reader = Writer(channel), Reader(channel)
    content = random.Random(size).randbytes(size)
    put = [an_item(1, b"before"), an_item(2, content), an_item(3, b"behind"), an_item(4, content)]
    for item in put:
        writer.put(item)
    got: list[Item] = []
    while len(got) < len(put):
        read = reader.read()
        assert read is not None
        got += read
        assert writer.flush() or writer.is_empty
    assert got == put
    assert reader.read() is None
    assert max(map(len, channel.written)) <= FRAME_BYTES


def test_a_frame_that_is_ready_is_not_made_anew_for_what_does_not_fit(worker: Any) -> None:
    channel = SingleValue()
    writer, reader = Writer(channel), Reader(channel)
    for number in range(4):
        writer.put(an_item(number, b"x" * (FRAME_BYTES // 2)))
    ready = writer._frame
    assert ready
    writer.put(an_item(4, b"y"))
    assert writer._frame is ready
    found = numbers(reader)
    while writer.flush():
        found += numbers(reader)
    assert found == [0, 1, 2, 3, 4]


def test_who_is_interrupted_while_bytes_are_counted_does_no_harm(worker: Any) -> None:
    channel = SingleValue()
    writer, reader = Writer(channel), Reader(channel)
    writer._waiting.append(an_item(0, b"x"))  # and Ctrl-C
    writer.put(an_item(1, b"y"))
    assert numbers(reader) == [0, 1]
    assert (writer.is_empty, writer.bytes) == (True, 0)
    assert not writer.flush()
    assert len(channel.written) == 1


@given(st.lists(st.one_of(st.just("read"), st.just("flush"), st.binary(max_size=40)), max_size=60))
def test_order_is_kept_whoever_is_faster(steps: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "_worker", a_worker())
        channel = SingleValue()
        writer, reader = Writer(channel), Reader(channel)
        put: list[bytes] = []
        got: list[bytes] = []
        for step in steps:
            if step == "read":
                got += [item.data for item in reader.read() or ()]
            elif step == "flush":
                writer.flush()
            else:
                put.append(step)
                writer.put(an_item(len(put), step))
        while len(got) < len(put):
            got += [item.data for item in reader.read() or ()]
            writer.flush()
        assert got == put
        assert writer.bytes == 0
        assert [data for frame in texts(channel.written) for data in frame] == put


@pytest.mark.parametrize("how", ["disconnected", "shutting down", "another session", "no session"])
def test_nothing_is_asked_of_ray_when_it_is_down(worker: Any, how: str) -> None:
    """It ends the process that does."""
    channel = SingleValue()
    writer, reader = Writer(channel), Reader(channel)
    if how == "disconnected":
        worker.connected = False
    elif how == "shutting down":
        worker.threads_stopped.is_set = lambda: True
    elif how == "another session":
        worker.core_worker = object()
    else:
        del worker.core_worker
    with pytest.raises(ChannelGone, match="shut down"):
        writer.put(an_item(1, b"x"))
    with pytest.raises(ChannelGone, match="shut down"):
        reader.read()
    assert not channel.written


def test_before_ray_is_shut_down_all_ends_are_left_and_no_more_are_made(worker: Any) -> None:
    """As the compiled graphs are, by which Ray says so."""
    channel = SingleValue()
    reader = Reader(channel)
    compiled_dag_node._shutdown_all_compiled_dags()
    with pytest.raises(ChannelGone):
        reader.read()
    with pytest.raises(ChannelGone, match="shut down"), sessions.making():
        pass
    worker.core_worker = object()  # `ray.init` again
    assert Reader(channel).read() is None
    with pytest.raises(ChannelGone):
        reader.read()


def test_the_end_waits_for_who_makes_a_channel(worker: Any) -> None:
    with ThreadPoolExecutor(1) as other:
        with sessions.making():
            end = other.submit(sessions.teardown)
            assert not wait([end], timeout=0.05).done
            assert sessions.current is not None
        end.result(30)
    assert sessions.current is None


def test_a_channel_that_is_broken_stays_gone(worker: Any) -> None:
    channel = SingleValue()
    writer, reader = Writer(channel), Reader(channel)
    channel.broken = True
    with pytest.raises(ChannelGone):
        reader.read()
    with pytest.raises(ChannelGone):
        writer.put(an_item(1, b"x"))
    channel.broken = False
    for end in (reader.read, writer.flush):
        with pytest.raises(ChannelGone):
            end()


@pytest.mark.parametrize("value", [b"short", {"not": "bytes"}])
def test_what_is_no_frame_is_not_read(worker: Any, value: Any) -> None:
    channel = SingleValue()
    channel.value = value
    with pytest.raises(ChannelGone):
        Reader(channel).read()


def test_a_forked_child_leaves_its_parents_channels(worker: Any) -> None:
    channel = SingleValue()
    writer = Writer(channel)
    child = os.fork()
    if child == 0:
        try:
            writer.put(an_item(1, b"x"))
        except ChannelGone:
            os._exit(7)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    writer.put(an_item(1, b"x"))
    assert len(channel.written) == 1
