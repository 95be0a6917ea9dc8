"""Backups: `backup`, `backup-info` and `restore`."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from rayraft.bench.session import ray_session
from rayraft.bench.stats import format_size
from rayraft.cli.common import Address, AsJson, Group, Nodes, app, one_line_errors, out
from rayraft.ray.backup import take_backup
from rayraft.ray.cluster import find_cluster
from rayraft.ray.restore import restore as restore_group
from rayraft.storage.backup import BackupHeader, verify_backup

File = Annotated[Path, typer.Argument(metavar="FILE", help="The file of the backup, on this machine.")]


@app.command()
def backup(
    name: Group,
    file: File,
    address: Address = None,
    timeout: Annotated[float, typer.Option(help="Seconds that it may take.", min=1.0)] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Write the state of a group that serves to a file; it holds every command acknowledged before.

    An older file of that name is replaced once the new one is whole.
    """
    with one_line_errors(), ray_session(address, local=False):
        header = take_backup(find_cluster(name), file, timeout_s=timeout)
    _show(file, header, as_json)


@app.command("backup-info")
def backup_info(file: File, as_json: AsJson = False) -> None:
    """Read a backup through, and say what it holds; exit code 1 when it is damaged. Runs nothing of it."""
    with one_line_errors():
        header = verify_backup(file)
    _show(file, header, as_json)


@app.command()
def restore(
    file: File,
    name: Annotated[str, typer.Option(help="Name of the new group.")],
    data_dir: Annotated[
        Path, typer.Option(help="Where its nodes keep their data: node-1, node-2, … there must be missing or empty.")
    ],
    nodes: Nodes = 3,
    allow_colocated: Annotated[
        bool, typer.Option("--allow-colocated", help="Let nodes share a machine where there are too few.")
    ] = False,
    address: Address = None,
) -> None:
    """Start a new group from a backup. The class is in the file, and loading it runs code: trust the file.

    The group goes on in the Ray cluster when this command ends.
    """
    with one_line_errors(), ray_session(address, local=False):
        handle = restore_group(file, name=name, nodes=nodes, data_dir=data_dir, allow_colocated=allow_colocated)
        handle.close()
    out.print(f"{escape(name)} runs with {nodes} nodes, restored from {escape(str(file))}", soft_wrap=True)


def _show(file: Path, header: BackupHeader, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "file": str(file),
        "group": header.group,
        "cluster id": header.cluster_id,
        "index": header.index,
        "term": header.term,
        "taken at": datetime.datetime.fromtimestamp(header.taken_at).astimezone().isoformat(timespec="seconds"),
        "class": header.machine_name,
        "rayraft": header.rayraft,
        "bytes": header.snapshot_bytes,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    facts["bytes"] = format_size(header.snapshot_bytes)
    for fact, value in facts.items():
        out.print(f"[dim]{fact:>10}[/]  {escape(str(value))}", soft_wrap=True)
    out.print("[green]whole: every byte matches its checksum[/]")
