"""One of the two processes of `rayraft.machine.determinism`: applies the same log again for each pass asked for.

The second one has another clock, other random numbers and other addresses.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import sys
import time
from collections.abc import Callable
from typing import BinaryIO

from rayraft.machine.calls import encode_results
from rayraft.machine.classes import load_founding
from rayraft.machine.determinism import Job, Mark, describe
from rayraft.machine.objects import ObjectMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import pack, unpack

_SHIFT = 1_000_003.7  # seconds by which the second process is ahead


class SteppingMachine:
    """An `ObjectMachine` that runs one command at a time and marks the states after those it was asked for."""

    def __init__(self, machine: ObjectMachine, low: int, high: int, stride: int) -> None:
        self._machine = machine
        self._low, self._high, self._stride = low, high, stride
        self._last = (0, b"")
        self.step = 0
        self.index = 0
        self.marks: list[Mark] = []

    def apply(self, packet: bytes) -> bytes:
        for command in unpack(packet):
            self._machine.apply(pack([command]))
            self.step += 1
            self._last = (self.index, command)
            if self._low < self.step <= self._high and (self.step - self._low) % self._stride == 0:
                self.mark()
        return encode_results([])

    def mark_new(self) -> None:
        """The state that ``__init__`` has made."""
        self.marks.append(Mark(0, 0, self.digest(), "__init__"))

    def mark(self) -> None:
        index, command = self._last
        if command and (not self.marks or self.marks[-1].step != self.step):
            self.marks.append(Mark(self.step, index, self.digest(), describe(command)))

    @property
    def past_the_end(self) -> bool:
        return self.step >= self._high

    def take_places(self) -> bytes:
        return self._machine.take_places()

    def query(self, packet: bytes) -> bytes:
        return self._machine.query(packet)

    def save(self, stream: BinaryIO) -> None:
        self._machine.save(stream)

    def restore(self, stream: BinaryIO) -> None:
        self._machine.restore(stream)

    def digest(self) -> bytes:
        return self._machine.digest()


def run_pass(job: Job, span: tuple[int, int, int], disturb: Callable[[], None]) -> list[Mark]:
    founding = load_founding(job.machine)
    disturb()
    stepping = SteppingMachine(ObjectMachine(*founding), *span)
    machine = ReplicatedMachine(stepping)
    if job.evidence.snapshot:
        machine.restore(io.BytesIO(job.evidence.snapshot))
        disturb()
    elif span[0] == 0:
        stepping.mark_new()
    for entry in job.evidence.entries:
        stepping.index = entry.index
        machine.apply(entry)
        if stepping.past_the_end:
            break
    stepping.mark()
    return stepping.marks


def become_different() -> None:
    """Before any of the user's code is loaded."""
    clock, clock_ns = time.time, time.time_ns
    time.time = lambda: clock() + _SHIFT
    time.time_ns = lambda: clock_ns() + int(_SHIFT * 1e9)
    sys.modules["rayraft.machine.replay.padding"] = [bytearray(100) for _ in range(1000)]  # type: ignore[assignment]


def main(place: int, source: BinaryIO, sink: BinaryIO) -> None:
    disturb: Callable[[], None] = lambda: None  # noqa: E731
    if place:
        become_different()
        disturb = random.seed  # also where the user's module has seeded it
    job: Job = pickle.load(source)
    sys.path[:] = job.path
    while True:
        try:
            span: tuple[int, int, int] = pickle.load(source)
        except EOFError:
            return
        pickle.dump(run_pass(job, span, disturb), sink)
        sink.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as answers:
        os.nice(5)
        os.dup2(2, 1)  # what commands print goes elsewhere
        main(int(sys.argv[1]), sys.stdin.buffer, answers)
