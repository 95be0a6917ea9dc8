"""How deep a command may recurse: equally deep on every node, whichever thread applies it."""

from __future__ import annotations

import sys

ROOM = 1000  # calls: Python's default, of which the stack of the applying thread takes none here


def make_room() -> None:
    """Let the caller go `ROOM` calls deeper than it is, whatever limit was set.

    Python's limit is one for the process, and counts from the bottom of each thread's stack: where one thread raises
    RecursionError, another goes on, and the states of two nodes differ. Recursion through C alone has another limit
    from Python 3.12 on, which nothing can set.
    """
    limit = _depth() + ROOM
    if limit != sys.getrecursionlimit():  # it goes through all threads, of which a node has many
        sys.setrecursionlimit(limit)


def _depth() -> int:
    """As Python counts it for the limit, with the calls through C that leave no frame: only this error tells it."""
    try:
        sys.setrecursionlimit(1)
    except RecursionError as error:
        return int(str(error).partition("recursion depth ")[2].partition(":")[0])
    raise AssertionError("a limit below the depth of the stack was accepted")
