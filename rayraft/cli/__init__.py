"""The command line: `rayraft demo`, `bench`, `simulate`, `check-history`, `list`, `status`, `recover` and others."""

# Each adds its commands, in the order of --help.
from rayraft.cli import load, bench, proof, groups, operations, backup  # noqa: I001
from rayraft.cli.common import app

__all__ = ["app", "backup", "bench", "groups", "load", "operations", "proof"]
