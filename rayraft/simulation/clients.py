"""Simulated clients: numbered requests in a session, several in flight, sent again until they are answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rayraft.history import Kind
from rayraft.machine.calls import decode_results
from rayraft.machine.requests import (
    NEW_SESSION,
    Consistency,
    RequestKey,
    Status,
    decode_hint,
    encode_ending,
    encode_opening,
    encode_queries,
    encode_request,
    pack,
)
from rayraft.raft.types import NodeId
from rayraft.simulation.node import Ask, ClientCall, World
from rayraft.simulation.plan import stream
from rayraft.simulation.record import Call, Record

COUNTERS = ("apples", "pears")
LISTS = ("north", "south")
REGISTERS = ("left", "right")
READS = -1  # in place of a session
PATIENCE = 4  # times that a stale read is asked
READ = (*COUNTERS, *COUNTERS, *LISTS, *REGISTERS)


@dataclass(slots=True)
class Open:
    """Something this client still waits for. ``attempt`` tells an old timer from the present one."""

    data: bytes
    consistency: Consistency | None  # of a read
    tickets: list[int] = field(default_factory=list)  # of the operations in the record
    attempt: int = 0


class Client:
    """Keeps up to ``window`` requests open. A request keeps its number however often and wherever it is sent.

    ``acknowledged`` and ``read`` count what was answered with success.
    """

    def __init__(self, world: World, record: Record, number: int) -> None:
        self.id = -number
        self.world = world
        self.record = record
        self.acknowledged = 0
        self.read = 0
        self.stopped = False
        self._rng = stream(world.plan.seed, f"client {number}")
        self._leaves = stream(world.plan.seed, f"client {number} leaves")
        self._target: NodeId = self._any_node()
        self._session = NEW_SESSION
        self._last_number = 0
        self._answered: set[int] = set()
        self._confirmed = 0
        self._reads = 0
        self._open: dict[RequestKey, Open] = {}
        self._open_session()
        self._think()

    @property
    def idle(self) -> bool:
        return not self._open

    def stop(self) -> None:
        """Ask for nothing new; what is open is still seen through."""
        self.stopped = True

    def _any_node(self) -> NodeId:
        return self._rng.choice(list(self.world.invariants.configuration.members()))

    # --- what it asks -------------------------------------------------------------------------------------------------

    def _think(self) -> None:
        plan = self.world.plan
        if self.stopped:
            return
        if self._session != NEW_SESSION and len(self._open) < plan.window:
            if self._rng.random() < 0.3:
                self._begin_read()
            else:
                self.command()
        self.world.scheduler.after(self._rng.expovariate(1 / plan.think_time), self._think)

    def _open_session(self) -> None:
        nonce = self._rng.getrandbits(63) or 1
        self._start((NEW_SESSION, nonce), Open(encode_opening(nonce, self.world.plan.session_ttl_ms), None))

    def _may_leave(self) -> None:
        """End the session now and then, when nothing is under way in it; once, and nobody waits for the answer."""
        if self.stopped or self._leaves.random() >= self.world.plan.leaving or any(key[0] >= 0 for key in self._open):
            return
        world, node = self.world, self._target
        call = ClientCall(encode_ending(self._session), Ask.COMMAND, lambda data, at: None)
        world.network.send((self.id, node), world.scheduler.now, world.nodes[node].deliver, call)
        world.story.faults["sessions ended"] += 1
        self._forget_session()
        self._open_session()

    def nudge(self) -> None:
        """Have a command under way until one is acknowledged; whether it is."""
        if not self.acknowledged and self.idle:
            if self._session == NEW_SESSION:
                self._open_session()
            else:
                self.command()

    def command(self) -> None:
        """One more numbered request of one to three commands."""
        self._last_number += 1
        calls = [self._draw_command() for _ in range(self._rng.choice((1, 1, 3)))]
        data = encode_request(self._session, self._last_number, self._confirmed, [call.encode() for call in calls])
        self._start((self._session, self._last_number), Open(data, None, self.record.begin(self.id, calls)))

    def _draw_command(self) -> Call:
        rng, draw, dice = self._rng, self.record.draw, self._rng.random()
        if dice < 0.5:
            return draw(Kind.INCREMENT, rng.choice(COUNTERS), rng.randint(1, 5))
        if dice < 0.65:
            return draw(Kind.APPEND, rng.choice(LISTS), rng.randint(0, 9))
        if dice < 0.85:
            return draw(Kind.WRITE, rng.choice(REGISTERS), rng.randint(0, 3))
        return draw(Kind.CAS, rng.choice(REGISTERS), (rng.randint(0, 3), rng.randint(0, 3)))

    def _begin_read(self) -> None:
        self._reads += 1
        call = self.record.draw(Kind.READ, self._rng.choice(READ))
        plan = self.world.plan
        how = self._rng.choice(plan.consistencies)
        query = encode_queries(pack([call.encode()]), how, plan.max_age if how is Consistency.STALE else 0.0)
        # The history is about linearizable operations: what a stale read may return is looked at where it is answered.
        tickets = [] if how is Consistency.STALE else self.record.begin(self.id, [call])
        self._start((READS, self._reads), Open(query, how, tickets))

    # --- sending, and sending again -----------------------------------------------------------------------------------

    def _start(self, key: RequestKey, item: Open) -> None:
        self._open[key] = item
        self._send(key, item)

    def _send(self, key: RequestKey, item: Open) -> None:
        world, node = self.world, self._target
        if item.consistency is not None:
            node = self._whom_to_read_from(item.consistency)
        item.attempt += 1
        attempt = item.attempt
        kind = Ask.COMMAND if item.consistency is None else Ask.READ
        call = ClientCall(item.data, kind, self._reply_from(node, key))
        world.network.send((self.id, node), world.scheduler.now, world.nodes[node].deliver, call)
        patience = world.plan.election_timeout * self._rng.uniform(0.5, 2.0)
        world.scheduler.after(patience, lambda: self._timed_out(key, attempt))

    def _whom_to_read_from(self, consistency: Consistency) -> NodeId:
        """Often the one that has led for the longest: perhaps it leads no more, and does not know it."""
        dice = self._rng.random()
        if consistency in (Consistency.FOLLOWER, Consistency.STALE) and dice < 0.7:
            return self._any_node()
        if dice < 0.4:
            leaders = [node.raft for node in self.world.nodes.values() if node.raft is not None and node.leads]
            if leaders:
                return min(leaders, key=lambda raft: raft.term).id
        return self._any_node() if dice < 0.6 else self._target

    def _reply_from(self, node: NodeId, key: RequestKey) -> Callable[[bytes, float], None]:
        def reply(data: bytes, at: float) -> None:
            self.world.network.send((node, self.id), at, lambda data: self._answer(key, data), data)

        return reply

    def _timed_out(self, key: RequestKey, attempt: int) -> None:
        item = self._open.get(key)
        if item is not None and item.attempt == attempt:
            self._target = self._any_node()
            self._send(key, item)

    def _again_soon(self, key: RequestKey, item: Open) -> None:
        item.attempt += 1
        attempt = item.attempt

        def again() -> None:
            if self._open.get(key) is item and item.attempt == attempt:
                self._send(key, item)

        self.world.scheduler.after(self.world.plan.election_timeout * self._rng.uniform(0.02, 0.2), again)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _answer(self, key: RequestKey, data: bytes) -> None:
        item = self._open.get(key)
        if item is None:
            return
        status, body = Status(data[0]), data[1:]
        if status is Status.NOT_LEADER:
            self._target = decode_hint(body)[0] or self._any_node()
            self._again_soon(key, item)
        elif status in (Status.BUSY, Status.OUT_OF_ORDER):
            self._again_soon(key, item)
        elif status is Status.FAILED:  # a node that has left, or stores no data
            self._target = self._any_node()
            self._again_soon(key, item)
        elif status is Status.TOO_STALE:
            self._too_stale(key, item)
        elif status is Status.SESSION_EXPIRED and not self.world.invariants.model.lives(key[0]):
            self._lose_session()
        elif status is not Status.OK:
            raise self.world.invariants.fail("exactly once", f"client {self.id} has lost request {key}: {status}")
        else:
            del self._open[key]
            self.world.story.trace_bytes(data)
            self._succeeded(key, item, body)

    def _too_stale(self, key: RequestKey, item: Open) -> None:
        if item.attempt < PATIENCE:
            self._again_soon(key, item)
        else:
            del self._open[key]

    def _lose_session(self) -> None:
        """It expired, and a new one begins. What is under way was applied before that, or will never be.

        A client can not tell which. The model can, and the history stays exact.
        """
        self.world.story.faults["sessions expired"] += 1
        replies = self.world.invariants.model.first_reply
        for key in [key for key in self._open if key[0] == self._session]:
            tickets = self._open.pop(key).tickets
            if key in replies:
                self.record.end(tickets, decode_results(replies[key][1:]))
            else:
                self.record.drop(tickets)
        self._forget_session()
        if not self.stopped:
            self._open_session()

    def _forget_session(self) -> None:
        self._session, self._last_number, self._confirmed = NEW_SESSION, 0, 0
        self._answered.clear()

    def _succeeded(self, key: RequestKey, item: Open, body: bytes) -> None:
        if item.tickets:
            self.record.end(item.tickets, decode_results(body))
        if item.consistency is not None:
            self.read += 1
            self.world.story.faults[f"reads: {item.consistency.name.lower()}"] += 1
        elif key[0] == NEW_SESSION:
            self._session = int.from_bytes(body, "little")
        else:
            self.acknowledged += 1
            self._answered.add(key[1])
            while self._confirmed + 1 in self._answered:
                self._confirmed += 1
                self._answered.discard(self._confirmed)
            self._may_leave()
