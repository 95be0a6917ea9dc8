"""The node actor: the remote interface of one node, and how it comes up on its disk."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from rayraft.client.leader import View
from rayraft.errors import (
    ClassNotLoadable,
    DamagedSnapshot,
    DirectoryInUse,
    DiskFailed,
    DiskFull,
    LostDisk,
    NodeRemoved,
    RayraftError,
    StateDiverged,
    StorageError,
    WrongDirectory,
)
from rayraft.machine.objects import ObjectMachine, marked_methods
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import Status, reply
from rayraft.raft.types import NodeId, SnapshotMeta
from rayraft.ray.backup_source import BACKUP_DIRECTORY, BackupSource
from rayraft.ray.channels.server import Offer, Server
from rayraft.ray.diskwatch import DiskWatch, snapshot_damaged
from rayraft.ray.founding import describe, founding_machine, keep_founding, load_machine, make_founding
from rayraft.ray.loop import RESTART_DELAY, RaftLoop
from rayraft.ray.placement import Place
from rayraft.ray.priority import take_niceness
from rayraft.ray.spec import NodeReport, NodeSpec, NodeState
from rayraft.ray.survey import leave_link, read_places, write_places
from rayraft.ray.wire import check_version, join
from rayraft.replica import Replica, ReplicaStatus
from rayraft.replica.divergence import Divergence
from rayraft.replica.forked import Copy, CopyFailed, fork
from rayraft.storage.backup import BackupHeader
from rayraft.storage.files import forget_temporary
from rayraft.storage.identity import (
    FoundingClass,
    Identity,
    check_identity,
    create_identity,
    read_identity,
    retire,
    seal,
)
from rayraft.storage.planting import finish_planting, plant_chunk
from rayraft.storage.snapshots import FileSnapshotStore, NoSnapshot
from rayraft.storage.space import check_room

# A thread for each call that may wait; as few as will do, for every hundred make the end of a killed process, and so
# the news of it, 2 ms longer.
CONCURRENCY_GROUPS = {"peer": 24, "client": 64, "watch": 64, "presence": 10}
MAX_WATCHERS = 48  # above this a watch is answered at once, so that its slots never run out
WATCH_SECONDS = 30.0
PRESENCE_SECONDS = 60.0
DIGEST_SECONDS = 120.0  # its turn among the copies on the machine may come only after `forked.LONGEST_WAIT`
COLLECT_AFTER = 10_000  # new containers: more than the calls under way make, and they die without the collector
MAX_OPEN_DELAY = 60.0  # between two attempts to open a disk that failed; whether there is room is asked more often


class Node:
    """The remote interface. Every wait has a bound, and no wait holds a slot that its end depends on."""

    def __init__(self, spec: NodeSpec) -> None:
        self._spec = spec
        self._machine: ObjectMachine | None = None
        self._fresh: ObjectMachine | None = None  # what the log will begin with, while the group is being founded
        self._state = NodeState.BLANK
        self._error: RayraftError | None = None
        self._identity: Identity | None = None
        self._loop: RaftLoop | None = None
        self._places = read_places(spec.directory)
        self._backups: BackupSource | None = None
        self._watchers = 0
        self._watch_lock = threading.Lock()
        self._watch: DiskWatch | None = None
        self._joining = threading.Lock()
        _collect_seldom()
        if spec.niceness is not None:
            take_niceness(spec.niceness)
        self._open()
        if self._may_recover():
            threading.Thread(target=self._open_again, name="rayraft-open", daemon=True).start()

    # --- coming up ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Come up as far as the disk allows; what is wrong with it is kept for `report`, not raised at Ray."""
        try:
            check_version(self._spec.group, self._spec.protocol)  # Ray starts it anew with what is installed by then
            identity = read_identity(self._spec.directory)
            if identity is None:
                if self._state is NodeState.FAILED:
                    self._fail(_lost_disk(self._spec))
                return
            check_identity(
                identity,
                directory=self._spec.directory,
                group=self._spec.group,
                cluster_id=None,
                node_id=self._spec.node_id,
            )
            self._identity = identity  # not before: what is another node's is never sealed or marked by this one
            if identity.removed:
                self._on_removed()
                return
            self._state = NodeState.FORMATTED
            self._use_founding_class()
            if identity.sealed:
                self._make_room()
                self._serve(self._open_log(identity, create=False), identity)
        except Exception as error:
            self._fail(error)

    def _use_founding_class(self) -> None:
        machine = founding_machine(self._spec.directory)
        if machine is not None:
            self._spec = replace(self._spec, machine=machine, keep_class=True)

    def _open_log(self, identity: Identity, *, create: bool) -> RaftLoop:
        machine, self._fresh = self._fresh or make_founding(self._spec.machine), None
        try:
            loop = RaftLoop(
                self._spec,
                identity,
                ReplicatedMachine(machine),
                create=create,
                on_failure=self._fail,
                on_removed=self._on_removed,
            )
        except (DamagedSnapshot, NoSnapshot) as error:
            raise snapshot_damaged(self._spec.directory, error) from error
        forget_temporary(Path(self._spec.directory))  # the log's lock says that no other process writes here
        self._machine = machine
        return loop

    def _serve(self, loop: RaftLoop, identity: Identity) -> None:
        self._loop, self._error = loop, None
        self._state = NodeState.RUNNING
        self._backups = BackupSource(self._spec, identity.cluster_id, loop)
        if self._spec.data_dir:
            leave_link(self._spec.data_dir, self._spec.home, self._spec.node_id, self._spec.directory)
        loop.start()
        self._watch = DiskWatch(self._spec.directory, loop, self._backups)
        self._watch.start()

    def _may_recover(self) -> bool:
        """A disk that was full or failed, or that another process still held, may do so no longer."""
        return self._state is NodeState.FAILED and isinstance(self._error, (DiskFailed, DirectoryInUse))

    def _open_again(self) -> None:
        delay = RESTART_DELAY
        while self._may_recover():
            time.sleep(delay)
            with contextlib.suppress(DiskFailed):
                self._make_room()
                self._open()
                delay = min(2 * delay, MAX_OPEN_DELAY)

    def _make_room(self) -> None:
        """Raise DiskFull unless there is room to open the log; a backup and what is half received go before that."""
        directory = Path(self._spec.directory)
        try:
            check_room(directory)
        except DiskFull:
            shutil.rmtree(directory / BACKUP_DIRECTORY, ignore_errors=True)
            FileSnapshotStore(directory / "snapshots").forget_received()
            check_room(directory)

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

    def format(
        self, cluster_id: str, voters: tuple[NodeId, ...], witnesses: tuple[NodeId, ...] = (), awaiting: bool = False
    ) -> NodeReport:
        """First step of founding a group: make the object, and give the blank disk an identity."""
        initial = b""
        try:
            if self._state in (NodeState.BLANK, NodeState.FORMATTED):
                self._fresh = make_founding(self._spec.machine)
                self._fresh.check_saves()
                initial = self._fresh.digest()
            if self._state is NodeState.BLANK:
                self._identity = create_identity(
                    self._spec.directory,
                    group=self._spec.group,
                    cluster_id=cluster_id,
                    node_id=self._spec.node_id,
                    voters=voters,
                    witnesses=witnesses,
                    awaiting=awaiting,
                )
                self._state = NodeState.FORMATTED
        except Exception as error:
            self._fail(error)
        return replace(self.report(), initial=initial)

    def seal(self) -> NodeReport:
        """Second step: every node has its identity now, so take part."""
        if self._state is NodeState.FORMATTED and self._identity is not None:
            try:
                if self._identity.awaiting:
                    seal(self._spec.directory)  # which says why it can not be
                # Before sealing: a sealed disk without a log is lost.
                loop = self._open_log(self._identity, create=True)
                self._identity = seal(self._spec.directory, self._describe())
                self._serve(loop, self._identity)
            except Exception as error:
                self._fail(error)
        return self.report()

    def _describe(self) -> FoundingClass | None:
        """The class that the log begins with; None where that is one which a backup's group was upgraded to."""
        assert self._machine is not None
        return None if self._machine.version else describe(self._machine.cls)

    def plant(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        """Between `format` and `seal`: the next part of a backup's state; returns how many bytes are held."""
        return plant_chunk(Path(self._spec.directory), meta, offset, data)

    def planted(self, meta: SnapshotMeta) -> NodeReport:
        """All of it is here: let the log begin with it."""
        if self._state is NodeState.FORMATTED and self._identity is not None:
            try:
                machine = ReplicatedMachine(self._fresh or make_founding(self._spec.machine))
                bare = machine.save if self._spec.node_id in meta.configuration.witnesses else None
                self._identity = finish_planting(Path(self._spec.directory), self._identity, meta, bare)
            except Exception as error:
                self._fail(error)
        return self.report()

    def join(self, cluster_id: str) -> NodeReport:
        """Come up on a blank disk as a node that a running group will make its member.

        A disk that was used before is refused: what it holds may stem from another role, or from another group.
        """
        with self._joining:
            if self._state is not NodeState.BLANK:
                used = WrongDirectory(f"{self._spec.directory} was used by a node already: name an empty directory")
                self._fail(self._error or used)
                return self.report()
            if self.format(cluster_id, ()).state is NodeState.FORMATTED and self._spec.keep_class:
                keep_founding(self._spec.directory, self._spec.machine)
            return self.seal()

    # --- calls of other nodes -----------------------------------------------------------------------------------------

    @ray.method(concurrency_group="peer")  # type: ignore[untyped-decorator]
    def deliver(self, *parts: bytes, wake: int = 0) -> bytes:
        """Messages from another node; returns messages for it. ``wake``: as for `submit`."""
        with self._looking_for(wake, parts):
            return self._deliver(parts)

    def _deliver(self, parts: tuple[bytes, ...]) -> bytes:
        if self._loop is None:
            if self._state is NodeState.BLANK:
                self._fail(_lost_disk(self._spec))  # somebody takes this node for a member
            return b""
        return self._loop.deliver(join(parts))

    @ray.method(concurrency_group="peer")  # type: ignore[untyped-decorator]
    def greet(self, node: NodeId) -> None:
        """The process of another node has come up, and has found this one."""
        if self._loop is not None:
            self._loop.greeted(node)

    @ray.method(concurrency_group="presence")  # type: ignore[untyped-decorator]
    def presence(self) -> None:
        """Held open by the followers of this node: that it breaks tells them at once that the process is gone."""
        if self._loop is not None:
            self._loop.stopped.wait(PRESENCE_SECONDS)
            if self._state is NodeState.FAILED and self._error is not None:
                raise self._error  # the process is as good as gone

    # --- calls of clients ---------------------------------------------------------------------------------------------

    @ray.method(concurrency_group="client")  # type: ignore[untyped-decorator]
    def submit(self, *parts: bytes, wake: int = 0) -> bytes:
        """One encoded request of commands; returns the encoded reply.

        ``wake``: the number of channels through which further calls are about to come.
        """
        with self._looking_for(wake, parts):
            return self._ask("submit", join(parts))

    @ray.method(concurrency_group="client")  # type: ignore[untyped-decorator]
    def query(self, *parts: bytes, wake: int = 0) -> bytes:
        """Encoded queries; returns the encoded reply. ``wake``: as for `submit`."""
        with self._looking_for(wake, parts):
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
        """Wait until this node knows another leader or term than the caller, or other members than now; at most
        `WATCH_SECONDS`.
        """
        if self._loop is None:
            return View().encode()
        with self._watch_lock:
            full = self._watchers >= MAX_WATCHERS
            self._watchers += not full
        if full:
            return self._loop.view.encode()
        try:
            return self._loop.wait_for_view(term, leader, WATCH_SECONDS).encode()
        finally:
            with self._watch_lock:
                self._watchers -= 1

    # --- calls through channels (`rayraft.ray.channels`) --------------------------------------------------------------

    @ray.method(concurrency_group="peer")  # type: ignore[untyped-decorator]
    def offer_channel(self, caller_node: str) -> Offer | None:
        """For a caller on that Ray node; None where calls have to stay remote calls."""
        channels = self._channels()
        return channels.offer(caller_node) if channels is not None else None

    @ray.method(concurrency_group="peer")  # type: ignore[untyped-decorator]
    def accept_channel(self, link: int, calls: Any) -> bool:
        channels = self._channels()
        return channels is not None and channels.accept(link, calls)

    @ray.method(concurrency_group="peer")  # type: ignore[untyped-decorator]
    def wake_channel(self, link: int) -> bool:
        """Have this process look for calls; False where it does not know these channels."""
        channels = self._channels()
        return channels is not None and channels.wake(link)

    @contextlib.contextmanager
    def _looking_for(self, link: int, parts: tuple[bytes, ...]) -> Iterator[None]:
        """From before a call to after it."""
        channels = self._channels() if link else None
        if channels is None:
            yield
            return
        size = sum(map(len, parts))
        channels.wake(link, size)
        yield
        channels.wake(link, size)

    def _channels(self) -> Server | None:
        return self._loop.channels if self._loop is not None else None

    # --- calls of operators -------------------------------------------------------------------------------------------

    def report(self) -> NodeReport:
        """Where this node stands; answered also when it does not serve."""
        running = self._loop is not None and self._state is NodeState.RUNNING
        replica: ReplicaStatus | None = self._running().run(Replica.status) if running else None
        diverged = replica is not None and replica.diverged
        return NodeReport(
            node_id=self._spec.node_id,
            state=NodeState.DIVERGED if diverged else self._state,
            error=self._error or _divergence(self._spec.node_id, replica) or self._warning(),
            identity=self._identity,
            pid=os.getpid(),
            directory=self._spec.directory,
            methods=self._methods(),
            host=os.uname().nodename,
            rss_bytes=_resident_bytes(),
            disk_bytes=_directory_bytes(self._spec.directory),
            replica=replica,
            home=self._spec.home,
            places=dict(self._places),
            replaces=self._spec.replaces,
            machine=self._machine.cls.__name__ if self._machine is not None else "",
            version=self._machine.version if self._machine is not None else 0,
            recovery=self._loop.recovery if self._loop is not None else None,
            niceness=os.getpriority(os.PRIO_PROCESS, 0),
            callers=channels.callers if (channels := self._channels()) is not None else 0,
        )

    def note_places(self, places: Mapping[NodeId, Place]) -> None:
        """Remember on disk where the group's nodes live: a cold start asks for it where a machine is away."""
        known = {**self._places, **places}
        if self._state is NodeState.RUNNING and known != self._places:
            write_places(self._spec.directory, known)
            self._places = known

    def _warning(self) -> RayraftError | None:
        return self._watch.warning if self._watch is not None and self._state is NodeState.RUNNING else None

    def _methods(self) -> dict[str, bool]:
        if self._machine is not None:
            return self._machine.methods
        try:
            founding, *_ = load_machine(self._spec.machine)
        except ClassNotLoadable:  # which `format` says, or said when the disk was opened
            return {}
        return {name: mark.is_command for name, mark in marked_methods(founding).items()}

    def prepare_upgrade(self, packed: bytes) -> int:
        """Whether this node can upgrade to the class in ``packed``; the version that it has now.

        Raises UpgradeFailed, ClassNotLoadable. From now on the node keeps the class that its log began with.
        """
        machine = self._machine
        if machine is None:
            raise StorageError(f"node {self._spec.node_id} is {self._state.value}, not running")
        state, version = self._running().run(lambda _: (machine.pickled_state(), machine.version))
        if self._identity is None or self._spec.node_id not in self._identity.witnesses:
            machine.rehearse(state, packed)
        keep_founding(self._spec.directory, self._spec.machine)
        self._use_founding_class()
        return int(version)

    def digest(self) -> tuple[int, bytes]:
        """(applied index, digest of the state there)."""
        index, found = self._running().run(_begin_digest)
        try:
            return index, found.wait(DIGEST_SECONDS) if isinstance(found, Copy) else found
        except CopyFailed as error:
            raise StorageError(
                f"node {self._spec.node_id} could not compute the digest of its state: {error}"
            ) from None

    def spec(self) -> NodeSpec:
        """What this node was started with: the pattern for another one."""
        return self._spec

    def campaign(self) -> None:
        """Stand for election now instead of after the timeout; harmless when there is a leader."""
        self._running().run(lambda replica: replica.raft.campaign() if not replica.raft.leader else None)

    def take_snapshot(self) -> int:
        """Have the state saved soon; the index that it will have at least."""

        def order(replica: Replica) -> int:
            replica.compaction.order()
            return replica.raft.log.applied

        index: int = self._running().run(order)
        return index

    def backup_begin(self) -> str:
        """Save the state for a backup (`rayraft.ray.backup`); the ticket for the three calls below."""
        self._running()
        return self._backup().begin()

    def backup_header(self, ticket: str) -> BackupHeader | None:
        return self._backup().header(ticket)

    def backup_read(self, ticket: str, offset: int) -> bytes:
        return self._backup().read(ticket, offset)

    def backup_end(self, ticket: str) -> None:
        self._backup().end(ticket)

    def _backup(self) -> BackupSource:
        if self._backups is None:
            raise StorageError(f"node {self._spec.node_id} has no backup under way")
        return self._backups

    def retire(self, cluster_id: str | None = None) -> None:
        """This node is no member (any longer), and may not know: stop, and mark the disk, if it is of that cluster."""
        with self._joining:  # a join that is under way is marked, one that comes later finds that it is too late
            if self._state is NodeState.BLANK:
                self._state = NodeState.STOPPED
            if self._identity is None or self._state is NodeState.REMOVED:
                return
            if cluster_id in (None, self._identity.cluster_id):
                if self._loop is not None:
                    self._loop.stop()
                self._on_removed()

    def stop(self) -> None:
        """Close the disk in good order; the process may end then."""
        if self._loop is not None:
            self._loop.stop()
        self._state = NodeState.STOPPED

    def _running(self) -> RaftLoop:
        if self._loop is None or self._state is not NodeState.RUNNING:
            raise self._error or StorageError(f"node {self._spec.node_id} is {self._state.value}, not running")
        return self._loop


def _begin_digest(replica: Replica) -> tuple[int, Copy | bytes]:
    """In a copy: a node would stand still for a second with a million keys, and a leader be deposed."""
    index, digest = replica.raft.log.applied, replica.machine.digest
    try:
        return index, fork(digest)
    except OSError:  # there is no other way
        return index, digest()


def _collect_seldom() -> None:
    """A full collection stops a node for 0.1 s, and all nodes at about the same command, since all do the same.

    So what Python and Ray have loaded is never looked at again; only a user's object that holds many others makes
    collections worth their while.
    """
    gc.collect()
    gc.freeze()
    _, *older = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *older)


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
