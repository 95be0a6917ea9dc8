"""A node alone, in a process of its own, with everything that a node in a group has but Ray: it can lose its disk.

Prints a line for what it is, for every number that was acknowledged, and for every refusal. Run by `support.Solo`.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
from typing import Any

import msgspec

from rayraft.machine.calls import encode_call
from rayraft.machine.requests import Status, encode_opening, encode_request
from rayraft.ray import diskwatch, node
from rayraft.ray.node import Node
from rayraft.ray.spec import NodeSpec, NodeState
from tests.disks.support import Order, solo_spec

FIU_ONETIME = 1


def say(*words: Any) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # in one piece: there are several threads


def come_up(spec: NodeSpec) -> Node:
    solo = Node(spec)
    if solo.report().state is NodeState.BLANK:
        solo.format("c1", (1,))
        solo.seal()
    report = solo.report()
    say("state", report.state.value, type(report.error).__name__, " ".join(str(report.error).split()))
    ever = threading.Event()
    while solo.report().state is not NodeState.RUNNING:  # it may come up by itself
        ever.wait(0.02)
    say("state", "running")
    solo.campaign()
    return solo


def write(solo: Node, order: Order) -> None:
    """Add one number after another, for ever; each refused one again."""
    nonce = 1
    while (answer := solo.submit(encode_opening(nonce, 0)))[0] != Status.OK:
        nonce += 1
    session = int.from_bytes(answer[1:], "little")
    for number in itertools.count(1):
        if number == order.fail_sync_after:
            fail_next_sync()
        command = encode_call("add", (f"{order.prefix}{number}", bytes(order.padding)), {})
        while (answer := solo.submit(encode_request(session, number, number - 1, [command])))[0] != Status.OK:
            say("refused", Status(answer[0]).name, " ".join(answer[1:].decode(errors="replace").split()))
            threading.Event().wait(0.05)
        say("done", f"{order.prefix}{number}")
        if order.snapshot_every and number % order.snapshot_every == 0:
            replica = solo.report().replica
            say("snapshot", replica.snapshot if replica else 0)
        if number == order.count:
            say("idle", 0)
            threading.Event().wait()


def fail_next_sync() -> None:
    """By libfiu, which was loaded before this process began: exactly one fdatasync fails, with EIO."""
    fiu = ctypes.CDLL("libfiu.so.0")
    assert fiu.fiu_enable(b"posix/io/sync/fdatasync", 1, ctypes.c_void_p(5), FIU_ONETIME) == 0


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    node.RESTART_DELAY = 0.3
    diskwatch.LOOK_SECONDS = 0.1
    write(come_up(solo_spec(order)), order)


if __name__ == "__main__":
    main()
