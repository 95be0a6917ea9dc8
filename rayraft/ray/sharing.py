"""One client for all handles that were passed to this process: in the arguments of tasks, say, of which it runs many.

A process that runs task after task connects once, has one session in the group, and its tasks' commands travel
together. Nothing here is done when a handle is unpickled: Ray holds a lock while it unpickles what a task is given,
and the thread that brings its answers needs that lock, so to wait for one there would be for ever.
"""

from __future__ import annotations

import contextlib
import os
import threading
from functools import partial

from rayraft.client.client import Client, Lifeline
from rayraft.client.config import ClientConfig
from rayraft.client.handle import Access
from rayraft.errors import ClientClosed
from rayraft.ray.endpoints import RayEndpoints
from rayraft.ray.names import find_nodes

_clients: dict[tuple[str, ClientConfig], Client] = {}
_lock = threading.Lock()


def shared_access(group: str, config: ClientConfig) -> Access:
    return Access(partial(_hold, group, config), config, shared=True)


def _hold(group: str, config: ClientConfig) -> tuple[Client, Lifeline]:
    """The one there is, also if nobody has held it for `ClientConfig.linger`; else a new one. Raises NoSuchGroup."""
    with _lock:
        client = _clients.get((group, config))
        if client is not None:
            with contextlib.suppress(ClientClosed):
                return client, client.hold()
        for key in [key for key, other in _clients.items() if other.closed]:
            del _clients[key]
        client = Client(RayEndpoints(group, find_nodes(group)), config, linger_s=config.linger)
        _clients[group, config] = client
        return client, client.hold()


def _begin_anew() -> None:
    """In a forked child: whoever held the lock is not here, and the clients are the parent's."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


def close_shared(group: str) -> None:
    """The group ends: so do this process's calls to it."""
    for (name, _), client in list(_clients.items()):
        if name == group:
            client.close()


os.register_at_fork(after_in_child=_begin_anew)
