"""One simulated process: the real `Replica` over a simulated disk, network and clock, and its life and deaths."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from rayraft.errors import DiskFailed, LostDisk, StorageError
from rayraft.machine.objects import ObjectMachine, object_state
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import Consistency, Status, query_header, reply, request_header
from rayraft.raft.raft import Raft
from rayraft.raft.types import AnyMessage, Configuration, Entry, NodeId
from rayraft.replica import Replica
from rayraft.simulation.clock import Clock, Scheduler
from rayraft.simulation.disk import DelayedSnapshotter, SimulatedLog, SimulatedSnapshots, Trouble
from rayraft.simulation.effects import ANSWER, APPLY, RESTORE, SEND, Crash, Effects
from rayraft.simulation.invariants import Invariants, InvariantViolated
from rayraft.simulation.members import is_wise
from rayraft.simulation.model import Notebook, Replies
from rayraft.simulation.network import Network
from rayraft.simulation.plan import Fault, Plan, stream
from rayraft.simulation.story import Story
from rayraft.storage.identity import Identity, check_identity

GROUP = "simulated"
NOON = 1_000.0  # what every time of day begins with, in seconds: no jump leads to before the epoch
CHECK_EVERY = 16  # turns between two looks at the whole log in memory
SPIN_TURNS, SPIN_SECONDS = 4096, 0.05  # so many turns in so little time are a node that wakes itself for nothing


@dataclass(slots=True)
class World:
    """What all nodes share."""

    plan: Plan
    scheduler: Scheduler
    network: Network
    invariants: Invariants
    story: Story
    nodes: dict[NodeId, Node]

    @property
    def usable(self) -> list[Node]:
        """Every node that has not lost its disk, nor left the group for good."""
        return [node for node in self.nodes.values() if not node.spoilt and not node.left]

    def join(self, *, witness: bool) -> Node:
        """A new node comes up on an empty disk, under an id that was never used; nobody has made it a member yet."""
        node = Node(self, max(self.nodes) + 1, Configuration(), witness=witness)
        self.nodes[node.id] = node
        self.invariants.watch(node)
        node.start()
        return node


class Ask(enum.Enum):
    COMMAND = "command"
    READ = "read"
    ORDER = "order"


@dataclass(slots=True)
class ClientCall:
    """A request on its way to a node; ``reply`` gets the answer and the simulated time at which it left."""

    data: bytes
    kind: Ask
    reply: Callable[[bytes, float], None]


class WatchedMachine(ReplicatedMachine):
    """The real machine, with a point to crash at before and after each effect, and an observer."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        super().__init__(ObjectMachine(Notebook))
        self._node = node

    def apply(self, entry: Entry) -> Replies:
        node = self._node
        node.effects.point(APPLY)
        node.world.invariants.applying(node.id, entry)
        replies = super().apply(entry)
        node.world.invariants.applied(node.id, entry, replies)
        node.effects.point(APPLY)
        return replies

    def save(self, stream: BinaryIO) -> None:
        super().save(stream)
        self._node.world.invariants.saved(self._node.id, self)

    def restore(self, stream: BinaryIO) -> None:
        self._node.effects.point(RESTORE)
        super().restore(stream)
        self._node.installed += self._node.alive
        self._node.world.invariants.restored(self._node.id, self._node.snapshots.loaded, self)

    def state(self) -> dict[str, Any]:
        """The state of the user's object, to be compared with the model's."""
        assert isinstance(self.machine, ObjectMachine)
        state: dict[str, Any] = object_state(self.machine._object)
        return state


class Node:
    """A disk that stays, and processes that come and go on it.

    While a turn's disk work takes time the process is busy: what arrives waits, and is taken in all at once.
    """

    def __init__(self, world: World, node: NodeId, founders: Configuration, *, witness: bool) -> None:
        """``founders`` is empty for a node that joins a running group."""
        plan = world.plan
        self.id = node
        self.world = world
        self.witness = witness
        self.identity: Identity | None = Identity(
            group=GROUP,
            cluster_id=GROUP,
            node_id=node,
            disk_id=f"disk {node}",
            voters=founders.voters,
            witnesses=founders.witnesses,
            sealed=True,
        )
        self.misplaced: Identity | None = None  # the next process finds this disk in place of its own
        self._at_end: Callable[[], None] | None = None  # what happens to the disk when the process is gone
        self.left = False  # the group goes on without it: it has stopped for good
        self.spoilt = ""  # what happened to the disk: no process may run from it any more
        self.effects = Effects()
        self.rng = stream(plan.seed, f"node {node}")
        self.trouble = Trouble(self.effects, self.rng, plan.sync_latency)
        self.clock = Clock(self.rng.uniform(0, 1000), plan.draw_rate(self.rng))
        self.wall_skew = self.rng.uniform(-0.5, 0.5)
        self._empty_disk(founders)
        self.replica: Replica | None = None
        self.machine: WatchedMachine | None = None
        self.life = 0
        self.installed = 0  # snapshots that came from a leader
        self.restart_after = 0.0
        self._inbox: list[AnyMessage | ClientCall] = []
        self._free_at = 0.0
        self._wake_at = 0.0
        self._turns = 0
        self._spin_watched = 0.0
        self._pardons = 0

    def _empty_disk(self, founders: Configuration) -> None:
        world = self.world
        self.store = SimulatedLog(self.id, founders, self.trouble, world.invariants, self.now)
        self.snapshots = SimulatedSnapshots(self.trouble, world.plan.chunk_bytes, self.now)

    def now(self) -> float:
        return self.world.scheduler.now

    def clock_now(self) -> float:
        return self.clock.read(self.world.scheduler.now)

    @property
    def alive(self) -> bool:
        return self.replica is not None

    @property
    def raft(self) -> Raft | None:
        return None if self.replica is None else self.replica.raft

    @property
    def leads(self) -> bool:
        return self.replica is not None and self.replica.raft.is_leader

    # --- life and death -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.replica is not None or self.left:
            return
        world, now = self.world, self.now()
        self.life += 1
        self._inbox.clear()
        self.effects.elapsed = 0.0
        snapshotter = DelayedSnapshotter(self.snapshots, world.plan.snapshot_delay, self.now)
        self.machine = WatchedMachine(self)
        try:
            self._open_disk()
            self.replica = Replica(
                world.plan.replica_config(self.id),
                self.store,
                self.snapshots,
                snapshotter,
                self.machine,
                self,
                rng=random.Random(self.rng.getrandbits(64)),
                now=self.clock.read(now),
                wall_clock=lambda: NOON + self.now() + self.wall_skew,
                clock=lambda: self.clock.read(world.scheduler.now + self.effects.elapsed),
            )
        except Crash:
            self._end("crash in a turn", "node {} dies as it starts")
            return
        except InvariantViolated:
            raise
        except StorageError as error:
            self._refuse(error)
            return
        except Exception as error:
            raise self._unexpected(error) from error
        world.invariants.started(self.id)
        if self.spoilt:
            name = "lost disk" if self.identity is None else "damage"
            raise world.invariants.fail(name, f"node {self.id} starts, although {self.spoilt}")
        self._free_at = self._wake_at = 0.0
        world.story.headline(now, "node {} starts: {}", self.id, self.store.hard_state())
        self._plan_wake()

    def _open_disk(self) -> None:
        """What every node does before anything else, with the real rules. Raises StorageError."""
        misplaced, self.misplaced = self.misplaced, None
        found = misplaced or self.identity
        if found is None:
            raise LostDisk(f"node {self.id} is known to its group, but its disk is empty")
        check_identity(found, directory="disk", group=GROUP, cluster_id=GROUP, node_id=self.id)
        if misplaced is not None:
            raise self.world.invariants.fail("lost disk", f"node {self.id} starts from the disk of {misplaced.node_id}")
        self.store.open()
        self.store.check()

    def _refuse(self, error: StorageError) -> None:
        """The disk is not what it should be: better no node than one that has forgotten its votes."""
        world, self.replica = self.world, None
        world.story.headline(self.now(), "node {} refuses to start: {}", self.id, error)
        world.invariants.stopped(self.id)
        if not self.spoilt:
            world.scheduler.after(self.restart_after + 0.01, self.start)

    def lose_disk(self) -> None:
        """The process and the disk are gone; the next process finds an empty one."""

        def replace() -> None:
            self._empty_disk(Configuration())
            self.identity = None

        self._spoil("its disk was replaced by an empty one", replace)

    def damage_disk(self) -> None:
        """The process ends, and a bit of what is stored flips."""

        def flip() -> None:
            snapshot = self.store.snapshot()
            in_snapshot = snapshot.index and self.rng.random() < 0.5 and self.snapshots.flip_bit(snapshot, self.rng)
            if not in_snapshot:
                self.store.flip_bit(self.rng)

        self._spoil("a bit on its disk has flipped", flip)

    def _spoil(self, what: str, act: Callable[[], None]) -> None:
        self.spoilt = what
        if self.replica is None:
            act()
        else:
            self._at_end = act
            self.kill(Fault.CRASH.value)

    def kill(self, kind: str) -> None:
        """End the process, after the work on the disk that is under way."""
        if self.replica is None:
            return
        if self._free_at > self.now():
            doomed = self.life, self._pardons
            self.world.scheduler.at(
                self._free_at, lambda: self.kill(kind) if (self.life, self._pardons) == doomed else None
            )
            return
        self._end(kind, "node {} dies")

    def _end(self, kind: str, text: str) -> None:
        world = self.world
        kept = self.rng.randint(0, self.store.unsynced)
        world.story.fault(self.now(), kind, text + ", {} of {} unsynced writes reached its disk", self.id, kept,
                          self.store.unsynced)  # fmt: skip
        self.replica = None
        self.effects.calm()
        self.trouble.fails = False
        self.store.crash(kept, self.rng)
        self.snapshots.crash()
        if self._at_end is not None:
            self._at_end()
            self._at_end = None
        world.invariants.stopped(self.id)
        world.scheduler.after(self.restart_after + self.effects.elapsed, self.start)

    def pause(self, seconds: float) -> None:
        """Stand still, for ``seconds`` from now on or as long as it does already."""
        self._free_at = max(self._free_at, self.now() + seconds)
        self._plan_wake()

    def resume(self) -> None:
        """Stand still no longer, and live: a death that waited for that will not come."""
        self._pardons += 1
        self._free_at = min(self._free_at, self.now())
        self._plan_wake()

    def alarm(self, other: NodeId) -> None:
        """The surroundings say that the process of ``other`` is gone."""
        if self.replica is not None and other != self.id:
            self.replica.raft.report_down(other, self.clock_now())
            self._plan_wake()

    # --- work ---------------------------------------------------------------------------------------------------------

    def deliver(self, item: AnyMessage | ClientCall) -> None:
        """Something has arrived; nobody hears it while the process is gone."""
        if self.replica is None:
            return
        self._inbox.append(item)
        now = self.world.scheduler.now
        due = now + self.world.plan.wake_latency
        if due <= now >= self._free_at:
            self._turn()
        elif due < self._wake_at or not self._wake_at:
            self._wake(max(due, self._free_at))

    def _wake(self, at: float) -> None:
        """Ask for a turn at ``at``, unless one comes sooner anyway."""
        if not self._wake_at or at < self._wake_at:
            self._wake_at = at
            self.world.scheduler.at(at, partial(self._woken, self.life, at))

    def _woken(self, life: int, at: float) -> None:
        if life != self.life or self.replica is None or at != self._wake_at:
            return
        self._wake_at = 0.0
        now = self.world.scheduler.now
        if self._free_at > now:
            self._wake(self._free_at)
        elif self._inbox or self.clock.read(now) >= self.replica.next_deadline:
            self._turn()
        else:
            self._plan_wake()

    def _plan_wake(self) -> None:
        if self.replica is None:
            return
        due = self._free_at if self._inbox else self.clock.when(self.replica.next_deadline)
        if due < self._wake_at or not self._wake_at:
            self._wake(max(due, self._free_at, self.world.scheduler.now + 1e-6))

    def _turn(self) -> None:
        replica, world, effects = self.replica, self.world, self.effects
        assert replica is not None
        now = world.scheduler.now
        effects.elapsed = 0.0
        ended = ""
        try:
            self._take_in(replica)
            replica.turn(self.clock.read(now))
        except Crash:
            ended = "crash in a turn"
        except DiskFailed:
            ended = "disk failure"
        except InvariantViolated:
            raise
        except Exception as error:
            raise self._unexpected(error) from error
        self._look(replica, now, whole=not ended)
        if ended:
            self._end(ended, "node {} dies")
            return
        self._free_at = now + effects.elapsed
        if replica.raft.removed and not replica.raft.is_leader:  # a leader that was removed hands over first
            self._leave()
        self._plan_wake()

    def _leave(self) -> None:
        """The node was told that it is no member any longer: it stops, and its disk is marked."""
        assert self.replica is not None
        self.replica.refuse_all(reply(Status.FAILED, b"removed"))
        self.left, self.replica = True, None
        self.world.story.headline(self.now(), "node {} learns that it was removed, and stops", self.id)
        self.world.invariants.stopped(self.id)

    def _take_in(self, replica: Replica) -> None:
        inbox, self._inbox = self._inbox, []
        for item in inbox:
            if not isinstance(item, ClientCall):
                replica.receive(item)
            elif item.kind is Ask.READ:
                replica.query(item.data, self._read_answer(item))
            elif item.kind is Ask.COMMAND:
                replica.submit(item.data, self._command_answer(item))
            elif is_wise(self.world.nodes, replica.raft.configuration, item.data):
                replica.order(item.data, self._order_answer(item))

    def _look(self, replica: Replica, now: float, *, whole: bool) -> None:
        world, raft = self.world, replica.raft
        if replica.state_check.found is not None:
            raise world.invariants.fail("state machine safety", f"node {self.id}: {replica.state_check.found}")
        if world.invariants.turned(self.id, whole=whole):
            world.story.headline(now, "node {} leads in term {}, its log ends at {}, {} are committed", self.id,
                                 raft.term, raft.log.last_index(), world.invariants.committed)  # fmt: skip
        log = raft.log
        world.story.trace(now, self.id, raft.term, log.commit, log.last_index(), raft.is_leader)
        if self.store.truncated:
            world.story.headline(now, "node {} replaces {} entries that were not committed, its log ends at {}",
                                 self.id, self.store.truncated, log.last_index())  # fmt: skip
            self.store.truncated = 0
        self._turns += 1
        if self._turns % SPIN_TURNS == 0:
            if now - self._spin_watched < SPIN_SECONDS:
                raise world.invariants.fail("liveness", f"node {self.id} takes turn after turn and time stands still")
            self._spin_watched = now
        if self._turns % CHECK_EVERY == 0:
            try:
                raft.check()
                if self.machine is not None:
                    self.machine.sessions.check()
            except AssertionError as error:
                raise self._unexpected(error) from error

    def _unexpected(self, error: Exception) -> InvariantViolated:
        return self.world.invariants.fail("no unexpected error", f"node {self.id}: {type(error).__name__}: {error}")

    # --- what leaves --------------------------------------------------------------------------------------------------

    def send(self, messages: list[AnyMessage]) -> None:
        """`Transport` for the replica."""
        world, effects, store = self.world, self.effects, self.store
        nodes, network, invariants = world.nodes, world.network, world.invariants
        at = world.scheduler.now + effects.elapsed
        for message in messages:
            effects.point(SEND)
            invariants.sending(store, message)
            dst = message.dst
            network.send((self.id, dst), at, nodes[dst].deliver, message)
        effects.point(SEND)

    def _command_answer(self, call: ClientCall) -> Callable[[bytes], None]:
        key = request_header(call.data).key

        def answer(data: bytes) -> None:
            self.effects.point(ANSWER)
            if data[0] == Status.OK and key[0]:
                self.world.invariants.command_answered(self.id, key, data)
            call.reply(data, self.world.scheduler.now + self.effects.elapsed)

        return answer

    def _read_answer(self, call: ClientCall) -> Callable[[bytes], None]:
        invariants = self.world.invariants
        consistency, max_age = query_header(call.data)
        began_at = invariants.committed

        def answer(data: bytes) -> None:
            self.effects.point(ANSWER)
            if data[0] == Status.OK:
                least = began_at
                if consistency is Consistency.STALE:
                    least = invariants.committed_by(self.now() - max_age / self._slowest_clock())
                invariants.read_answered(self.id, consistency, least, call.data, data)
            call.reply(data, self.world.scheduler.now + self.effects.elapsed)

        return answer

    def _slowest_clock(self) -> float:
        """By which an age must be judged: the own clock's where all keep within the bound, otherwise anybody's."""
        if self.world.plan.drift is not None:
            return self.clock.slowest
        return min(node.clock.slowest for node in self.world.nodes.values())

    def _order_answer(self, call: ClientCall) -> Callable[[bytes], None]:
        def answer(data: bytes) -> None:
            self.effects.point(ANSWER)
            call.reply(data, self.world.scheduler.now + self.effects.elapsed)

        return answer
