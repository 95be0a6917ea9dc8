"""The command line: `rayraft demo`, `bench`, `simulate`, `check-history`, `chaos`, `list`, `status` and others."""

# Each adds its commands, in the order of --help.
from rayraft.cli import load, bench, chaos, proof, groups, operations, backup  # noqa: I001
from rayraft.cli.common import app

__all__ = ["app", "backup", "bench", "chaos", "groups", "load", "operations", "proof"]
