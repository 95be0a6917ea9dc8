"""One client for all handles that were passed to this process: in the arguments of tasks, say, of which it runs many.

A process that runs task after task connects once, has one session in the group, and its tasks' commands travel
together. Nothing here is done when a handle is unpickled: Ray holds a lock while it unpickles what a task is given,
and the thread that brings its answers needs that lock, so to wait for one there would be for ever.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rayraft.client.client import Client, Lifeline
from rayraft.client.config import ClientConfig
from rayraft.client.handle import Access
from rayraft.errors import ClientClosed, NoQuorum
from rayraft.raft.types import NodeId
from rayraft.ray.endpoints import RayEndpoints
from rayraft.ray.names import find_nodes
from rayraft.ray.process import require_ray


@dataclass(slots=True)
class Shared:
    """The client to one group. ``lock`` is held while Ray's head is asked, which may be away for long."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    client: Client | None = None


_all_shared: dict[tuple[str, ClientConfig], Shared] = {}
_lock = threading.Lock()  # of the dictionary alone


def shared_access(group: str, config: ClientConfig) -> Access:
    return Access(partial(_hold, group, config), config, shared=True)


def _hold(group: str, config: ClientConfig, timeout_s: float) -> tuple[Client, Lifeline]:
    """The one there is, also if nobody has held it for `ClientConfig.linger`; else a new one.

    Raises NoSuchGroup; NoQuorum when Ray's head does not answer for ``timeout_s`` seconds; ClientClosed where there is
    no Ray to be asked.
    """
    require_ray()
    deadline = time.monotonic() + timeout_s
    with _lock:
        shared = _all_shared.setdefault((group, config), Shared())
    if not shared.lock.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
        raise _silent(group, timeout_s)
    try:
        if shared.client is not None:
            with contextlib.suppress(ClientClosed):
                return shared.client, shared.client.hold()
        nodes = _find_nodes(group, deadline - time.monotonic(), timeout_s)
        _forget_closed(shared)
        shared.client = client = Client(RayEndpoints(group, nodes), config, linger_s=config.linger)
        return client, client.hold()
    finally:
        shared.lock.release()


def _find_nodes(group: str, left_s: float, timeout_s: float) -> Mapping[NodeId, Any]:
    """`find_nodes` in a thread that may be left to it: Ray waits for its head without a bound."""
    found: Future[Mapping[NodeId, Any]] = Future()

    def find() -> None:
        try:
            found.set_result(find_nodes(group))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=find, name="rayraft-find", daemon=True).start()
    try:
        return found.result(max(0.0, min(left_s, threading.TIMEOUT_MAX)))
    except FutureTimeout:
        raise _silent(group, timeout_s) from None


def _silent(group: str, timeout_s: float) -> NoQuorum:
    return NoQuorum(
        f"Ray's head has not said within {timeout_s} s where the nodes of {group!r} are, and nothing was sent: is it "
        "down? (While Ray unpickles an object, as in its __setstate__, no answer can come)"
    )


def _forget_closed(but: Shared) -> None:
    """Of groups that are gone nothing need be remembered."""
    with _lock:
        for key, shared in list(_all_shared.items()):
            if shared is not but and shared.client is not None and shared.client.closed:
                del _all_shared[key]


def _begin_anew() -> None:
    """In a forked child: whoever held a lock is not here, and the clients are the parent's."""
    global _lock
    _lock = threading.Lock()
    _all_shared.clear()


def close_shared(group: str) -> None:
    """The group ends: so do this process's calls to it."""
    with _lock:
        clients = [shared.client for (name, _), shared in _all_shared.items() if name == group]
    for client in clients:
        if client is not None:
            client.close(ClientClosed("this process has shut the group down before the call had its answer"))


os.register_at_fork(after_in_child=_begin_anew)
