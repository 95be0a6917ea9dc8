"""What the code of a class does, as a hash: to notice that it was edited."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from rayraft.machine.calls import PLAIN
from rayraft.machine.digest import digest_of


def code_digest(cls: type) -> str:
    """A hash of the functions and the plain attributes of a class and its bases; empty where that can not be told.

    Bases of other packages are left out: they change with what is installed. So are rayraft's own classes, whose
    versions have a protocol number. Comments, docstrings, the file and its lines do not count, and neither does how
    the class came here: by import or in a pickle. What it uses outside of itself (functions and values of its module,
    other classes) is not looked at. Bytecode is for one version of Python, and so is the hash.
    """
    package = _package(cls)
    try:
        return digest_of([_members(base) for base in cls.__mro__ if _package(base) == package != "rayraft"]).hex()
    except Exception:  # the default of an argument may be anything
        return ""


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _members(cls: type) -> list[Any]:
    members: list[Any] = []
    for name, value in sorted(vars(cls).items()):
        if type(value) in PLAIN and not name.startswith("__"):
            members.append((name, value))
        members.extend((name, _function(function)) for function in _functions(value))
    return members


def _functions(value: Any) -> Iterator[FunctionType]:
    """Those that an attribute of a class runs, and those that they wrap."""
    if isinstance(value, property):
        for accessor in (value.fget, value.fset, value.fdel):
            yield from _functions(accessor)
    if isinstance(value, FunctionType):
        yield value
    if (wrapped := getattr(value, "__wrapped__", None)) is not None:  # by a decorator, staticmethod or classmethod
        yield from _functions(wrapped)


def _function(function: FunctionType) -> Any:
    return _code(function.__code__, function.__doc__), function.__defaults__, function.__kwdefaults__


def _code(code: CodeType, doc: str | None = None) -> Any:
    constants = [_code(item) if isinstance(item, CodeType) else item for item in code.co_consts]
    if doc is not None and doc in constants:
        constants.remove(doc)
    return code.co_code, constants, code.co_names, code.co_varnames
