"""The bed itself: machines are apart from one another, faults do what they say, and nothing is left behind."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from rayraft.chaos import disks
from rayraft.chaos.machines import BedError, Direction, Machines, RayOptions, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

LISTEN = "import socket, sys; s = socket.create_server((sys.argv[1], 7000)); print('up', flush=True); s.accept()"
SEND = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3):
    sender.sendto(b"hello", (sys.argv[1], 7000))
"""
HEAR = """
import socket, sys
hearer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hearer.bind((sys.argv[1], 7000))
hearer.settimeout(float(sys.argv[2]))
print("ready", flush=True)
try:
    print(hearer.recv(100).decode())
except TimeoutError:
    print("nothing")
"""


def hears(machines: Machines, source: int, target: int, wait_s: float) -> bool:
    """Whether a packet of ``source`` reaches ``target``."""
    address = machines.machines[target].address
    hearer = machines.popen(target, [sys.executable, "-S", "-c", HEAR, address, str(wait_s)], stdout=-1)
    assert hearer.stdout is not None
    assert hearer.stdout.readline() == b"ready\n"
    machines.run(source, [sys.executable, "-S", "-c", SEND, address])
    heard, _ = hearer.communicate()
    return heard == b"hello\n"


def cards(machines: Machines) -> list[str]:
    """The bridge and the cables to it."""
    return [name for _, name in socket.if_nameindex() if name.startswith(machines.network)]


def test_machines_are_apart() -> None:
    with Machines(2, ray=None) as machines:
        assert machines.run(1, ["hostname"]) == "m1\n"
        machines.run(1, ["touch", str(machines.data / "mine")])
        assert machines.run(1, ["ls", str(machines.data)]) == "mine\n"
        assert machines.run(2, ["ls", str(machines.data)]) == ""
        assert machines.run(2, ["ls", "/dev/shm"]) == ""
        assert {process.inner_id for process in machines.processes(2)} == {1}


def test_cuts_and_healing() -> None:
    with Machines(3, ray=None) as machines:
        assert hears(machines, 1, 2, 20)
        machines.cut(1, 2, Direction.FORTH)
        assert not hears(machines, 1, 2, 0.3)
        assert hears(machines, 2, 1, 20)
        machines.heal()
        assert hears(machines, 1, 2, 20)
        machines.isolate(3, Direction.BACK)
        assert not hears(machines, 1, 3, 0.3)
        assert hears(machines, 3, 1, 20)
        machines.heal()
        machines.bridge([1], [3])
        assert not hears(machines, 3, 1, 0.3)
        assert hears(machines, 1, 2, 20)
        assert hears(machines, 2, 3, 20)


def test_power_off_and_on() -> None:
    with Machines(2, ray=None) as machines:
        machines.run(2, ["touch", str(machines.data / "kept")])
        busy = machines.popen(2, ["sleep", "1000"])
        wait_for(lambda: len(machines.processes(2)) == 2, 20, "the command does not begin")
        machines.cut(1, 2, Direction.FORTH)
        machines.kill_machine(2)
        busy.wait(20)
        assert machines.up == [1]
        with pytest.raises(BedError, match="m2 is down"):
            machines.run(2, ["true"])
        machines.start_machine(2)
        assert machines.run(2, ["ls", str(machines.data)]) == "kept\n"
        assert not hears(machines, 1, 2, 0.3), "a cut outlives the machine's restart"
        machines.heal()
        assert hears(machines, 1, 2, 20)


def test_full_disk() -> None:
    with Machines(2, ray=None, disk_bytes={2: 1 << 20}) as machines:
        machines.fill(2)
        with pytest.raises(BedError, match="No space left"):
            machines.run(2, ["dd", "if=/dev/zero", f"of={machines.data}/file", "bs=64k", "count=4"])
        machines.make_room(2)
        machines.run(2, ["dd", "if=/dev/zero", f"of={machines.data}/file", "bs=64k", "count=4"])
        with pytest.raises(BedError, match="no disk of its own"):
            machines.fill(1)


WRITE = """
import os
for name in ["synced", "lost"]:
    file = os.open(name, os.O_CREAT | os.O_WRONLY)
    os.write(file, b"x")
    if name == "synced":
        os.fsync(file)
        os.fsync(os.open(".", os.O_RDONLY))
"""


def test_power_loss() -> None:
    if reason := disks.why_not():
        pytest.skip(reason)
    with Machines(2, ray=None, loop_disks=[2]) as machines:
        for turn in (1, 2):
            directory = machines.data / str(turn)
            command = f"mkdir {directory}; cd {directory}; exec {sys.executable} -S -c '{WRITE}'"
            machines.run(2, ["sh", "-c", command])
            machines.lose_power(2)
            assert machines.up == [1]
            machines.start_machine(2)
            assert machines.run(2, ["ls", str(directory)]) == "synced\n"
        with pytest.raises(BedError, match="no disk that can lose power"):
            machines.lose_power(1)


def test_nothing_is_left_after_an_exception() -> None:
    machines = Machines(2, ray=None, disk_bytes={1: 1 << 20})
    base = machines.base
    inside: list[int] = []

    def fail() -> None:
        with machines:
            machines.popen(1, ["sleep", "1000"])
            wait_for(lambda: len(machines.processes(1)) == 2, 20, "the command does not begin")
            inside.extend(process.id for i in machines.up for process in machines.processes(i))
            assert len(cards(machines)) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(inside) == 3
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in inside), 20, "processes are left")
    assert not base.exists()
    assert str(base) not in Path("/proc/mounts").read_text()
    wait_for(lambda: not cards(machines), 20, "a network card is left")


def test_a_failed_start_is_told_and_cleaned_up() -> None:
    machines = Machines(1, ray=RayOptions(environment={"PYTHONHOME": "/nowhere"}))
    with pytest.raises(BedError, match=r"Ray did not start on m1(.|\n)*PYTHONHOME"), machines:
        pass
    assert not machines.base.exists()
    wait_for(lambda: not cards(machines), 20, "a network card is left")
