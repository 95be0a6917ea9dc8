"""The node actor: one raft thread that owns the replica, fed by an inbox; remote methods only enqueue and wait."""

from __future__ import annotations

import contextlib
import enum
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import cloudpickle
import ray

from rayraft.client.leader import leader_view
from rayraft.errors import LostDisk, NodeRemoved, RayraftError, StateDiverged, StorageError, WrongDirectory
from rayraft.machine.determinism import Evidence, first_difference
from rayraft.machine.objects import ObjectMachine, marked_methods
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import Status, reply
from rayraft.raft.types import NO_NODE, NodeId
from rayraft.ray.names import node_handle
from rayraft.ray.placement import ANYWHERE, NOWHERE, Place, Placement
from rayraft.ray.survey import read_places, write_places
from rayraft.ray.transport import RayTransport, Slot
from rayraft.ray.wire import PROTOCOL_VERSION, decode_messages, join
from rayraft.replica import Replica, ReplicaConfig, ReplicaStatus
from rayraft.replica.digester import ForkDigester
from rayraft.replica.divergence import Divergence
from rayraft.replica.snapshotter import ForkSnapshotter
from rayraft.storage.identity import Identity, check_identity, create_identity, read_identity, retire, seal
from rayraft.storage.rocks import RocksLogStore
from rayraft.storage.snapshots import FileSnapshotStore

CONCURRENCY_GROUPS = {"peer": 40, "client": 128, "watch": 160, "presence": 16}
MAX_WATCHERS = 128  # above this a watch is answered at once, so that its slots never run out
WATCH_SECONDS = 30.0
PRESENCE_SECONDS = 60.0
REPLY_SECONDS = 60.0  # after this a waiting call goes back empty-handed, whatever happened to its request
NOT_REPRODUCED = (
    "the commands since the last state that is known to be right were applied twice and gave the same state, so it was "
    "none of them, unless it reads a file, the network or a global variable: is the object changed from outside, or "
    "the memory of that machine faulty?"
)
RESTART_DELAY = 3.0  # a node whose disk failed shows why for so long, then ends, and Ray starts it anew


class NodeState(enum.Enum):
    BLANK = "blank"  # no identity on the disk yet
    FORMATTED = "formatted"  # an identity that is not sealed: the group is being founded
    RUNNING = "running"
    DIVERGED = "diverged"  # its state is wrong and being rebuilt: it votes and stores the log, and serves nobody
    REMOVED = "removed"  # it has left the group; its disk stays as it is
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """All that a node needs to come up, and to come up again after its process was killed."""

    group: str
    node_id: NodeId
    directory: str
    machine: bytes  # cloudpickle of (class, args, kwargs)
    config: ReplicaConfig
    fsync: bool = True
    protocol: int = PROTOCOL_VERSION
    home: Place = NOWHERE  # where it runs, and nowhere else
    placement: Placement = ANYWHERE  # where nodes that join later may live
    data_dir: str = ""  # above the directories of all nodes, as `rayraft.start` was given it
    replaces: NodeId = NO_NODE  # the supervisor started it in the place of this one


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node says of itself."""

    node_id: NodeId
    state: NodeState
    error: RayraftError | None
    identity: Identity | None
    pid: int
    directory: str
    methods: dict[str, bool]  # name -> whether it is a command
    host: str
    rss_bytes: int
    disk_bytes: int
    replica: ReplicaStatus | None  # None unless it is running
    protocol: int = PROTOCOL_VERSION
    home: Place = NOWHERE
    places: Mapping[NodeId, Place] = field(default_factory=dict)  # where the group's nodes live, as it was told
    replaces: NodeId = NO_NODE


class Node:
    """The remote interface. Every wait has a bound, and no wait holds a slot that its end depends on."""

    def __init__(self, spec: NodeSpec) -> None:
        self._spec = spec
        self._cls, self._args, self._kwargs = cloudpickle.loads(spec.machine)
        self._methods = {name: mark.is_command for name, mark in marked_methods(self._cls).items()}
        self._state = NodeState.BLANK
        self._error: RayraftError | None = None
        self._identity: Identity | None = None
        self._loop: RaftThread | None = None
        self._places = read_places(spec.directory)
        self._watchers = 0
        self._watch_lock = threading.Lock()
        self._open()

    # --- coming up ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Come up as far as the disk allows; what is wrong with it is kept for `report`, not raised at Ray."""
        try:
            self._identity = read_identity(self._spec.directory)
            if self._identity is None:
                return
            check_identity(
                self._identity,
                directory=self._spec.directory,
                group=self._spec.group,
                cluster_id=None,
                node_id=self._spec.node_id,
            )
            if self._identity.removed:
                self._on_removed()
                return
            self._state = NodeState.FORMATTED
            if self._identity.sealed:
                self._serve(self._open_log(self._identity, create=False))
        except Exception as error:
            self._fail(error)

    def _open_log(self, identity: Identity, *, create: bool) -> RaftThread:
        machine = ReplicatedMachine(ObjectMachine(self._cls, self._args, self._kwargs))
        return RaftThread(
            self._spec, identity, machine, create=create, on_failure=self._fail, on_removed=self._on_removed
        )

    def _serve(self, loop: RaftThread) -> None:
        self._loop = loop
        self._state = NodeState.RUNNING
        loop.start()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, RayraftError):
            error = StorageError("".join(traceback.format_exception(error)))
        self._error, self._state = error, NodeState.FAILED
        print(
            f"rayraft: node {self._spec.node_id} of {self._spec.group!r} failed: {error}", file=sys.stderr, flush=True
        )

    def _on_removed(self) -> None:
        """The group goes on without this node; its disk is marked, so that it never takes part again."""
        self._identity = retire(self._spec.directory)
        self._state, self._loop = NodeState.REMOVED, None
        self._error = NodeRemoved(
            f"node {self._spec.node_id} was removed from {self._spec.group!r}: its directory {self._spec.directory} is "
            "no longer needed"
        )

    def format(self, cluster_id: str, voters: tuple[NodeId, ...], witnesses: tuple[NodeId, ...] = ()) -> NodeReport:
        """First step of founding a group: give the blank disk an identity."""
        if self._state is NodeState.BLANK:
            try:
                self._identity = create_identity(
                    self._spec.directory,
                    group=self._spec.group,
                    cluster_id=cluster_id,
                    node_id=self._spec.node_id,
                    voters=voters,
                    witnesses=witnesses,
                )
                self._state = NodeState.FORMATTED
            except Exception as error:
                self._fail(error)
        return self.report()

    def seal(self) -> NodeReport:
        """Second step: every node has its identity now, so take part."""
        if self._state is NodeState.FORMATTED and self._identity is not None:
            try:
                loop = self._open_log(
                    self._identity, create=True
                )  # before sealing: a sealed disk without a log is lost
                self._identity = seal(self._spec.directory)
                self._serve(loop)
            except Exception as error:
                self._fail(error)
        return self.report()

    def join(self, cluster_id: str) -> NodeReport:
        """Come up on a blank disk as a node that a running group will make its member.

        A disk that was used before is refused: what it holds may stem from another role, or from another group.
        """
        if self._state is not NodeState.BLANK:
            self._fail(WrongDirectory(f"{self._spec.directory} was used by a node already: name an empty directory"))
            return self.report()
        self.format(cluster_id, ())
        return self.seal()

    # --- calls of other nodes -----------------------------------------------------------------------------------------

    @ray.method(concurrency_group="peer")  # type: ignore[untyped-decorator]
    def deliver(self, *parts: bytes) -> bytes:
        """Messages from another node; returns messages for it."""
        if self._loop is None:
            if self._state is NodeState.BLANK:
                self._fail(_lost_disk(self._spec))  # somebody takes this node for a member
            return b""
        return self._loop.deliver(join(parts))

    @ray.method(concurrency_group="presence")  # type: ignore[untyped-decorator]
    def presence(self) -> None:
        """Held open by the followers of this node: that it breaks tells them at once that the process is gone."""
        if self._loop is not None:
            self._loop.stopped.wait(PRESENCE_SECONDS)

    # --- calls of clients ---------------------------------------------------------------------------------------------

    @ray.method(concurrency_group="client")  # type: ignore[untyped-decorator]
    def submit(self, *parts: bytes) -> bytes:
        """One encoded request of commands; returns the encoded reply."""
        return self._ask("submit", join(parts))

    @ray.method(concurrency_group="client")  # type: ignore[untyped-decorator]
    def query(self, *parts: bytes) -> bytes:
        """Encoded queries; returns the encoded reply."""
        return self._ask("query", join(parts))

    @ray.method(concurrency_group="client")  # type: ignore[untyped-decorator]
    def order(self, data: bytes) -> bytes:
        """An operator's order (`rayraft.replica.administration`); returns the encoded reply when it is done."""
        return self._ask("order", data)

    def _ask(self, kind: str, data: bytes) -> bytes:
        if self._loop is None or self._state is not NodeState.RUNNING:
            return reply(Status.FAILED, str(self._error or self._state.value).encode())
        return self._loop.ask(kind, data)

    @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
    def watch(self, term: int, leader: NodeId) -> bytes:
        """Wait until this node knows another leader or term than the caller, `WATCH_SECONDS` at most."""
        if self._loop is None:
            return leader_view(0, NO_NODE)
        with self._watch_lock:
            full = self._watchers >= MAX_WATCHERS
            self._watchers += not full
        if full:
            return leader_view(*self._loop.view)
        try:
            return leader_view(*self._loop.wait_for_view(term, leader, WATCH_SECONDS))
        finally:
            with self._watch_lock:
                self._watchers -= 1

    # --- calls of operators -------------------------------------------------------------------------------------------

    def report(self) -> NodeReport:
        """Where this node stands; answered also when it does not serve."""
        running = self._loop is not None and self._state is NodeState.RUNNING
        replica: ReplicaStatus | None = self._running().run(Replica.status) if running else None
        diverged = replica is not None and replica.diverged
        return NodeReport(
            node_id=self._spec.node_id,
            state=NodeState.DIVERGED if diverged else self._state,
            error=self._error or _divergence(self._spec.node_id, replica),
            identity=self._identity,
            pid=os.getpid(),
            directory=self._spec.directory,
            methods=self._methods,
            host=os.uname().nodename,
            rss_bytes=_resident_bytes(),
            disk_bytes=_directory_bytes(self._spec.directory),
            replica=replica,
            home=self._spec.home,
            places=dict(self._places),
            replaces=self._spec.replaces,
        )

    def note_places(self, places: Mapping[NodeId, Place]) -> None:
        """Remember on disk where the group's nodes live: a cold start asks for it where a machine is away."""
        known = {**self._places, **places}
        if self._state is NodeState.RUNNING and known != self._places:
            write_places(self._spec.directory, known)
            self._places = known

    def digest(self) -> tuple[int, bytes]:
        """(applied index, digest of the state there)."""
        result: tuple[int, bytes] = self._running().run(lambda r: (r.raft.log.applied, r.machine.digest()))
        return result

    def spec(self) -> NodeSpec:
        """What this node was started with: the pattern for another one."""
        return self._spec

    def campaign(self) -> None:
        """Stand for election now instead of after the timeout; harmless when there is a leader."""
        self._running().run(lambda replica: replica.raft.campaign() if not replica.raft.leader else None)

    def take_snapshot(self) -> None:
        self._running().run(lambda replica: replica.take_snapshot())

    def retire(self) -> None:
        """The group has removed this node, and it may not know: stop, and mark the disk."""
        if self._identity is not None and self._state is not NodeState.REMOVED:
            if self._loop is not None:
                self._loop.stop()
            self._on_removed()

    def stop(self) -> None:
        """Close the disk in good order; the process may end then."""
        if self._loop is not None:
            self._loop.stop()
        self._state = NodeState.STOPPED

    def _running(self) -> RaftThread:
        if self._loop is None or self._state is not NodeState.RUNNING:
            raise self._error or StorageError(f"node {self._spec.node_id} is {self._state.value}, not running")
        return self._loop


class RaftThread:
    """Owns the replica: everything that happens to it happens in this thread, one inbox item after another."""

    def __init__(
        self,
        spec: NodeSpec,
        identity: Identity,
        machine: ReplicatedMachine,
        *,
        create: bool,
        on_failure: Callable[[Exception], None],
        on_removed: Callable[[], None],
    ) -> None:
        self._on_removed = on_removed
        self._group, self._node, self._machine = spec.group, spec.node_id, spec.machine
        self._inbox: SimpleQueue[tuple[Callable[..., None], Any, Any]] = SimpleQueue()
        self._on_failure = on_failure
        self._view_changed = threading.Condition()
        self.view: tuple[int, NodeId] = (0, NO_NODE)
        self.stopped = threading.Event()
        self._transport = RayTransport(
            lambda node: node_handle(spec.group, node),
            lambda node, data: self._inbox.put((self._on_messages, data, None)),
            lambda node: self._inbox.put((self._on_lost, node, None)),
        )
        self._watched: NodeId = NO_NODE  # the leader whose presence call is open
        self._presence_epoch = 0
        directory = Path(spec.directory)
        store = RocksLogStore(
            directory / "log", identity.configuration, owner=identity.disk_id, create=create, fsync=spec.fsync
        )
        try:
            snapshots = FileSnapshotStore(directory / "snapshots")
            self._replica = Replica(
                spec.config,
                store,
                snapshots,
                ForkSnapshotter(snapshots),
                machine,
                self._transport,
                rng=random.Random(),
                now=time.monotonic(),
                wall_clock=time.time,
                clock=time.monotonic,
                digester=ForkDigester(),
                on_divergence=self._investigate,
            )
        except BaseException:
            store.close()
            raise
        self._thread = threading.Thread(target=self._main, name="rayraft-raft", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # --- from other threads -------------------------------------------------------------------------------------------

    def deliver(self, data: bytes) -> bytes:
        slot: Slot = SimpleQueue()
        self._inbox.put((self._on_call, data, slot))
        return self._wait(slot) or b""

    def ask(self, kind: str, data: bytes) -> bytes:
        slot: Slot = SimpleQueue()
        handlers = {"submit": self._on_submit, "query": self._on_query, "order": self._on_order}
        self._inbox.put((handlers[kind], data, slot))
        return self._wait(slot) or reply(Status.BUSY)

    def _wait(self, slot: Slot) -> bytes | None:
        try:
            return slot.get(timeout=REPLY_SECONDS)
        except Empty:
            return None

    def run(self, function: Callable[[Replica], Any]) -> Any:
        """Run ``function`` on the replica between two turns; returns its result or raises its exception."""
        done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._inbox.put((self._on_run, function, done))
        try:
            result, error = done.get(timeout=REPLY_SECONDS)
        except Empty:
            raise StorageError(
                f"the node did not get to it within {REPLY_SECONDS} s: its disk or a command hangs"
            ) from None
        if error is not None:
            raise error
        return result

    def wait_for_view(self, term: int, leader: NodeId, timeout: float) -> tuple[int, NodeId]:
        def news() -> bool:
            known_term, known_leader = self.view
            return self.stopped.is_set() or (
                known_leader != NO_NODE and known_term >= term and (known_term, known_leader) != (term, leader)
            )

        with self._view_changed:
            self._view_changed.wait_for(news, timeout)
            return self.view

    def stop(self) -> None:
        self._inbox.put((self._on_stop, None, None))
        self._thread.join(timeout=10)

    # --- the raft thread ----------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self.stopped.is_set():
                self._take_inbox()
                if self.stopped.is_set():
                    return
                self._replica.turn(time.monotonic())
                self._transport.close_slots()
                self._after_turn()
        except Exception as error:
            self._die(error)

    def _take_inbox(self) -> None:
        """Wait for something to do, then take all that is there: it shares one turn, one write, one sync."""
        inbox = self._inbox
        timeout = self._replica.next_deadline - time.monotonic()
        try:
            item = inbox.get(timeout=timeout) if timeout > 0 else inbox.get_nowait()
            while True:
                handler, data, extra = item
                handler(data, extra)
                item = inbox.get_nowait()
        except Empty:
            pass

    def _on_call(self, data: bytes, slot: Slot) -> None:
        messages = decode_messages(data)
        self._transport.open_slot(messages[0].src, slot)
        for message in messages:
            self._replica.receive(message)

    def _on_messages(self, data: bytes, _: None) -> None:
        for message in decode_messages(data):
            self._replica.receive(message)

    def _on_submit(self, data: bytes, slot: Slot) -> None:
        self._replica.submit(data, slot.put)

    def _on_query(self, data: bytes, slot: Slot) -> None:
        self._replica.query(data, slot.put)

    def _on_order(self, data: bytes, slot: Slot) -> None:
        self._replica.order(data, slot.put)

    def _on_lost(self, node: NodeId, _: None) -> None:
        self._replica.raft.report_unreachable(node)

    def _on_run(self, function: Callable[[Replica], Any], done: SimpleQueue[tuple[Any, BaseException | None]]) -> None:
        try:
            done.put((function(self._replica), None))
        except Exception as error:
            done.put((None, error))

    def _on_stop(self, _: None, __: None) -> None:
        self._end("the node was stopped")

    def _end(self, reason: str) -> None:
        self.stopped.set()
        self._replica.refuse_all(reply(Status.FAILED, reason.encode()))
        self._replica.close()
        self._notify_view()

    def _after_turn(self) -> None:
        raft = self._replica.raft
        view = (raft.term, raft.leader)
        if view != self.view:
            self.view = view
            self._notify_view()
        if raft.leader != self._watched:
            self._watch_presence(raft.leader)
        if raft.removed and not raft.is_leader:  # a leader that was removed hands over first
            self._end("the node was removed from its group")
            self._on_removed()

    def _notify_view(self) -> None:
        with self._view_changed:
            self._view_changed.notify_all()

    # --- states that differ -------------------------------------------------------------------------------------------

    def _investigate(self, evidence: Evidence) -> None:
        """Look for the command in other processes, beside the work; what is found goes into the status."""
        print(
            f"rayraft: node {self._node} of {self._group!r}: {self._replica.state_check.found}",
            file=sys.stderr,
            flush=True,
        )
        threading.Thread(target=self._find_culprit, args=(evidence,), name="rayraft-culprit", daemon=True).start()

    def _find_culprit(self, evidence: Evidence) -> None:
        try:
            found = first_difference(self._machine, evidence)
            culprit = str(found) if found is not None else NOT_REPRODUCED
        except Exception as error:  # only the name is missing then
            culprit = f"the command could not be looked for: {error}"
        print(f"rayraft: node {self._node} of {self._group!r}: {culprit}", file=sys.stderr, flush=True)
        self._inbox.put((self._on_culprit, culprit, None))

    def _on_culprit(self, culprit: str, _: None) -> None:
        self._replica.name_culprit(culprit)

    # --- the open call on the leader ----------------------------------------------------------------------------------

    def _watch_presence(self, leader: NodeId) -> None:
        """Hold a call open on the leader's process: Ray breaks it within milliseconds when the process dies."""
        self._presence_epoch += 1
        self._watched = leader
        if leader in (NO_NODE, self._replica.raft.id):
            return
        handle = self._transport.handle(leader)
        if handle is None:
            self._watched = NO_NODE  # still being looked up: the next turn tries again
            return
        epoch = self._presence_epoch
        handle.presence.remote().future().add_done_callback(
            lambda future: self._inbox.put((self._on_presence_end, epoch, future.exception()))
        )

    def _on_presence_end(self, epoch: int, error: BaseException | None) -> None:
        if epoch != self._presence_epoch:
            return
        lost, self._watched = self._watched, NO_NODE
        if error is not None:
            self._replica.raft.report_down(lost)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _die(self, error: Exception) -> None:
        """The disk failed, or the code did: say why, refuse everyone, and end the process: Ray starts it anew."""
        self.stopped.set()
        self._on_failure(error)
        refusal = reply(Status.FAILED, str(error).encode())
        with contextlib.suppress(Exception):
            self._replica.refuse_all(refusal)
            self._transport.close_slots()
        self._notify_view()
        deadline = time.monotonic() + RESTART_DELAY
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                _, _, extra = self._inbox.get(timeout=left)
                if isinstance(extra, SimpleQueue):
                    extra.put(refusal)
        os._exit(1)


def _lost_disk(spec: NodeSpec) -> LostDisk:
    return LostDisk(
        f"node {spec.node_id} of {spec.group!r} is a member, but its data directory {spec.directory} is missing or "
        "empty: a lost disk must not vote under its old id. Put the directory back, or replace the node by a new one"
    )


def _divergence(node: NodeId, replica: ReplicaStatus | None) -> StateDiverged | None:
    """What an operator must know of states that differ, where this node is one that may be wrong."""
    found: Divergence | None = replica.divergence if replica is not None else None
    if replica is None or found is None or (found.over and not replica.diverged) or node not in found.nodes:
        return None
    now = "it does not serve, and is being rebuilt from another node's snapshot" if replica.diverged else "it serves"
    return StateDiverged(f"{found}; node {node}: {now}")


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _directory_bytes(directory: str) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # files come and go under a running database
                total += os.stat(os.path.join(folder, name)).st_size
    return total
