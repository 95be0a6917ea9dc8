"""The application, and what several commands share: options, and errors as one line."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

import rayraft
from rayraft.errors import BadConfiguration, RayraftError
from rayraft.ray.settings import SIZES

app = typer.Typer(
    name="rayraft",
    help="Python objects that survive: replicated by Raft as actors in a Ray cluster, durable on a majority.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
err = Console(stderr=True)
out = Console(highlight=False)


def odd(nodes: int) -> int:
    if nodes not in SIZES:
        raise typer.BadParameter(f"1, 3, 5, 7 or 9, not {nodes}: an even number adds no fault tolerance")
    return nodes


Address = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster that runs. Default: RAY_ADDRESS, or else one on this machine."),
]
Group = Annotated[str, typer.Argument(metavar="NAME", help="Name of a group.")]
Nodes = Annotated[int, typer.Option(help="Nodes of the group: 1, 3, 5, 7 or 9.", callback=odd)]
Seed = Annotated[int, typer.Option(help="Seed of the keys and values.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the nodes keep their data. Default: the system's directory for temporary files."),
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the nodes' data behind.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What rayraft raises on purpose becomes one line; exit code 2 for a bad option, 1 for the rest."""
    try:
        yield
    except RayraftError as error:
        err.print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True, highlight=False)
        raise typer.Exit(2 if isinstance(error, BadConfiguration) else 1) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rayraft {rayraft.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, _: Any) -> None:
    """Ended from outside as from the keyboard: what a command has made (machines, mounts, directories) goes with it."""
    sys.exit(128 + number)
