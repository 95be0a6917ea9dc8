"""The two ends of one channel, neither of which ever waits."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from typing import Any

import ray
from ray.exceptions import RayChannelTimeoutError
from ray.experimental.channel.shared_memory_channel import Channel

from rayraft.ray.channels.frames import Item, Kind, cut, pack, unpack
from rayraft.ray.channels.session import ChannelGone, sessions

CHANNEL_BYTES = 2 << 20
FRAME_BYTES = CHANNEL_BYTES - (4 << 10)  # Ray adds a little of its own; more than fits would move the channel


_SEMAPHORE = re.compile(r"/dev/shm/sem\.(hdr|obj)\d+-\d+$")


def make_channel(reader: Any, node: str) -> Channel:
    """A channel that this process writes and one on the same Ray node reads. ``reader``: any actor that lives there.

    Raises ChannelGone.
    """
    with sessions.making():
        try:
            writer = ray.get_runtime_context().current_actor
        except RuntimeError:  # a driver or a task
            writer = None
        return Channel(writer, [(reader, node)], CHANNEL_BYTES)


class _End:
    """1. Ray is asked only under ``lock``, and while it is in the session in which this end was made."""

    def __init__(self, channel: Channel) -> None:
        self.lock = threading.Lock()
        self._channel = channel
        self._session = sessions.current
        self._gone = False
        sessions.add(self)

    def _check(self) -> None:
        """Raises ChannelGone. Under the lock."""
        if self._gone or self._session is None or sessions.current is not self._session:
            self._gone = True
            raise ChannelGone("the channel is closed, or Ray was shut down in this process")

    def leave(self) -> None:
        """Ask Ray for nothing more."""
        with self.lock:
            self._gone = True
            self._channel = None


class Writer(_End):
    """1. Items are read in the order in which they were put.
    2. What finds the last frame not read yet waits, and goes with all else that waits in one frame.
    3. What does not fit into a frame goes in several.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._waiting: deque[Item] = deque()
        self._frame = b""  # made of the first of them, and not written yet
        self._framed = 0
        self.bytes = 0  # that wait, more or less: Ctrl-C may come between

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def put(self, item: Item) -> None:
        """Raises ChannelGone."""
        with self.lock:
            if self._framed == len(self._waiting) and len(self._frame) + item.size <= FRAME_BYTES:
                self._frame = b""  # it goes with the others
            for part in cut(item, FRAME_BYTES):
                self._waiting.append(part)
                self.bytes += part.size
            self._write()

    def flush(self) -> bool:
        """Write what waits, if the last frame was read meanwhile; whether it was. Raises ChannelGone."""
        waiting = len(self._waiting)
        if waiting and self.lock.acquire(blocking=False):
            try:
                self._write()
            finally:
                self.lock.release()
        return len(self._waiting) < waiting

    def _write(self) -> None:
        self._check()
        while self._waiting:
            if not self._frame:
                self._make_frame()
            try:
                self._channel.write(self._frame, timeout=0)
            except RayChannelTimeoutError:
                return
            except Exception as error:
                self._gone = True
                raise ChannelGone(str(error)) from error
            for _ in range(self._framed):
                self._waiting.popleft()
            self.bytes = self.bytes - len(self._frame) if self._waiting else 0
            self._frame, self._framed = b"", 0

    def _make_frame(self) -> None:
        items: list[Item] = []
        size = 0
        for item in self._waiting:
            size += item.size
            if size > FRAME_BYTES:
                break
            items.append(item)
        self._frame, self._framed = pack(items), len(items)


class Reader(_End):
    """Raises ChannelGone."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._parts: dict[int, list[bytes]] = {}  # of items that are not whole yet
        with sessions.making():
            before = _semaphores()
            channel.ensure_registered_as_reader()
            # Both sides have opened them by now, so their names are no longer needed; Ray leaves them for ever.
            for name in _semaphores() - before:
                with contextlib.suppress(OSError):
                    os.unlink(name)

    def read(self) -> list[Item] | None:
        """What is whole with the next frame, None where none is there. Raises ChannelGone."""
        with self.lock:
            self._check()
            try:
                frame = self._channel.read(timeout=0)
            except RayChannelTimeoutError:
                return None
            except Exception as error:
                self._gone = True
                raise ChannelGone(str(error)) from error
        if not isinstance(frame, bytes):
            raise ChannelGone(f"a channel brought {type(frame).__name__}")
        try:
            return [whole for item in unpack(frame) if (whole := self._whole(item)) is not None]
        except ValueError as error:
            raise ChannelGone(str(error)) from error

    def _whole(self, item: Item) -> Item | None:
        if item.kind is Kind.PART:
            self._parts.setdefault(item.number, []).append(item.data)
            return None
        parts = self._parts.pop(item.number, None)
        return item if parts is None else item._replace(data=b"".join([*parts, item.data]))


def _semaphores() -> set[str]:
    """The files of Ray's semaphores that this process has opened (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        return {found.group() for line in maps if (found := _SEMAPHORE.search(line))}
    return set()
