"""A machine's class as bytes, each version of it as it was when it was sent: code in the log and in snapshots.

Pickled by reference, as usual, a class that can be imported would be whatever its file says by the time that somebody
looks, and different on the two sides of an upgrade. So the class travels by value, with all that it uses of its module.
The classes that come along (of values in the state, of exceptions) then exist twice: in the machine, and where callers
import that module. `load` makes one the other by name wherever a pickle crosses that border.

A class of a script or a notebook travels by value anyway, and is another one in each process that runs the script. The
machine's own ones are found by name (`load_founding`); of all others no two callers could pass the same.
"""

from __future__ import annotations

import io
import pickle
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias

import cloudpickle
import msgspec

from rayraft.errors import BadCall, ClassNotLoadable, UpgradeFailed

PYTHON = (sys.version_info.major, sys.version_info.minor)  # bytecode is for one version of Python
Name: TypeAlias = tuple[str, str]  # module, name
_MADE = b"_make_skeleton_"  # in every pickle that has a class by value
_PICKLER = "cloudpickle.cloudpickle"


class PackedClass(msgspec.Struct, frozen=True, array_like=True):
    """``pickle`` is the class, or for the founding one the tuple (class, args, kwargs), by value."""

    name: str
    python: tuple[int, int]
    pickle: bytes
    crc: int


class Names(Protocol):
    def get(self, name: Name, /) -> Any: ...


class Upgraded(NamedTuple):
    """Stands before the state in a snapshot, unless the class is the founding one."""

    version: int  # how many upgrades there were
    packed: bytes


@dataclass(frozen=True, slots=True)
class LoadedClass:
    """A class, and the classes by name that came with it by value; none with one that was loaded by reference."""

    cls: type
    names: dict[Name, type] = field(default_factory=dict)


def full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def pack_class(cls: type, content: Any = None) -> bytes:
    """The class by value; with ``content``, that, and the classes in it by value. Raises UpgradeFailed."""
    try:
        with _by_value(cls):
            data = cloudpickle.dumps(cls if content is None else content, 5)
    except Exception as error:
        raise UpgradeFailed(
            f"{full_name(cls)} can not be sent to the nodes, since something it uses of its module can not be "
            f"serialised: {error}"
        ) from error
    return msgspec.msgpack.encode(PackedClass(full_name(cls), PYTHON, data, zlib.crc32(data)))


def unpack_class(packed: bytes) -> PackedClass:
    """Raises UpgradeFailed: what is malformed is so on every node."""
    try:
        found = msgspec.msgpack.decode(packed, type=PackedClass)
    except msgspec.DecodeError as error:
        raise UpgradeFailed(f"the new class is malformed: {error}") from error
    if zlib.crc32(found.pickle) != found.crc:
        raise UpgradeFailed("the new class fails its checksum")
    return found


def load_class(packed: bytes, stand_in: type) -> LoadedClass:
    """The class of ``packed``; by another version of Python ``stand_in``, if that has its name.

    Raises ClassNotLoadable when it is this node that can not load it: others may, so it must not go on without.
    """
    found = unpack_class(packed)
    if found.python != PYTHON:
        if found.name == full_name(stand_in):
            return LoadedClass(stand_in)
        raise ClassNotLoadable(
            f"the class {found.name} was sent by Python {'.'.join(map(str, found.python))}, this is "
            f"{'.'.join(map(str, PYTHON))}: start the group with that class, or with that Python"
        )
    unpickler = BorderUnpickler(io.BytesIO(found.pickle), {})
    try:
        cls = unpickler.load()
    except Exception as error:
        raise ClassNotLoadable(
            f"the class {found.name} can not be loaded on this node ({type(error).__name__}: {error}): install what it "
            "needs here; until then the node stays away, because its state would differ from that of the others"
        ) from error
    return LoadedClass(cls, unpickler.made)


def load_founding(machine: bytes) -> tuple[type, Any, Any, dict[Name, type]]:
    """Of the cloudpickle of (class, args, kwargs): these, and the classes by name that came by value."""
    unpickler = BorderUnpickler(io.BytesIO(machine), {})
    cls, args, kwargs = unpickler.load()
    return cls, args, kwargs, unpickler.made


def load(stream: BinaryIO, names: Names) -> Any:
    """Unpickle, with the classes of ``names`` wherever the pickle has one of that module and name."""
    return BorderUnpickler(stream, names).load()


def loads(data: bytes, names: Names) -> Any:
    return load(io.BytesIO(data), names)


def loads_call(data: bytes, names: Names) -> Any:
    """A pickled call. Raises BadCall for an argument of a class that came by value, unless it is in ``names``."""
    return CallUnpickler(io.BytesIO(data), names).load() if names or _MADE in data else pickle.loads(data)


class Imported:
    """The classes that this process has imported. ``__main__`` does not count: each process has another one."""

    def get(self, name: Name, /) -> Any:
        found = getattr(sys.modules.get(name[0]), name[1], None) if name[0] != "__main__" else None
        return found if isinstance(found, type) else None


IMPORTED = Imported()


def loads_result(data: bytes) -> Any:
    """A result as its caller knows it: objects and exceptions of the classes that the caller has imported."""
    return loads(data, IMPORTED) if _MADE in data else pickle.loads(data)


class BorderUnpickler(pickle.Unpickler):
    """``made`` has the classes that came by value."""

    def __init__(self, stream: BinaryIO, names: Names) -> None:
        super().__init__(stream)
        self._names = names
        self.made: dict[Name, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == _PICKLER and name in ("_make_skeleton_class", "_make_skeleton_enum", "_class_setstate"):
            return {"_make_skeleton_class": self._class, "_make_skeleton_enum": self._enum}.get(name, self._fill)
        known = self._names.get((module, name))
        return super().find_class(module, name) if known is None else known

    def _class(self, kind: Any, name: str, bases: Any, attributes: dict[str, Any], *rest: Any) -> Any:
        make = cloudpickle.cloudpickle._make_skeleton_class
        return self._make((attributes.get("__module__", ""), name), make, kind, name, bases, attributes, *rest)

    def _enum(self, bases: Any, name: str, qualname: str, members: Any, module: str, *rest: Any) -> Any:
        make = cloudpickle.cloudpickle._make_skeleton_enum
        return self._make((module, name), make, bases, name, qualname, members, module, *rest)

    def _make(self, name: Name, make: Any, *args: Any) -> Any:
        known = self._names.get(name)
        return self._unknown(name, make, *args) if known is None else known

    def _unknown(self, name: Name, make: Any, *args: Any) -> Any:
        made = self.made[name] = make(*args)
        return made

    def _fill(self, cls: type, state: Any) -> type:
        if cls in self.made.values():  # else it is one of ours, and complete
            cloudpickle.cloudpickle._class_setstate(cls, state)
        return cls


class CallUnpickler(BorderUnpickler):
    """Makes no class: the next caller's of that name would be another one, and no value of it equal to any of this."""

    def _unknown(self, name: Name, make: Any, *args: Any) -> Any:
        raise BadCall(
            f"an argument is or uses an object of {'.'.join(name)}, which every process that runs that code has as a "
            "class of its own, and which the machine's class does not use: put it into a module that the nodes can "
            "import, or pass plain values"
        )


@contextmanager
def _by_value(cls: type) -> Iterator[None]:
    """Within, the modules of ``cls``, and of its bases in the same package, are pickled by value."""
    package = cls.__module__.partition(".")[0]
    modules = {base.__module__ for base in cls.__mro__ if base.__module__.partition(".")[0] == package}
    modules -= {"__main__", *cloudpickle.list_registry_pickle_by_value()}
    ours = [sys.modules[name] for name in sorted(modules) if name in sys.modules and package != "rayraft"]
    for module in ours:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in ours:
            cloudpickle.unregister_pickle_by_value(module)
