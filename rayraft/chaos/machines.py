"""Several machines on this one: a Ray cluster whose nodes have networks, processes, disks and names of their own.

A machine is a set of Linux namespaces (network, processes, mounts, host name, shared memory) that a small init process
keeps alive. The machines' networks meet at a bridge without an address, so nothing outside can reach them or
collide with them. What a fault does is what it does to real machines:

1. Killing the init process kills every process of the machine at once and takes its network away, as a power cut does:
   no connection is closed in good order. The disk stays.
2. A cut drops packets at the receiver. Connections stay open and nobody is told.
3. Every machine sees its own disk under the same path (`Machines.data`), and nobody else's. What was written and not
   synced outlives the death of a machine, as in a computer that is reset; `lose_power` takes that, too.
4. Every process ends with this one, however it ends. `close` also removes the bridge and the directories.
"""

from __future__ import annotations

import contextlib
import enum
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import cloudpickle

import rayraft
from rayraft.chaos import sync_errors
from rayraft.chaos.disks import LoopDisk
from rayraft.ray.placement import MACHINE_LABEL

RAY_PORT: Final = 6379
OBJECT_STORE_BYTES: Final = 80_000_000  # Ray's least; rayraft keeps nothing there
SHARED_MEMORY: Final = "160m"
PIPES: Final = "fiu"  # to the processes whose syncs can be made to fail
LOOP_DISK_BYTES: Final = 2 << 30  # as much as is written takes room on the real disk
START_SECONDS: Final = 240.0
START_ATTEMPTS: Final = 3
TOOLS: Final = ("ip", "iptables", "unshare", "nsenter", "setpriv", "mount", "umount")
_INIT: Final = """
import os, time
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""


class BedError(Exception):
    """A machine could not be set up, or did not do what it was told."""


class Direction(enum.Enum):
    BOTH = "both"
    FORTH = "forth"  # what the first sends does not reach the second
    BACK = "back"  # what the second sends does not reach the first


def why_not() -> str | None:
    """Why machines can not be made here; None when they can."""
    if not sys.platform.startswith("linux"):
        return "namespaces need Linux"
    if os.geteuid() != 0:
        return "namespaces, bridges and iptables need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@dataclass(slots=True)
class Machine:
    index: int
    address: str
    room: Path  # its directories, as this process sees them
    holder: subprocess.Popen[bytes] | None = None
    init: int = 0  # the process that keeps the namespaces, as this process numbers it
    boots: int = 0

    @property
    def name(self) -> str:
        return f"m{self.index}"

    @property
    def disk(self) -> Path:
        """What the machine sees as `Machines.data`."""
        return self.room / "disk"

    @property
    def up(self) -> bool:
        return self.holder is not None

    def enter(self, *, processes: bool = True) -> list[str]:
        """The words that put a command into this machine; it ends with the process that runs them."""
        if not self.up:
            raise BedError(f"{self.name} is down")
        also = ["--pid"] if processes else []
        return ["nsenter", "-t", str(self.init), "--net", "--mount", "--uts", "--ipc", *also, "--"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a machine."""

    id: int  # as this process numbers it, for signals
    inner_id: int  # as the machine numbers it
    command: str


@dataclass(frozen=True, slots=True)
class _Start:
    """A machine that is coming up, and the command that starts Ray there."""

    machine: Machine
    process: subprocess.Popen[bytes] | None


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How Ray runs on the machines."""

    # The head keeps its state on its disk, so that it can come back (Ray's `RAY_gcs_storage=rocksdb`).
    durable_head: bool = True
    cpus: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    # Whether a sync can be made to fail in the actors that are started by what `Machines.call` calls.
    failing_syncs: bool = False


class Machines:
    """``with Machines(5) as machines:`` a Ray cluster of five; machine 1 holds Ray's head."""

    def __init__(
        self,
        count: int,
        *,
        ray: RayOptions | None = RayOptions(),
        disk_bytes: Mapping[int, int] | None = None,
        loop_disks: Sequence[int] = (),
    ) -> None:
        """``ray=None``: machines alone. ``disk_bytes`` gives some a small disk of their own, which `fill` fills;
        ``loop_disks`` gives some one that can `lose_power`.

        Raises BedError where machines can not be made (`why_not` says why).
        """
        if reason := why_not():
            raise BedError(reason)
        self._ray = ray
        self.network = f"rr{secrets.token_hex(4)}"
        self._token = secrets.token_hex(32)
        self._cuts: set[tuple[int, int]] = set()
        self._small_disks = dict(disk_bytes or {})
        self.base = Path(tempfile.mkdtemp(prefix="rrbed-"))  # short: sockets below it have long names
        self.data = self.base / "data"
        self.shared = self.base / "shared"  # the same directory for all machines, on no machine's disk
        self._ray_dir = self.base / "ray"
        self.machines = {i: Machine(i, f"10.77.0.{i}", self.base / f"m{i}") for i in range(1, count + 1)}
        self._loops = {i: LoopDisk(self.machines[i].room / "image", self.machines[i].disk) for i in loop_disks}

    # --- the life of the bed ------------------------------------------------------------------------------------------

    def __enter__(self) -> Machines:
        try:
            self._make_rooms()
            _run("ip", "link", "add", self.network, "type", "bridge")
            _run("ip", "link", "set", self.network, "up")
            self.start_machine(1)
            joining = [self._begin_machine(i) for i in self.machines if i != 1]
            for start in joining:
                self._finish_or_repeat(start)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the machines and leave nothing behind. Safe to call twice."""
        for machine in self.machines.values():
            self._power_off(machine)
        _run("ip", "link", "del", self.network, check=False)
        for i in (*self._small_disks, *self._loops):
            _run("umount", "--lazy", str(self.machines[i].disk), check=False)
        shutil.rmtree(self.base, ignore_errors=True)

    def _make_rooms(self) -> None:
        for directory in (self.data, self.shared, self._ray_dir):
            directory.mkdir()
        for machine in self.machines.values():
            machine.disk.mkdir(parents=True)
            (machine.room / "ray").mkdir()
        for i, size in self._small_disks.items():
            _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.machines[i].disk))
        for loop in self._loops.values():
            _expect(loop.create(LOOP_DISK_BYTES))

    # --- machines -----------------------------------------------------------------------------------------------------

    @property
    def head(self) -> str:
        return f"{self.machines[1].address}:{RAY_PORT}"

    @property
    def up(self) -> list[int]:
        return [i for i, machine in self.machines.items() if machine.up]

    @property
    def small_disks(self) -> list[int]:
        return sorted(self._small_disks)

    @property
    def loop_disks(self) -> list[int]:
        return sorted(self._loops)

    def start_machine(self, i: int) -> None:
        """Power on: a new Ray node over the old disk. Waits until Ray runs there."""
        self._finish_or_repeat(self._begin_machine(i))

    def kill_machine(self, i: int) -> None:
        """Power off, in the middle of whatever it does."""
        self._power_off(self.machines[i])

    def lose_power(self, i: int) -> None:
        """`kill_machine`, and what was not synced is gone. The machine has a loop disk."""
        if i not in self._loops:
            raise BedError(f"m{i} has no disk that can lose power: see `loop_disks`")
        self._loops[i].lose_power()
        self._power_off(self.machines[i])
        _expect(self._loops[i].mount_again())

    def _begin_machine(self, i: int) -> _Start:
        machine = self.machines[i]
        if machine.up:
            raise BedError(f"{machine.name} is up already")
        self._power_on(machine)
        for cut in self._cuts:
            if cut[1] == i:
                self._drop(*cut)
        return _Start(machine, self._start_ray(machine, self._ray) if self._ray is not None else None)

    def _power_on(self, machine: Machine) -> None:
        mounts = [
            f"mount --bind {machine.disk} {self.data}",
            f"mount --bind {machine.room / 'ray'} {self._ray_dir}",
            *(f"umount {loop.mount_point}" for loop in self._loops.values()),  # or none could ever be unmounted
            f"mount -t tmpfs -o size={SHARED_MEMORY} tmpfs /dev/shm",
            f"hostname {machine.name}",
        ]
        machine.boots += 1
        ready = machine.room / f"boot-{machine.boots}"
        script = f'{" && ".join(mounts)} && touch {ready} && exec "$0" -S -E -c "$1"'
        namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        machine.holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", "-c", script, sys.executable, _INIT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(ready.exists, 20.0, f"the namespaces of {machine.name} can not be made")
        machine.init = _only_child(machine.holder.pid)
        self._connect(machine)

    def _connect(self, machine: Machine) -> None:
        """A network card and a cable to the bridge; they vanish with the machine."""
        cable = f"{self.network}{machine.index}b{machine.boots}"[:15]
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(machine.init))
        _run("ip", "link", "set", cable, "master", self.network, "up")
        inside = ["nsenter", "-t", str(machine.init), "--net", "--"]
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run(*inside, "ip", "addr", "add", f"{machine.address}/24", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "eth0", "up")

    def _start_ray(self, machine: Machine, options: RayOptions) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start"),
            f"--node-ip-address={machine.address}",
            f"--num-cpus={options.cpus}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            f"--labels={MACHINE_LABEL}={machine.name}",
            f"--temp-dir={self._ray_dir}",
            "--include-log-monitor=false",
            "--disable-usage-stats",
        ]
        command += (
            ["--head", f"--port={RAY_PORT}", "--include-dashboard=false"]
            if machine.index == 1
            else [f"--address={self.head}"]
        )
        environment = {}
        if machine.index == 1 and options.durable_head:
            environment = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(self.data / "gcs")}
        # Ray's processes outlive the command that starts them: they end with the machine.
        return self.popen(machine.index, command, environment=environment, log=machine.room / "start.log", tied=False)

    def _finish_or_repeat(self, start: _Start) -> None:
        """Ray has deadlines of its own, which a busy computer may miss."""
        for _ in range(START_ATTEMPTS - 1):
            try:
                return self._finish(start)
            except BedError:
                self._power_off(start.machine)
                start = self._begin_machine(start.machine.index)
        return self._finish(start)

    def _finish(self, start: _Start) -> None:
        if start.process is None:
            return
        try:
            code = start.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            start.process.kill()
            code = -1
        if code != 0:
            said = (start.machine.room / "start.log").read_text(errors="replace")
            raise BedError(f"Ray did not start on {start.machine.name} (exit {code}):\n{said[-3000:]}")

    def _power_off(self, machine: Machine) -> None:
        holder, machine.holder = machine.holder, None
        if holder is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if machine.init:
                os.kill(machine.init, signal.SIGKILL)
        machine.init = 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            holder.wait(5.0)  # it ends after the last process of the machine
        holder.kill()
        holder.wait()

    # --- commands on a machine ----------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Of every process on the machines: this project, and this cluster's token."""
        root = str(Path(rayraft.__file__).resolve().parents[1])
        path = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(entry for entry in path if entry)),
            "RAY_ADDRESS": self.head,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_enable_worker_prestart": "0",
            "RAY_worker_niceness": "0",  # all share one computer: a starved actor would look like a slow machine
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            **(self._ray.environment if self._ray is not None else {}),
        }

    def popen(
        self,
        i: int,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        tied: bool = True,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Begin a command on machine ``i``; ``tied``: it ends when the returned process is killed."""
        words = [*self.machines[i].enter(), *(("setpriv", "--pdeathsig", "KILL") if tied else ()), *command]
        with contextlib.ExitStack() as stack:
            if log is not None:
                options |= {"stdout": stack.enter_context(log.open("ab")), "stderr": subprocess.STDOUT}
            return subprocess.Popen(
                words, env=self.environment() | dict(environment or {}), stdin=subprocess.DEVNULL, **options
            )

    def run(self, i: int, command: Sequence[str], *, timeout_s: float = 120.0) -> str:
        """Run a command on machine ``i``; returns what it printed. Raises BedError when it fails or takes longer."""
        process = self.popen(i, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            said, complaint = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            said, complaint = process.communicate()
            raise BedError(
                f"{command} on m{i} took longer than {timeout_s} s:\n{(said + complaint).decode()[-3000:]}"
            ) from None
        if process.returncode:
            raise BedError(f"{command} on m{i} failed ({process.returncode}):\n{(said + complaint).decode()[-3000:]}")
        return said.decode()

    def call(self, i: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = 120.0) -> Any:
        """Call a function in a new Ray driver on machine ``i``: its result, or what it raised. BedError if it hangs."""
        place = self.shared / f"call-{secrets.token_hex(4)}"
        self.run(i, self._calling(place, function, arguments), timeout_s=timeout_s)
        result, error = cloudpickle.loads(place.read_bytes())
        if error is not None:
            raise error
        return result

    def begin_call(self, i: int, function: Callable[..., Any], *arguments: Any) -> subprocess.Popen[bytes]:
        """As `call`, but returns the driver's process when it is about to call the function."""
        place = self.shared / f"call-{secrets.token_hex(4)}"
        process = self.popen(i, self._calling(place, function, arguments))
        wait_for(lambda: calling(place).exists() or process.poll() is not None, 120.0, "a driver does not get ready")
        return process

    def _calling(self, place: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[str]:
        failing = self._ray is not None and self._ray.failing_syncs
        workers = dict(sync_errors.environment(self._ray_dir / PIPES)) if failing else {}
        place.write_bytes(cloudpickle.dumps((function, arguments, workers)))
        return [sys.executable, "-m", "rayraft.chaos.remote", str(place)]

    def processes(self, i: int) -> list[Process]:
        """All processes of machine ``i``."""
        machine = self.machines[i]
        if not machine.up:
            return []
        namespace = os.readlink(f"/proc/{machine.init}/ns/pid")
        return [found for pid in _pids() if (found := _look_at(pid, namespace)) is not None]

    def find(self, i: int, title: str) -> list[Process]:
        """The processes of machine ``i`` whose command begins with ``title``."""
        return [process for process in self.processes(i) if process.command.startswith(title)]

    # --- faults -------------------------------------------------------------------------------------------------------

    def cut(self, a: int, b: int, direction: Direction = Direction.BOTH) -> None:
        """Drop what machines ``a`` and ``b`` send each other."""
        if direction is not Direction.BACK:
            self._cut_one_way(a, b)
        if direction is not Direction.FORTH:
            self._cut_one_way(b, a)

    def isolate(self, i: int, direction: Direction = Direction.BOTH) -> None:
        """Cut machine ``i`` off from all others; FORTH: it is no longer heard, BACK: it no longer hears."""
        for other in self.machines:
            if other != i:
                self.cut(i, other, direction)

    def bridge(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Cut ``left`` from ``right``; whoever is in neither still talks to both."""
        for a in left:
            for b in right:
                self.cut(a, b)

    def heal(self) -> None:
        """Take back every cut."""
        self._cuts.clear()
        for machine in self.machines.values():
            if machine.up:
                _run(*machine.enter(processes=False), "iptables", "-w", "-F", "INPUT")

    def _cut_one_way(self, source: int, target: int) -> None:
        if (source, target) not in self._cuts:
            self._cuts.add((source, target))
            if self.machines[target].up:
                self._drop(source, target)

    def _drop(self, source: int, target: int) -> None:
        rule = ["-A", "INPUT", "-s", self.machines[source].address, "-j", "DROP"]
        _run(*self.machines[target].enter(processes=False), "iptables", "-w", *rule)

    def fail_sync(self, i: int, process: Process) -> None:
        """The next sync of an actor on machine ``i`` fails: see `RayOptions.failing_syncs`. Raises BedError."""
        try:
            sync_errors.fail_next_sync(self.machines[i].room / "ray" / PIPES, process.inner_id)
        except OSError as error:
            raise BedError(sync_errors.why_not() or f"process {process.id} takes no orders: {error}") from error

    def fill(self, i: int) -> None:
        """Fill the disk of machine ``i``, which must be a small one."""
        if i not in self._small_disks:
            raise BedError(f"m{i} has no disk of its own to fill: see `disk_bytes`")
        with contextlib.suppress(OSError), (self.machines[i].disk / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(64 << 10))

    def make_room(self, i: int) -> None:
        """Undo `fill`."""
        (self.machines[i].disk / "ballast").unlink(missing_ok=True)


@contextlib.contextmanager
def paused(process: Process) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    os.kill(process.id, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.id, signal.SIGCONT)


def wait_for(probe: Callable[[], Any], timeout_s: float, otherwise: str, every_s: float = 0.02) -> Any:
    """The first true value of ``probe``. Raises BedError with what ``otherwise`` says."""
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise BedError(f"{otherwise} (waited {timeout_s:g} s)")
        time.sleep(every_s)
    return found


def calling(place: Path) -> Path:
    """There when the driver whose order is at ``place`` is about to carry it out."""
    return place.with_suffix(".begun")


def _expect(problem: str) -> None:
    if problem:
        raise BedError(problem)


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _look_at(pid: int, namespace: str) -> Process | None:
    """The process ``pid``, if it is in this namespace and still there."""
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
            status = Path(f"/proc/{pid}/status").read_text()
            inner = next(int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            return Process(pid, inner, command)
    return None


def _run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise BedError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
