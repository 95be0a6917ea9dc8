"""A Ray cluster to work in, and a replicated store on disks of its own, both tidied away afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console

from rayraft.bench.places import on_machine_of, reports_of
from rayraft.bench.progress import Stage
from rayraft.client.handle import Handle
from rayraft.errors import RayraftError
from rayraft.machine.keyvalue import KeyValue
from rayraft.ray.settings import Settings
from rayraft.ray.spec import NodeReport
from rayraft.ray.starting import start

CONNECT_SECONDS = 5.0
PLAIN_WIDTH = 120  # columns where there is no terminal
OBJECT_STORE_BYTES = 256 << 20  # rayraft keeps nothing there


class NoRayCluster(RayraftError):
    """There is no Ray cluster to connect to."""


@contextlib.contextmanager
def ray_session(address: str | None = None, *, local: bool = True) -> Iterator[None]:
    """Be connected to Ray: as already, at ``address``, at RAY_ADDRESS, or (``local``) to one started for this.

    Without ``local`` a Ray cluster that runs on this machine is looked for. What was not connected before is
    disconnected at the end. Raises NoRayCluster.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or ("local" if local else "auto")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns about a change to come
    options: dict[str, Any] = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        _check_reachable(address)
        # Ray's lines about a worker that died are no news here: it was killed on purpose.
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, ValueError, RuntimeError) as error:  # OSError: every ConnectionError
        raise NoRayCluster(
            f"no Ray cluster at {address!r} ({error}): start one with `ray start --head`, or give its --address"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself takes minutes to find that nobody is there. Raises OSError."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def make_console() -> Console:
    """A console on the standard output, wide enough for every table where that is no terminal."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


@contextlib.contextmanager
def bench_session(address: str | None) -> Iterator[Console]:
    """Ray as in `ray_session`, and a console on the standard output, which nothing else reaches meanwhile.

    Ray prints a page there about every worker that died, whatever it is told about logging; here they die on purpose.
    """
    console = make_console()
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        with Stage(console).phase("Connecting to Ray" if address else "Starting Ray"):
            stack.enter_context(ray_session(address))
        yield console


@dataclass(frozen=True, slots=True)
class Disks:
    """Where the nodes keep their data."""

    data_dir: Path | None = None  # None: a temporary directory
    keep: bool = False

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        if self.data_dir is not None:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix="rayraft-", dir=self.data_dir))
        try:
            yield path
        finally:
            if not self.keep:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def store(disks: Disks, *, nodes: int, settings: Settings | None = None) -> Iterator[Handle]:
    """A new replicated `KeyValue`, shut down at the end."""
    with disks.directory() as directory:
        name = f"bench-{secrets.token_hex(4)}"
        handle = start(KeyValue, name=name, nodes=nodes, data_dir=directory, settings=settings, allow_colocated=True)
        try:
            yield handle
        finally:
            elsewhere = [] if disks.keep else _reports_from_elsewhere(handle)
            handle.cluster.shutdown()
            for report in elsewhere:
                with contextlib.suppress(RayError, RayraftError):  # that machine is gone
                    on_machine_of(report, shutil.rmtree, str(directory), True)


def _reports_from_elsewhere(handle: Handle) -> list[NodeReport]:
    """Of the nodes whose data the end of `Disks.directory` does not reach."""
    with contextlib.suppress(RayError, RayraftError):
        return [report for report in reports_of(handle) if report.host != os.uname().nodename]
    return []


def file_system(path: Path) -> str:
    """The type of the file system that holds ``path``: on tmpfs a sync costs nothing, and means nothing."""
    path = path.resolve()
    best, found = "", "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, kind = line.split()[:3]
            if path.is_relative_to(mount) and len(mount) > len(best):
                best, found = mount, kind
    return found
