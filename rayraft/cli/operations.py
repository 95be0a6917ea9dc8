"""Commands that change a group while it serves: `scale`, `restart`, `upgrade`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rayraft.bench.session import ray_session
from rayraft.cli.common import Address, Group, app, odd, one_line_errors, out
from rayraft.errors import BadConfiguration
from rayraft.ray.cluster import find_cluster
from rayraft.ray.rolling import Progress


@contextmanager
def _progress_line() -> Iterator[Progress]:
    """On a terminal one line that changes, else a line for each step."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda text: console.print(escape(text), soft_wrap=True)
        return
    with console.status("") as status:
        yield lambda text: status.update(escape(text))


@app.command()
def scale(
    name: Group,
    nodes: Annotated[int, typer.Argument(metavar="N", help="1, 3, 5, 7 or 9 voters.", callback=odd)],
    timeout: Annotated[float, typer.Option(help="Seconds that it may take.")] = 600.0,
    address: Address = None,
) -> None:
    """Make a group larger or smaller while it serves."""
    with one_line_errors(), ray_session(address, local=False), _progress_line() as progress:
        configuration = find_cluster(name).scale(nodes, timeout_s=timeout, on_progress=progress)
    out.print(f"{name} has {len(configuration.voters)} voters: {', '.join(map(str, configuration.voters))}")


@app.command()
def restart(
    name: Group,
    allow_downtime: Annotated[
        bool, typer.Option("--allow-downtime", help="Also where too few nodes are left meanwhile.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that it may take.")] = 600.0,
    address: Address = None,
) -> None:
    """Start the process of every node anew, one at a time, while the group serves."""
    with one_line_errors(), ray_session(address, local=False), _progress_line() as progress:
        cluster = find_cluster(name)
        cluster.restart_nodes(allow_downtime=allow_downtime, timeout_s=timeout, on_progress=progress)
    out.print(f"every node of {name} runs in a new process")


@app.command()
def upgrade(
    name: Group,
    machine: Annotated[str, typer.Argument(metavar="MODULE:CLASS", help="The new class, as in shop.state:Shop.")],
    without_absent: Annotated[
        bool, typer.Option("--without-absent", help="Also if some nodes can not be asked whether they can load it.")
    ] = False,
    address: Address = None,
) -> None:
    """Replace the class of a group while it serves; its state migrates (see Cluster.upgrade)."""
    with one_line_errors(), ray_session(address, local=False):
        cls = _find_class(machine)
        version = find_cluster(name).upgrade(cls, without_absent=without_absent)
    out.print(f"{name} runs {cls.__name__}, version {version} of its class")


def _find_class(path: str) -> type:
    module, _, name = path.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise BadConfiguration(f"{path!r} gives no class ({reason}): write it as package.module:Class") from error
    if not isinstance(found, type):
        raise BadConfiguration(f"{path!r} is no class")
    return found
