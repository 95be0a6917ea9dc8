"""Turns of a node's replica, taken by the threads that bring work, and by one of its own."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from ray.actor import ActorHandle

from rayraft.client.leader import View
from rayraft.errors import RayraftError, StorageError
from rayraft.machine.determinism import Evidence, first_difference
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import Status, reply
from rayraft.raft.types import NO_NODE, AnyMessage, Configuration, NodeId
from rayraft.ray.channels.frames import Kind
from rayraft.ray.channels.poller import Poller
from rayraft.ray.channels.server import Answer, Server
from rayraft.ray.names import node_handle
from rayraft.ray.pending import PendingCall, leave_all
from rayraft.ray.spec import NodeSpec
from rayraft.ray.transport import RayTransport, Slot
from rayraft.ray.wire import decode_messages
from rayraft.replica import Replica
from rayraft.replica.digester import ForkDigester
from rayraft.replica.snapshotter import ForkSnapshotter
from rayraft.storage.identity import Identity
from rayraft.storage.rocks import RocksLogStore
from rayraft.storage.scrub import Scrub
from rayraft.storage.snapshots import FileSnapshotStore

Item: TypeAlias = "tuple[Callable[..., None], Any, Any]"  # a handler and its two arguments

TURN = b"turn"  # in the place of an answer: take a turn; compared by identity
REPLY_SECONDS = 60.0  # after this a waiting call goes back empty-handed, whatever happened to its request
RESTART_DELAY = 3.0  # a node whose disk failed shows why for so long, then ends, and Ray starts it anew
NOT_REPRODUCED = (
    "the commands since the last state that is known to be right were applied twice and gave the same state, so it was "
    "none of them, unless it reads a file, the network or a global variable: is the object changed from outside, or "
    "the memory of that machine faulty? Or had only some nodes the module of an argument, or the memory for a command?"
)


def raft_time() -> float:
    """Seconds on the clock that goes on while this machine is suspended, as those of the others do.

    After `time.monotonic` a leader that slept would still hold its lease when others have long elected another one.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


def _told(error: BaseException) -> Exception:
    """As it is told to those who wait: a SystemExit would end their threads."""
    return error if isinstance(error, Exception) else StorageError("".join(traceback.format_exception(error)))


class RaftLoop:
    """Owns the replica. Whoever brings work takes a turn with it, unless a turn is under way.

    So a command that comes to an idle node waits for no other thread to wake up. What Ray's own threads bring is done
    by a caller who waits for an answer, which most likely comes of it, or by the raft thread when none does. The raft
    thread does the rest: what arrived during a turn, and what falls due.

    1. The replica and the transport are touched only under ``_busy``.
    2. Nothing stays in the inbox: whoever ends a turn and finds more there, or a deadline before the raft thread would
       look, wakes it.
    3. A caller who has an answer takes no turn, so that it does not wait for the work of others.
    4. Who is taken from ``_waiting`` gets `TURN`, and takes a turn or wakes the raft thread.
    5. After whatever was raised in a turn the replica is not used again, and the process ends.
    """

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
        self._inbox: deque[Item] = deque()
        self._busy = threading.Lock()
        self._alarm: SimpleQueue[None] = SimpleQueue()  # wakes the raft thread
        self._waiting: deque[SimpleQueue[bytes]] = deque()  # callers who have nothing to do but wait
        self._due = float("-inf")  # when the next turn is, even if nothing comes in
        self._looks_at = float("-inf")  # when the raft thread looks again if nobody wakes it
        self._broken: Exception | None = None
        self._stopped_by: Exception = RayraftError("")  # once it has stopped, why
        self._on_failure = on_failure
        self._view_changed = threading.Condition()
        self.view = View()
        self._configuration: Configuration | None = None  # that the view is of
        self.stopped = threading.Event()
        poller = Poller(lambda: leave_all(self._take_turn()))
        self.channels = Server(poller, self._serve) if spec.channels else None
        self._transport = RayTransport(
            self._introduce_to,
            lambda messages, here: self._leave((self._on_messages, messages, None), here),
            lambda node, here: self._leave((self._on_lost, node, None), here),
            poller,
        )
        self._watched: NodeId = NO_NODE  # the leader whose presence call is open
        self._presence_epoch = 0
        directory = Path(spec.directory)
        self.recovery: float | None = None  # seconds until what the disk knew to be committed was applied again
        self._opening = time.monotonic()
        store = RocksLogStore(
            directory / "log", identity.configuration, owner=identity.disk_id, create=create, fsync=spec.fsync
        )
        try:
            self.scrub = Scrub(store)
            self.snapshots = snapshots = FileSnapshotStore(directory / "snapshots")
            self._replica = Replica(
                spec.config,
                store,
                snapshots,
                ForkSnapshotter(snapshots),
                machine,
                self._transport,
                rng=random.Random(),
                now=raft_time(),
                wall_clock=time.time,
                clock=raft_time,
                digester=ForkDigester(),
                on_divergence=self._investigate,
            )
        except BaseException:
            store.close()
            raise
        self._stored_commit = self._replica.raft.log.commit
        self._thread = threading.Thread(target=self._main, name="rayraft-raft", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _introduce_to(self, node: NodeId) -> ActorHandle:
        """Look another node up, and have each of the two processes connect to the other."""
        handle = node_handle(self._group, node)
        handle.greet.remote(self._node)
        return handle

    # --- from other threads -------------------------------------------------------------------------------------------

    def deliver(self, data: bytes) -> bytes:
        slot: SimpleQueue[bytes] = SimpleQueue()
        calls = self._bring((self._on_call, decode_messages(data), slot))
        return self._wait(slot, calls)

    def ask(self, kind: str, data: bytes) -> bytes:
        at_once = self._answer_at_once(data) if kind == "query" else None
        if at_once is not None:
            return at_once
        slot: SimpleQueue[bytes] = SimpleQueue()
        handlers = {"submit": self._on_submit, "query": self._on_query, "order": self._on_order}
        calls = self._bring((handlers[kind], data, slot))
        return self._wait(slot, calls) or reply(Status.BUSY)

    def _serve(self, kind: Kind, data: bytes, answer: Answer) -> None:
        """A call that came through a channel: the thread that brings it takes a turn when it has them all."""
        if kind is Kind.DELIVER:
            self._inbox.append((self._on_call, decode_messages(data), answer))
        elif kind is Kind.SUBMIT:
            self._inbox.append((self._on_submit, data, answer))
        elif (at_once := self._answer_at_once(data)) is not None:
            answer.put(at_once)
        else:
            self._inbox.append((self._on_query, data, answer))

    def _answer_at_once(self, queries: bytes) -> bytes | None:
        """Between two turns, where that is possible: a turn would be most of what such a query costs.

        Where work waits, the query takes a turn with it, so that many queries do not keep anybody from one.
        """
        if self._inbox or not self._busy.acquire(blocking=False):
            return None
        answer = None
        try:
            if not self.stopped.is_set() and self._broken is None:
                answer = self._replica.answer_at_once(queries)
        except BaseException as error:
            self._broken = _told(error)
        finally:
            self._busy.release()
        if self._inbox or self._broken is not None:
            self._alarm.put(None)
        return answer

    def _bring(self, item: Item) -> list[PendingCall]:
        """Put ``item`` in, and take a turn with it if nobody else does."""
        self._inbox.append(item)
        return self._take_turn()

    def _take_turn(self) -> list[PendingCall]:
        """Unless somebody else does; the calls to other nodes that were made in it."""
        calls: list[PendingCall] = []
        if self._busy.acquire(blocking=False):
            try:
                self._work()
                calls = self._transport.take_pending()
            finally:
                self._busy.release()
            if self.stopped.is_set():
                self._refuse_rest()
            elif self._inbox or self._broken is not None or self._due < self._looks_at:
                self._alarm.put(None)
        return calls

    def _leave(self, item: Item, here: bool = False) -> None:
        """Put ``item`` in for somebody else: a turn in a thread of Ray's own would hold Ray up.

        ``here``: this thread will take a turn itself.
        """
        self._inbox.append(item)
        if here:
            return
        if self.stopped.is_set():
            self._refuse_rest()
            return
        try:
            self._waiting.popleft().put(TURN)
        except IndexError:
            self._alarm.put(None)

    def _wait(self, slot: SimpleQueue[bytes], calls: list[PendingCall]) -> bytes:
        """The answer, empty after `REPLY_SECONDS`; until it comes, take the turns that are asked for.

        First those that answers to ``calls`` bring, which were made on account of this caller.
        """
        deadline = time.monotonic() + REPLY_SECONDS
        while calls and slot.empty() and time.monotonic() < deadline:
            calls = PendingCall.wait_for_first(calls)
            if self._inbox:
                calls += self._take_turn()
        leave_all(calls)
        with contextlib.suppress(Empty):
            return slot.get_nowait()
        answer = TURN
        while answer is TURN:
            self._waiting.append(slot)
            try:
                answer = slot.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                answer = b""
            if answer is TURN:
                leave_all(self._take_turn())
        try:
            self._waiting.remove(slot)
        except ValueError:  # it was asked for a turn meanwhile
            self._alarm.put(None)
        return answer

    def greeted(self, node: NodeId) -> None:
        """The process of ``node`` is new."""
        self._leave((self._on_greeting, node, None))

    def run(self, function: Callable[[Replica], Any]) -> Any:
        """Run ``function`` on the replica between two turns; returns its result or raises its exception."""
        done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        leave_all(self._bring((self._on_run, function, done)))
        try:
            result, error = done.get(timeout=REPLY_SECONDS)
        except Empty:
            raise StorageError(
                f"the node did not get to it within {REPLY_SECONDS} s: its disk or a command hangs"
            ) from None
        if error is not None:
            raise error
        return result

    def wait_for_view(self, term: int, leader: NodeId, timeout: float) -> View:
        members = self.view.members

        def news() -> bool:
            now = self.view
            other_leader = now.leader != NO_NODE and now.term >= term and (now.term, now.leader) != (term, leader)
            return self.stopped.is_set() or other_leader or now.members != members

        with self._view_changed:
            self._view_changed.wait_for(news, timeout)
            return self.view

    def stop(self) -> None:
        self._leave((self._on_stop, None, None))
        self._thread.join(timeout=10)

    def fail(self, error: Exception) -> None:
        """Something is wrong with the disk: end as if the raft thread had found it."""
        self._leave((self._on_fail, error, None))

    # --- turns --------------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        while not self.stopped.is_set():
            with self._busy:
                self._work()
                leave_all(self._transport.take_pending())
                self._looks_at = self._due
            if self._broken is not None:
                self._die(self._broken)
            self._sleep(0.0 if self._inbox else self._looks_at - raft_time())
        with self._busy:  # the turn in which it has ended may be somebody else's, and not over
            broken = self._broken
        if broken is not None:
            self._die(broken)
        self._refuse_rest()

    def _sleep(self, timeout: float) -> None:
        with contextlib.suppress(Empty):
            if timeout > 0:
                self._alarm.get(timeout=timeout)
            while True:
                self._alarm.get_nowait()

    def _work(self) -> None:
        """One turn with all that is there: it shares one write, one sync. Under ``_busy``."""
        if self.stopped.is_set() or self._broken is not None:
            return
        try:
            if not self._take_inbox() and raft_time() < self._due:
                return
            if self.stopped.is_set():
                return
            self._replica.turn(raft_time())
            self._transport.close_slots()
            self._due = self._replica.next_deadline
            self._after_turn()
        except BaseException as error:  # a user's object may raise anything, and the turn is half done
            self._broken = _told(error)

    def _take_inbox(self) -> bool:
        """Hand everything that has arrived to the replica; whether there was anything."""
        inbox, found = self._inbox, False
        while inbox and not self.stopped.is_set():
            handler, data, extra = inbox.popleft()
            handler(data, extra)
            found = True
        return found

    def _on_call(self, messages: list[AnyMessage], slot: Slot) -> None:
        self._transport.open_slot(messages[0].src, slot)
        for message in messages:
            self._replica.receive(message)

    def _on_messages(self, messages: list[AnyMessage], _: None) -> None:
        for message in messages:
            self._replica.receive(message)

    def _on_submit(self, data: bytes, slot: Slot) -> None:
        self._replica.submit(data, slot.put)

    def _on_query(self, data: bytes, slot: Slot) -> None:
        self._replica.query(data, slot.put)

    def _on_order(self, data: bytes, slot: Slot) -> None:
        self._replica.order(data, slot.put)

    def _on_lost(self, node: NodeId, _: None) -> None:
        self._replica.raft.report_unreachable(node)

    def _on_greeting(self, node: NodeId, _: None) -> None:
        self._transport.greet(node)

    def _on_run(self, function: Callable[[Replica], Any], done: SimpleQueue[tuple[Any, BaseException | None]]) -> None:
        try:
            done.put((function(self._replica), None))
        except Exception as error:
            done.put((None, error))
        except BaseException as error:  # nothing that is refused, so it broke off
            done.put((None, _told(error)))
            raise

    def _on_fail(self, error: Exception, _: None) -> None:
        raise error

    def _on_stop(self, _: None, __: None) -> None:
        self._end("the node was stopped")

    def _end(self, reason: str) -> None:
        self._stopped_by = RayraftError(reason)
        self.stopped.set()
        self._replica.refuse_all(reply(Status.FAILED, reason.encode()))
        self._replica.close()
        self._notify_view()
        self._alarm.put(None)

    def _after_turn(self) -> None:
        raft = self._replica.raft
        if self.recovery is None and raft.log.applied >= self._stored_commit:
            self.recovery = time.monotonic() - self._opening
        view, configuration = self.view, raft.configuration
        if (raft.term, raft.leader) != view[:2] or configuration is not self._configuration:
            self._configuration = configuration
            members = configuration.members()
            self.view = View(raft.term, raft.leader, tuple(members))
            self._notify_view()
            self._transport.meet(set(members) - {raft.id})
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
        self._leave((self._on_culprit, culprit, None))

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
            lambda future: self._leave((self._on_presence_end, epoch, future.exception()))
        )

    def _on_presence_end(self, epoch: int, error: BaseException | None) -> None:
        if epoch != self._presence_epoch:
            return
        lost, self._watched = self._watched, NO_NODE
        if error is not None:
            self._replica.raft.report_down(lost, raft_time())

    # --- the end ------------------------------------------------------------------------------------------------------

    def _die(self, error: Exception) -> None:
        """The disk failed, or the code did: say why, refuse everyone, and end the process: Ray starts it anew."""
        try:
            self._say_why(error)
        finally:  # a process that stayed would be a node that nobody starts anew
            os._exit(1)

    def _say_why(self, error: Exception) -> None:
        self._stopped_by = error
        self.stopped.set()
        self._on_failure(error)
        refusal = reply(Status.FAILED, str(error).encode())
        with contextlib.suppress(Exception):
            self._replica.refuse_all(refusal)
            self._transport.close_slots()
        self._notify_view()
        deadline = time.monotonic() + RESTART_DELAY
        while (left := deadline - time.monotonic()) > 0:
            self._refuse_rest()
            self._sleep(min(left, 0.05))

    def _refuse_rest(self) -> None:
        """What has come since it stopped. In any thread: whoever brings something looks whether it is taken."""
        error = self._stopped_by
        refusal = reply(Status.FAILED, str(error).encode())
        with contextlib.suppress(IndexError):  # another thread does the same
            while self._inbox:
                self._refuse(self._inbox.popleft(), error, refusal)

    def _refuse(self, item: Item, error: Exception, refusal: bytes) -> None:
        """Everybody gets an answer of the kind that they expect."""
        handler, _, waiting = item
        if handler == self._on_run:
            waiting.put((None, error))
        elif handler == self._on_call:
            waiting.put(b"")  # no messages
        elif isinstance(waiting, (SimpleQueue, Answer)):
            waiting.put(refusal)
