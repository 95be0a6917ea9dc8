"""Whether this process can call Ray."""

from __future__ import annotations

import os

import ray

from rayraft.client.client import FORKED
from rayraft.errors import ClientClosed
from rayraft.ray.channels.session import sessions

_forked = False


def refuse_a_fork() -> None:
    """Raises ClientClosed in a forked child of a process that used Ray: its connections are the parent's."""
    if _forked:
        raise ClientClosed(FORKED)


def ray_is_up() -> bool:
    """Whether Ray can be asked. As it shuts down it still says that it is initialised for a moment; to ask it then may
    quietly start another Ray cluster.
    """
    is_stopping = sessions.is_ending or ray._private.worker.global_worker.threads_stopped.is_set()
    return ray.is_initialized() and not is_stopping


def require_ray() -> None:
    """Raises ClientClosed where a call of Ray would wait for ever, or quietly start another Ray cluster."""
    refuse_a_fork()
    if not ray.is_initialized():
        raise ClientClosed("Ray is not initialised in this process (any more): call ray.init(...) first")


def _after_fork() -> None:
    global _forked
    _forked = ray.is_initialized()


os.register_at_fork(after_in_child=_after_fork)
