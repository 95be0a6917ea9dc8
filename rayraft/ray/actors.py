"""Creating node actors, and asking several of them at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import ray

from rayraft.raft.types import NodeId
from rayraft.ray.names import NAMESPACE, actor_name
from rayraft.ray.node import CONCURRENCY_GROUPS, Node
from rayraft.ray.spec import NodeSpec

NODE_ENVIRONMENT = {
    # A call on a dead process fails at once, not after a second or two: crashes become elections in milliseconds.
    "RAY_timeout_ms_task_wait_for_death_info": "0",
    # A node talks to a handful of processes: for so few plain poll wakes up sooner than epoll (a commit: 5 per cent).
    "GRPC_POLL_STRATEGY": "poll",
    # Two hundred threads would spread what they allocate over eight heaps to a processor. Four heaps take a fifth less
    # memory, all of which the kernel must take back before anybody hears of a crash.
    "MALLOC_ARENA_MAX": "4",
}
creating = threading.Lock()  # Ray can not create one named actor from several threads


def create_actor(spec: NodeSpec) -> Any:
    """A detached actor that Ray starts anew, at its home, whenever its process dies. ValueError: the name is taken."""
    actor = ray.remote(num_cpus=0, concurrency_groups=CONCURRENCY_GROUPS)(Node)
    options = actor.options(
        name=actor_name(spec.group, spec.node_id),
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=8,
        enable_task_events=False,
        runtime_env={"env_vars": NODE_ENVIRONMENT},
        **spec.home.options(),
    )
    with creating:
        return options.remote(spec)


def left(deadline: float, least: float = 1.0) -> float:
    """Seconds until ``deadline``, and no less than ``least``: a last question is worth asking."""
    return max(least, deadline - time.monotonic())


def gather(references: Mapping[NodeId, Any], timeout_s: float) -> dict[NodeId, Any]:
    """The results by node, an exception in the place of one that failed or took longer than ``timeout_s``."""
    if not references:
        return {}
    ready, _ = ray.wait(list(references.values()), num_returns=len(references), timeout=timeout_s)
    done = set(ready)
    results: dict[NodeId, Any] = {}
    for node, reference in references.items():
        try:
            if reference in done:
                results[node] = ray.get(reference)
            else:
                results[node] = TimeoutError(f"no answer within {timeout_s} s")
        except Exception as error:
            results[node] = error
    return results
