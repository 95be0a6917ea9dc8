"""The command line: `rayraft demo`, `bench`, `simulate`, `check-history`, `list`, `status`, `recover` and others."""

# Each adds its commands, in the order of --help.
from rayraft.cli import load, proof, groups, operations, backup  # noqa: I001
from rayraft.cli.common import app

__all__ = ["app", "backup", "groups", "load", "operations", "proof"]
