"""The client's calls as remote calls on the node actors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rayraft.client.endpoints import Done, Pending
from rayraft.errors import ClientClosed, CommandFailed
from rayraft.raft.types import NodeId
from rayraft.ray.channels.caller import Caller
from rayraft.ray.channels.frames import Kind
from rayraft.ray.channels.poller import poller_of_clients
from rayraft.ray.channels.session import ChannelGone
from rayraft.ray.names import ask_for_address, find_nodes
from rayraft.ray.pending import PendingCall
from rayraft.ray.process import ray_is_up

log = logging.getLogger("rayraft")
REFRESH_SECONDS = 0.5  # between two lookups, however many calls fail


class RayEndpoints:
    """Calls go straight to the actors' processes; Ray's head is asked when members have changed, and then at once."""

    def __init__(self, group: str, handles: Mapping[NodeId, Any]) -> None:
        self._group = group
        self._handles = dict(handles)
        self._nodes = tuple(sorted(handles))
        for handle in handles.values():
            ask_for_address(handle)
        self._poller = poller_of_clients()
        self._callers: dict[Any, Caller] = {}  # by handle
        self._open_watches: list[Done] = []
        self._looking = threading.Lock()
        self._hurry = threading.Event()

    @property
    def nodes(self) -> Sequence[NodeId]:
        return self._nodes

    def refresh(self, delay_s: float = 0.0) -> None:
        """Look up the group's nodes again, in a thread of its own: Ray's head may be slow or away."""
        if not delay_s:
            self._hurry.set()
        if self._looking.acquire(blocking=False):
            try:
                threading.Thread(target=self._look, args=(delay_s,), name="rayraft-look", daemon=True).start()
            except BaseException:  # no more threads: the next one who misses a node asks again
                self._looking.release()
                raise

    def _look(self, delay_s: float) -> None:
        try:
            self._hurry.wait(delay_s)
            self._hurry.clear()
            if not ray_is_up():
                return
            found = find_nodes(self._group)
            for handle in found.values():  # also of those that are known: their processes may be new
                ask_for_address(handle)
            self._handles |= found  # calls may be under way to those that are gone
            self._callers = {handle: self._callers[handle] for handle in found.values() if handle in self._callers}
            self._nodes = tuple(sorted(found))
        except Exception as error:  # asked again by whoever misses a node
            log.debug("the nodes of %r could not be looked up: %s", self._group, error)
        finally:
            time.sleep(REFRESH_SECONDS)
            self._looking.release()

    def submit(self, node: NodeId, request: bytes, done: Done) -> Pending | None:
        return self._ask(node, Kind.SUBMIT, request, done)

    def query(self, node: NodeId, queries: bytes, done: Done) -> Pending | None:
        return self._ask(node, Kind.QUERY, queries, done)

    def _ask(self, node: NodeId, kind: Kind, data: bytes, done: Done) -> Pending | None:
        def make() -> Pending:
            handle = self._handles[node]
            caller = self._callers.get(handle)
            if caller is None:
                caller = self._callers[handle] = Caller(handle, self._poller)
            return caller.call(kind, data, lambda answer, _: done(_checked(answer)))

        return _for_main_thread(self._guarded(make, done))

    def watch(self, node: NodeId, term: int, leader: NodeId, done: Done) -> None:
        def ended(answer: bytes | BaseException) -> None:
            try:
                self._open_watches.remove(ended)
            except ValueError:  # given up before
                return
            done(answer)

        self._open_watches.append(ended)

        def make() -> Pending:
            reference = self._handles[node].watch.remote(term, leader)
            return PendingCall(reference, lambda answer, _: ended(_checked(answer)))

        call = self._guarded(make, ended)
        if call is not None:
            call.leave()

    def _guarded(self, make: Callable[[], Pending], done: Done) -> Pending | None:
        if not ray_is_up():
            done(_shut_down())
            return None
        try:
            return make()
        except Exception as error:
            self._left_behind(error)
            done(error)
            return None

    def _left_behind(self, error: Exception) -> None:
        """Ray is shutting down, or was and is another session now: of the old one nothing more is heard."""
        self.refresh()
        for watch in self._open_watches[:]:
            watch(error)


def _for_main_thread(call: Pending | None) -> Pending | None:
    """The others leave a remote call to Ray: a thread that waits in Ray as Ray is shut down takes the process with it.

    The main thread does not wait then, for it is the one that shuts Ray down, at the end of the process at the latest.
    """
    if isinstance(call, PendingCall) and threading.current_thread() is not threading.main_thread():
        call.leave()
        return None
    return call


def _shut_down() -> ClientClosed:
    return ClientClosed("Ray was shut down in this process: the group may live on, connect to it again")


def _checked(answer: Any) -> bytes | BaseException:
    if isinstance(answer, ChannelGone) and not ray_is_up():
        return _shut_down()
    if isinstance(answer, (bytes, BaseException)):
        return answer
    return CommandFailed(f"a node answered with {type(answer).__name__}")
