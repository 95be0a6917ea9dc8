"""The command line: `rayraft demo`, `bench`, `simulate`, `check-history`, `list`, `status`, `recover` and others."""

from rayraft.cli import load, bench, proof, groups  # noqa: I001  (each adds its commands, in the order of --help)
from rayraft.cli.common import app

__all__ = ["app", "bench", "groups", "load", "proof"]
