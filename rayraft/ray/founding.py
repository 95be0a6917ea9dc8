"""The class that a node's log begins with: described in the identity, kept beside the log from the first upgrade on.

A class that was started by reference is what its file says; once that file has the new version, a node that replays
the log from before the upgrade would run the old commands with the new code. So before an upgrade is logged, every node
writes the founding class down by value, as its process knows it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cloudpickle

from rayraft.errors import BadConfiguration, ClassNotLoadable, DiskFailed, RayraftError, StorageError, UpgradeFailed
from rayraft.machine.classes import PYTHON, Name, load_founding, pack_class, unpack_class
from rayraft.machine.code import code_digest
from rayraft.machine.objects import ObjectMachine, marked_methods
from rayraft.storage.files import write_file
from rayraft.storage.identity import FoundingClass

log = logging.getLogger("rayraft")
FOUNDING_FILE = "founding-class"


def load_machine(machine: bytes) -> tuple[type, Any, Any, dict[Name, type]]:
    """As `load_founding`. Raises ClassNotLoadable."""
    try:
        return load_founding(machine)
    except Exception as error:
        raise ClassNotLoadable(
            f"the group's class or its arguments can not be loaded on the machine {os.uname().nodename} "
            f"({type(error).__name__}: {error}): install their modules on every machine, or have Ray send them, by "
            'ray.init(runtime_env={"working_dir": "."}) or {"py_modules": [...]}'
        ) from error


def make_founding(machine: bytes) -> ObjectMachine:
    """The object that the log begins with. Raises ClassNotLoadable, BadConfiguration."""
    cls, args, kwargs, names = load_machine(machine)
    try:
        return ObjectMachine(cls, args, kwargs, names)
    except RayraftError:
        raise
    except Exception as error:
        raise BadConfiguration(
            f"no {cls.__name__} can be made of the args and kwargs that start was given: "
            f"{type(error).__name__}: {error}"
        ) from error


def keep_founding(directory: str, machine: bytes) -> None:
    """Write ``machine``, the cloudpickle of (class, args, kwargs), down, unless it was before.

    Raises UpgradeFailed when it can not be pickled by value, DiskFailed.
    """
    path = Path(directory) / FOUNDING_FILE
    if path.exists():
        return
    content = cloudpickle.loads(machine)
    packed = pack_class(content[0], content)
    try:
        write_file(path, packed)
    except OSError as error:
        raise DiskFailed(f"cannot write {path}: {error}") from error


def founding_machine(directory: str) -> bytes | None:
    """What the node's log began with; None where that was not kept, or by another version of Python.

    Raises StorageError.
    """
    path = Path(directory) / FOUNDING_FILE
    try:
        found = unpack_class(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, UpgradeFailed) as error:
        raise StorageError(f"{path} can not be read: {error}") from error
    return found.pickle if found.python == PYTHON else None


def describe(cls: type) -> FoundingClass:
    marks = sorted(marked_methods(cls).items())
    return FoundingClass(
        name=cls.__name__,
        commands=tuple(name for name, mark in marks if mark.is_command),
        queries=tuple(name for name, mark in marks if not mark.is_command),
        code=code_digest(cls),
        python=PYTHON,
    )


def check_founding(group: str, given: FoundingClass, founded: Iterable[FoundingClass]) -> None:
    """Whether the class ``given`` may apply again what nodes have in their logs, by the classes that these began with.

    Warns of code that was edited, as far as `code_digest` sees it. Raises BadConfiguration for another class.
    """
    for known in founded:
        if (known.name, known.commands, known.queries) != (given.name, given.commands, given.queries):
            raise BadConfiguration(
                f"{group!r} was founded with the class {_shown(known)}, not with {_shown(given)}: start it with the "
                "class that it was founded with, and change that by handle.cluster.upgrade(NewClass)"
            )
        if known.python == given.python and "" != known.code != given.code != "":
            log.warning(
                "the code of %s was edited since %r was founded: what is in the group's log is applied again by the "
                "edited code, and may come to another state. Change the class of a group by "
                "handle.cluster.upgrade(%s) instead, while it runs the code that it was founded with",
                given.name,
                group,
                given.name,
            )
            return


def _shown(described: FoundingClass) -> str:
    return f"{described.name} (methods: {', '.join(sorted(described.commands + described.queries))})"
