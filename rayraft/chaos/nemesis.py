"""Does to the machines what the schedule says, and undoes it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from rayraft.chaos import disks
from rayraft.chaos.damage import Part, flip
from rayraft.chaos.group import (
    Group,
    replace_member,
    replaced_or_done,
    rescale,
    restart_nodes,
    scale_to,
    upgrade_class,
    wait_until_tidy,
)
from rayraft.chaos.machines import BedError, Direction, paused
from rayraft.chaos.records import Seen
from rayraft.chaos.schedule import Fault, FaultKind
from rayraft.errors import StorageError
from rayraft.storage.identity import read_identity

HEAD: Final = 1  # the machine of Ray's head
WHOLE_SECONDS: Final = 240.0  # until everything is well again after a fault
ORDER_SECONDS: Final = 4.0  # about as long as an operator's order takes
LEADER_SECONDS: Final = 20.0  # to be found as a victim; a fault in the middle of another lasts no longer than that


@dataclass(slots=True)
class Injection:
    """A fault that was done, or tried."""

    kind: FaultKind
    began: float
    target: str = ""
    healed: float = 0.0
    whole: float = 0.0  # when all nodes ran and had caught up; 0: not before the next fault
    failed: str = ""  # why it could not be done
    missing: str = ""  # what was wrong when it was not waited for any longer


Call: TypeAlias = tuple[Any, ...]  # a function and its arguments
Effect: TypeAlias = AbstractContextManager[str]  # under way while entered; the value says whom it struck


class Nemesis:
    def __init__(self, group: Group) -> None:
        self._group, self._machines = group, group.machines
        self.done: list[Injection] = []
        self.under_way: Injection | None = None
        self._effects: dict[FaultKind, Callable[[int], Effect]] = {
            FaultKind.LEADER_KILLED: lambda pick: self._kill_process(self._leader()),
            FaultKind.FOLLOWER_KILLED: lambda pick: self._kill_process(self._follower(pick)),
            FaultKind.LEADER_MACHINE_KILLED: lambda pick: self._kill_machine(self._leader_off_head().machine),
            FaultKind.MACHINE_KILLED: lambda pick: self._kill_machine(self._machine(pick)),
            FaultKind.HEAD_KILLED: lambda pick: self._kill_machine(HEAD),
            FaultKind.LEADER_CUT: lambda pick: self._isolate(self._leader(), Direction.BOTH),
            FaultKind.LEADER_NOT_HEARD: lambda pick: self._isolate(self._leader(), Direction.FORTH),
            FaultKind.LEADER_HEARS_NOTHING: lambda pick: self._isolate(self._leader(), Direction.BACK),
            FaultKind.FOLLOWER_CUT: lambda pick: self._isolate(self._follower(pick), Direction.BOTH),
            FaultKind.BRIDGE: self._bridge,
            FaultKind.HEAD_CUT: self._cut_from_head,
            FaultKind.LEADER_PAUSED: lambda pick: self._pause(self._leader()),
            FaultKind.DISK_FULL: self._fill_disk,
            FaultKind.BITS_FLIPPED: self._flip_bits,
            FaultKind.DIRECTORY_DELETED: self._delete_directory,
            FaultKind.SYNC_FAILED: self._fail_sync,
            FaultKind.POWER_LOST: self._lose_power,
            FaultKind.MEMBER_REPLACED: self._replace,
            FaultKind.SCALED: self._rescale,
            FaultKind.LEADER_MOVED: self._move_leader,
            FaultKind.ROLLING_RESTART: self._restart_all,
            FaultKind.CLASS_UPGRADED: self._upgrade,
            FaultKind.OPERATOR_KILLED: self._kill_operator,
        }

    def strike(self, fault: Fault) -> Injection:
        """Do it for its time, undo it, and wait until the group is whole again."""
        time.sleep(fault.rest)
        injection = self._record(fault.kind)
        try:
            with self._effects[fault.kind](fault.pick) as injection.target:
                time.sleep(fault.seconds / 2)
                if fault.companion is not None:
                    self._strike_also(fault.companion, fault.pick)
                time.sleep(fault.seconds / 2)
        except Exception as error:  # an order may fail in the middle of a fault: that is told, and the run goes on
            injection.failed = f"{type(error).__name__}: {error}"
        injection.healed = time.monotonic()
        self._restore()
        try:
            self._group.wait_until_whole(WHOLE_SECONDS)
            injection.whole = time.monotonic()
        except BedError as error:
            injection.missing = str(error)
        self.under_way = None
        return injection

    def _record(self, kind: FaultKind) -> Injection:
        self.under_way = Injection(kind, time.monotonic())
        self.done.append(self.under_way)
        return self.under_way

    def _strike_also(self, kind: FaultKind, pick: int) -> None:
        injection = self._record(kind)
        try:
            with self._effects[kind](pick) as injection.target:
                time.sleep(1.0)
        except Exception as error:
            injection.failed = f"{type(error).__name__}: {error}"
        injection.healed = time.monotonic()

    def _restore(self) -> None:
        """Whatever was left undone."""
        self._machines.heal()
        for i, machine in self._machines.machines.items():
            if not machine.up:
                self._machines.start_machine(i)
            for disk in machine.disk.glob("node-*"):
                if _is_of_removed_node(disk):  # its operator throws it away: a small disk has no room for many
                    shutil.rmtree(disk, ignore_errors=True)

    # --- whom ---------------------------------------------------------------------------------------------------------

    def _leader(self) -> Seen:
        return self._group.wait_for_leader(timeout_s=LEADER_SECONDS)

    def _leader_off_head(self) -> Seen:
        """The leader, after it moved away from the machine that also holds Ray's head."""
        leader = self._leader()
        if leader.machine != HEAD:
            return leader
        return self._group.transfer_to(next(machine for machine in self._group.now() if machine != HEAD))

    def _follower(self, pick: int) -> Seen:
        leader = self._leader()
        return self._one([seen for seen in self._group.now().values() if seen.node != leader.node], pick)

    def _machine(self, pick: int) -> int:
        others = [machine for machine in self._machines.up if machine != HEAD]
        return others[pick % len(others)]

    def _leader_or_follower(self, pick: int) -> Seen:
        return self._follower(pick) if pick % 2 else self._leader()

    @staticmethod
    def _one(seen: list[Seen], pick: int) -> Seen:
        if not seen:
            raise BedError("no node answers")
        return seen[pick % len(seen)]

    # --- what ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _kill_process(self, seen: Seen) -> Iterator[str]:
        os.kill(self._group.process(seen.machine).id, signal.SIGKILL)
        yield _name(seen)

    @contextlib.contextmanager
    def _pause(self, seen: Seen) -> Iterator[str]:
        with paused(self._group.process(seen.machine)):
            yield _name(seen)

    @contextlib.contextmanager
    def _kill_machine(self, machine: int) -> Iterator[str]:
        self._machines.kill_machine(machine)
        yield f"m{machine}"
        self._machines.start_machine(machine)

    @contextlib.contextmanager
    def _isolate(self, seen: Seen, direction: Direction) -> Iterator[str]:
        self._machines.isolate(seen.machine, direction)
        yield _name(seen)
        self._machines.heal()

    @contextlib.contextmanager
    def _bridge(self, pick: int) -> Iterator[str]:
        """Two halves that do not hear each other, and one machine in the middle that hears both."""
        machines = list(self._machines.machines)
        turn = pick % len(machines)
        middle, *others = machines[turn:] + machines[:turn]
        left, right = others[: len(others) // 2], others[len(others) // 2 :]
        self._machines.bridge(left, right)
        yield f"{_names(left)} | m{middle} | {_names(right)}"
        self._machines.heal()

    @contextlib.contextmanager
    def _cut_from_head(self, pick: int) -> Iterator[str]:
        machine = self._machine(pick)
        self._machines.cut(HEAD, machine)
        yield f"m{machine}"
        self._machines.heal()

    @contextlib.contextmanager
    def _fill_disk(self, pick: int) -> Iterator[str]:
        small = self._machines.small_disks
        machine = small[pick % len(small)]
        self._machines.fill(machine)
        try:
            yield f"m{machine}"
        finally:
            self._machines.make_room(machine)

    @contextlib.contextmanager
    def _flip_bits(self, pick: int) -> Iterator[str]:
        """In the log, the hard state or a snapshot; the process is killed, so that its disk is read again."""
        seen = self._follower(pick)
        part = list(Part)[pick % len(Part)]
        flip(self._group.disk_of(seen), part)
        os.kill(self._group.process(seen.machine).id, signal.SIGKILL)
        yield f"{part.value} of {_name(seen)}"
        self._group.wait_until_replaced(seen.node)

    @contextlib.contextmanager
    def _delete_directory(self, pick: int) -> Iterator[str]:
        seen = self._leader_or_follower(pick)
        shutil.rmtree(self._group.disk_of(seen), ignore_errors=True)
        yield _name(seen)
        self._group.wait_until_replaced(seen.node)

    @contextlib.contextmanager
    def _fail_sync(self, pick: int) -> Iterator[str]:
        seen = self._leader_or_follower(pick)
        self._machines.fail_sync(seen.machine, self._group.process(seen.machine))
        yield _name(seen)

    @contextlib.contextmanager
    def _lose_power(self, pick: int) -> Iterator[str]:
        machines = self._machines.loop_disks
        if not machines:
            raise BedError(f"no disk here can lose power: {disks.why_not()}")
        machine = machines[pick % len(machines)]
        self._machines.lose_power(machine)
        yield f"m{machine}"
        self._machines.start_machine(machine)

    @contextlib.contextmanager
    def _replace(self, pick: int) -> Iterator[str]:
        old = self._follower(pick)
        new = self._machines.call(HEAD, replace_member, old.node, old.machine)
        yield f"node {old.node} by node {new} on m{old.machine}"

    @contextlib.contextmanager
    def _rescale(self, pick: int) -> Iterator[str]:
        """Two nodes fewer, then as many as before, on the same machines: with five from 5 to 3 to 5."""
        followers = [seen for seen in self._group.now().values() if seen.node != self._leader().node]
        turn = pick % len(followers)
        leaving = [followers[turn], followers[turn - 1]]
        self._machines.call(HEAD, rescale, [(seen.node, seen.machine) for seen in leaving], timeout_s=240)
        yield " and ".join(map(_name, leaving))

    @contextlib.contextmanager
    def _move_leader(self, pick: int) -> Iterator[str]:
        to = self._follower(pick)
        self._group.transfer_to(to.machine)
        yield f"to {_name(to)}"

    @contextlib.contextmanager
    def _restart_all(self, pick: int) -> Iterator[str]:
        """As an operator does it: one after the other, each only when the last is back, the leader after a transfer."""
        self._machines.call(HEAD, restart_nodes, timeout_s=WHOLE_SECONDS)
        yield "all nodes"

    @contextlib.contextmanager
    def _upgrade(self, pick: int) -> Iterator[str]:
        yield self._machines.call(HEAD, upgrade_class, timeout_s=180)

    @contextlib.contextmanager
    def _kill_operator(self, pick: int) -> Iterator[str]:
        """In the middle of an order; the next operator has the group whole again."""
        everybody = len(self._machines.machines)
        old = self._follower(pick)
        orders: list[tuple[str, Call, Call]] = [
            ("scaling down", (scale_to, everybody - 2), (scale_to, everybody)),
            ("scaling up", (scale_to, everybody), (scale_to, everybody)),
            ("replacing", (replace_member, old.node, old.machine), (replaced_or_done, old.node, old.machine)),
        ]
        what, order, remedy = orders[pick % len(orders)]
        if what == "scaling up":
            self._machines.call(HEAD, scale_to, everybody - 2, timeout_s=240)
        operator = self._machines.begin_call(HEAD, *order)
        after = pick % 1000 / 1000 * ORDER_SECONDS
        time.sleep(after)
        operator.kill()
        yield f"{what}, after {after:.1f} s"
        self._machines.call(HEAD, *remedy, timeout_s=240)
        self._machines.call(HEAD, wait_until_tidy)


def _is_of_removed_node(disk: Path) -> bool:
    try:
        identity = read_identity(disk)
    except StorageError:
        return False
    return identity is not None and identity.removed


def _name(seen: Seen) -> str:
    return f"node {seen.node} on m{seen.machine}"


def _names(machines: list[int]) -> str:
    return ", ".join(f"m{machine}" for machine in machines)
