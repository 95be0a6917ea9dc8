"""The command line: `rayraft demo`, `bench`, `simulate`, `check-history`, `chaos` and others."""

from rayraft.cli import load, proof, groups, chaos  # noqa: I001  (each adds its commands, in the order of --help)
from rayraft.cli.common import app

__all__ = ["app", "chaos", "groups", "load", "proof"]
