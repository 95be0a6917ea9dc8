"""What runs on each machine: clients that write their history down, and an observer of the machine's own node."""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray

import rayraft
from rayraft.chaos.records import Begun, Ended, Failed, Journal, Seen
from rayraft.errors import CommandTimeout, Overloaded, TooStale
from rayraft.history import Kind
from rayraft.ray.cluster import find_cluster
from rayraft.ray.spec import NodeReport

NAMESPACE: Final = "rayraft-chaos"
STOP: Final = "stop"  # a file of this name ends the clients
LOOK_SECONDS: Final = 0.1  # between two looks at the node
PAUSE_SECONDS: Final = 0.1  # of a client whose call failed


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """What the clients of a station do."""

    clients: int = 2
    timeout_s: float = 10.0
    keys: int = 3  # of each kind, at a time
    rotation_s: float = 2.0  # how long keys are used: a history is checked key by key, and long ones take long
    pause_s: float = 0.0  # between two calls
    machines: frozenset[int] | None = None  # that have clients; None: all

    def clients_on(self, machine: int) -> int:
        return self.clients if self.machines is None or machine in self.machines else 0


class Station:
    """A detached actor, bound to its machine; Ray starts it again with the machine, as new clients."""

    def __init__(self, group: str, machine: int, directory: Path, plan: ClientPlan) -> None:
        self._group, self._machine, self._directory, self._plan = group, machine, directory, plan
        self._name = f"m{machine}-{secrets.token_hex(3)}"
        self._journal = Journal(directory / f"{self._name}.jsonl")
        for index in range(plan.clients_on(machine)):
            self._begin(partial(self._ask, f"{self._name}-{index}", reads=bool(index % 2)))
        self._begin(self._observe)

    def _begin(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, daemon=True).start()

    def ready(self) -> bool:
        return True

    # --- clients ------------------------------------------------------------------------------------------------------

    def _ask(self, client: str, reads: bool) -> None:
        """One call after another until the file `STOP` is there; without ``reads`` only commands."""
        handle = self._connect()
        rng = random.Random(client)
        number = 0
        while not (self._directory / STOP).exists():
            number += 1
            if not self._call(handle, client, number, rng, reads):
                time.sleep(PAUSE_SECONDS)
            time.sleep(self._plan.pause_s)
        handle.close()

    def _connect(self) -> rayraft.Handle:
        while True:
            try:
                return rayraft.connect(self._group, timeout_s=self._plan.timeout_s)
            except Exception:  # the head or the group is away
                time.sleep(PAUSE_SECONDS)

    def _call(self, handle: rayraft.Handle, client: str, number: int, rng: random.Random, reads: bool) -> bool:
        kind, key, given, call = self._choose(handle, f"{client}.{number}", rng, reads)
        self._journal.write(Begun(time.monotonic(), client, number, kind, key, given))
        try:
            output = call()
        except Exception as error:
            self._journal.write(
                Failed(time.monotonic(), client, number, type(error).__name__, _certain(error) or kind is Kind.READ)
            )
            return False
        self._journal.write(Ended(time.monotonic(), client, number, output))
        return True

    def _choose(
        self, handle: rayraft.Handle, token: str, rng: random.Random, reads: bool
    ) -> tuple[Kind, str, Any, Callable[[], Any]]:
        """A call on one of the keys in use now; all clients turn to new keys at the same time."""
        epoch = int(time.monotonic() / self._plan.rotation_s)
        which = f"{epoch}.{rng.randrange(self._plan.keys)}"
        register, number, items = f"register-{which}", f"number-{which}", f"list-{which}"
        match rng.choices(("append", "increment", "put", "swap", "read"), (4, 2, 1, reads, 3 * reads))[0]:
            case "append":
                return Kind.APPEND, items, token, lambda: handle.append(items, token)
            case "increment":
                return Kind.INCREMENT, number, 1, lambda: handle.increment(number)
            case "put":
                return Kind.WRITE, register, token, lambda: handle.put(register, token)
            case "swap":
                old = handle.options(read="stale", max_staleness_s=60.0).get
                expected = _quietly(lambda: old(register))
                return Kind.CAS, register, [expected, token], lambda: handle.compare_and_swap(register, expected, token)
            case _:
                key = rng.choice((register, number, items))
                reader = handle.options(read=rng.choice(("linearizable", "follower")))
                return Kind.READ, key, None, lambda: reader.get(key)

    # --- the observer -------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        actor: Any = None
        while not (self._directory / STOP).exists():
            started = time.monotonic()
            try:
                actor = actor or self._find_own()
                self._write_down(ray.get(actor.report.remote(), timeout=2.0))
            except Exception:  # it is dead, hung, or there is none: look for it again
                actor = None
            time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - started)))

    def _find_own(self) -> Any:
        """The actor of the node on this machine; of several the newest."""
        cluster = find_cluster(self._group)
        own = [
            report.node_id
            for report in cluster.reports(2.0).values()
            if isinstance(report, NodeReport) and report.host == os.uname().nodename
        ]
        return cluster.actor(max(own))

    def _write_down(self, report: NodeReport) -> None:
        replica = report.replica
        self._journal.write(
            Seen(
                at=time.monotonic(),
                machine=self._machine,
                node=report.node_id,
                pid=report.pid,
                state=report.state.value,
                role=replica.role if replica else "",
                term=replica.term if replica else 0,
                leader=replica.leader if replica else 0,
                serves=bool(replica and replica.serves),
                first=replica.first_index if replica else 0,
                last=replica.last_index if replica else 0,
                commit=replica.commit if replica else 0,
                applied=replica.applied if replica else 0,
                voters=list(replica.configuration.voters) if replica else [],
                error=str(report.error or ""),
            )
        )


def _certain(error: Exception) -> bool:
    """Whether the call certainly has no effect, now or later."""
    return isinstance(error, Overloaded | TooStale) or (isinstance(error, CommandTimeout) and error.outcome_known)


def _quietly(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception:
        return None
