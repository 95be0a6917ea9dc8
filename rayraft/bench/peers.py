"""Other replicated stores, with three members on this machine: etcd and PySyncObj.

Each is started with its defaults, on ports and in a directory of its own, at the niceness of a group's nodes. What is
not installed is left out, with the reason. Their load generators are in `benchmarks/peers`: etcd is driven by a
compiled Go client at this process's niceness, as rayraft's driver is; PySyncObj by the process of its own leader.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.request import Request, urlopen

from rayraft.bench.figures import Latency, niceness
from rayraft.errors import RayraftError

SOURCES: Final = Path(__file__).parents[2] / "benchmarks" / "peers"
GO_LIBRARIES: Final = Path("/usr/share/gocode")  # where Debian's golang-*-dev packages put their sources
START_SECONDS: Final = 60.0
BUILD_SECONDS: Final = 900.0
MEMBERS: Final = 3


class NotInstalled(RayraftError):
    """A peer can not be measured here; says what is missing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A load: ``clients`` things under way, each of ``batch`` puts."""

    clients: int
    batch: int = 1
    awaited: bool = False  # by coroutines, where that is another way

    def __str__(self) -> str:
        return f"{self.clients:,} x {self.batch:,}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one load on one system has come to."""

    operations: int
    seconds: float
    errors: int
    latency: Latency

    @property
    def rate(self) -> float:
        return self.operations / self.seconds

    @classmethod
    def of(cls, found: dict[str, Any]) -> Outcome:
        quantiles = [(seconds, percent) for seconds, percent in found["quantiles"] or []]
        at = {percent: seconds for seconds, percent in quantiles}
        p50, p95, p99, top = (at.get(percent, float("nan")) for percent in (50, 95, 99, 100))
        latency = Latency(found["operations"], found["mean"], p50, p95, p99, top, tuple(quantiles))
        return cls(found["operations"], found["seconds"], found["errors"], latency)


class Peer(Protocol):
    """A store that runs."""

    name: str
    version: str
    commands: list[str]  # the command lines of all that was started

    def put(self, shape: Shape, value_size: int, records: int, seconds: float) -> Outcome: ...


# --- etcd -------------------------------------------------------------------------------------------------------------


def leader_of(endpoints: list[str]) -> str:
    """The one that leads. Raises OSError, or ValueError while none does."""
    for endpoint in endpoints:
        request = Request(f"{endpoint}/v3/maintenance/status", b"{}", {"Content-Type": "application/json"})
        with urlopen(request, timeout=5) as answer:
            status = json.load(answer)
        if status.get("leader") == status["header"]["member_id"]:
            return endpoint
    raise ValueError("etcd has no leader")


class Etcd:
    name: Final = "etcd"

    def __init__(self, endpoints: list[str], client: Path, commands: list[str]) -> None:
        self.version = _first_line("etcd", "--version")
        self.commands = commands
        self._endpoints, self._client = endpoints, client

    def put(self, shape: Shape, value_size: int, records: int, seconds: float) -> Outcome:
        options = {
            "endpoints": leader_of(self._endpoints),  # through the others it is slower, by up to a third
            "clients": shape.clients,
            "batch": shape.batch,
            "value-size": value_size,
            "records": records,
            "seconds": seconds,
        }
        command = [str(self._client), *(f"-{name}={value}" for name, value in options.items())]
        if (line := shlex.join(command)) not in self.commands:
            self.commands.append(line)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120 + 2 * seconds)
        if ended.returncode:
            raise RayraftError(f"the client of etcd failed: {ended.stderr.strip()}")
        return Outcome.of(json.loads(ended.stdout))


@contextlib.contextmanager
def etcd(directory: Path) -> Iterator[Etcd]:
    """Raises NotInstalled."""
    if not shutil.which("etcd"):
        raise NotInstalled("etcd is not installed (Debian: etcd-server)")
    client = build_client()
    ports = _free_ports(2 * MEMBERS)
    peers = [f"http://127.0.0.1:{port}" for port in ports[:MEMBERS]]
    clients = [f"http://127.0.0.1:{port}" for port in ports[MEMBERS:]]
    together = ",".join(f"m{number}={url}" for number, url in enumerate(peers))
    commands = [
        [
            "etcd",
            *("--name", f"m{number}", "--data-dir", str(directory / f"etcd-{number}"), "--log-level", "error"),
            *("--listen-peer-urls", peers[number], "--initial-advertise-peer-urls", peers[number]),
            *("--listen-client-urls", clients[number], "--advertise-client-urls", clients[number]),
            *("--initial-cluster", together, "--initial-cluster-state", "new"),
            *("--quota-backend-bytes", str(8 << 30)),  # the default of 2 GiB is too little for old versions of keys
        ]
        for number in range(MEMBERS)
    ]
    with _processes(directory / "etcd", commands):
        peer = Etcd(clients, client, [shlex.join(_nice(command)) for command in commands])
        _await(lambda: bool(peer.put(Shape(1), 16, 1, 0.01).operations), "etcd")
        del peer.commands[MEMBERS:]
        yield peer


def build_client() -> Path:
    """The compiled client, built when its source is new; needs no network. Raises NotInstalled."""
    source = SOURCES / "etcd_load.go"
    if not source.is_file():
        raise NotInstalled(f"{source} is missing: run this from the repository")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayraft"
    binary = cache / f"etcd_load-{sha256(source.read_bytes()).hexdigest()[:16]}"
    if binary.exists():
        return binary
    if not shutil.which("go") or not (GO_LIBRARIES / "src/go.etcd.io/etcd/clientv3").is_dir():
        raise NotInstalled("etcd's Go client can not be built (Debian: golang-go and golang-etcd-server-dev)")
    cache.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_LIBRARIES), "GOCACHE": str(cache / "go")}
    command = ["go", "build", "-o", str(binary), str(source)]
    built = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if built.returncode:
        raise NotInstalled(f"etcd's Go client can not be built: {built.stderr.strip()[-500:]}")
    return binary


# --- PySyncObj --------------------------------------------------------------------------------------------------------


class PySyncObj:
    name: Final = "PySyncObj"

    def __init__(self, members: list[subprocess.Popen[str]], commands: list[str]) -> None:
        self.version = f"PySyncObj {version('pysyncobj')}, journal, never synced to the disk"
        self.commands = commands
        self._members = members

    def put(self, shape: Shape, value_size: int, records: int, seconds: float) -> Outcome:
        leader = self.leader()
        if leader is None:
            raise RayraftError("PySyncObj has no leader")
        load = {"outstanding": shape.clients, "seconds": seconds, "value_size": value_size, "records": records}
        # By default a lone put waits two ticks, 0.1 s, in place of 0.4 ms; with many under way that is the faster way.
        return Outcome.of(_ask(leader, {"do": "load", "batches": shape.clients > 1, **load}))

    def leader(self) -> subprocess.Popen[str] | None:
        return next((member for member in self._members if _ask(member, {"do": "leads"})["leads"]), None)


@contextlib.contextmanager
def pysyncobj(directory: Path) -> Iterator[PySyncObj]:
    """Raises NotInstalled."""
    script = SOURCES / "pysyncobj_load.py"
    if importlib.util.find_spec("pysyncobj") is None:
        raise NotInstalled("PySyncObj is not installed (pip install rayraft[peers])")
    if not script.is_file():
        raise NotInstalled(f"{script} is missing: run this from the repository")
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(MEMBERS)]
    commands = [
        [
            *(sys.executable, str(script), address, *(other for other in addresses if other != address)),
            *("--journal", str(directory / f"pysyncobj-{number}")),
        ]
        for number, address in enumerate(addresses)
    ]
    with _processes(directory / "pysyncobj", commands) as members:
        peer = PySyncObj(members, [shlex.join(_nice(command)) for command in commands])
        _await(lambda: peer.leader() is not None, "PySyncObj")
        yield peer


def _ask(member: subprocess.Popen[str], question: dict[str, Any]) -> dict[str, Any]:
    assert member.stdin is not None
    assert member.stdout is not None
    member.stdin.write(json.dumps(question) + "\n")
    member.stdin.flush()
    answer: dict[str, Any] = json.loads(member.stdout.readline())
    return answer


# --- processes --------------------------------------------------------------------------------------------------------


def _nice(command: list[str]) -> list[str]:
    return ["nice", "-n", str(niceness() - os.nice(0)), *command]


@contextlib.contextmanager
def _processes(log: Path, commands: list[list[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Started as members, and killed at the end; what they say goes to files beside their data."""
    started: list[subprocess.Popen[str]] = []
    try:
        for number, command in enumerate(commands):
            with open(f"{log}-{number}.log", "w") as file:
                started.append(
                    subprocess.Popen(
                        _nice(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
                    )
                )
        yield started
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def _await(condition: Any, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(RayraftError, ValueError, OSError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise NotInstalled(f"{name} did not come up within {START_SECONDS:.0f} s")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _first_line(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.partition("\n")[0]
