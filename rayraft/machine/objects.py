"""A user's plain class as a state machine: `command` and `query` mark its methods, `ObjectMachine` runs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeVar, overload

import cloudpickle

from rayraft.errors import BadCall, BadConfiguration, ClassNotLoadable, UpgradeFailed
from rayraft.machine.calls import (
    PLAIN,
    Raised,
    decode_calls,
    encode_places,
    encode_results,
    freeze,
    open_call,
    where_raised,
)
from rayraft.machine.classes import (
    LoadedClass,
    Name,
    Upgraded,
    full_name,
    load,
    load_class,
    load_founding,
    loads,
)
from rayraft.machine.digest import digest_of

Method = TypeVar("Method", bound=Callable[..., Any])
_MARK = "__rayraft__"
# What a handle or a batch offers itself; a machine's method of the same name could not be called through it.
RESERVED_NAMES = frozenset({"batch", "close", "cluster", "name", "options", "results"})

UPGRADE = "__rayraft_upgrade__"  # the command that changes the class: no user's command begins with an underscore
MIGRATE = "__rayraft_migrate__"  # a class method of the new class: makes its first object of the old one

MAX_PLACES = 16  # in a packet, of commands that have raised
_NOT_PLAIN = (staticmethod, classmethod, property)
_NOT_AT_ONCE = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
_CONTAINERS = (dict, list, set, frozenset, tuple, str, bytes, bytearray, int, float)


class Mark:
    """What the decorators leave on a method."""

    __slots__ = ("atomic", "is_command")

    def __init__(self, is_command: bool, atomic: bool) -> None:
        self.is_command = is_command
        self.atomic = atomic


@overload
def command(method: Method) -> Method: ...
@overload
def command(*, atomic: bool = False) -> Callable[[Method], Method]: ...
def command(method: Method | None = None, *, atomic: bool = False) -> Method | Callable[[Method], Method]:
    """Mark a method that changes the object: it is ordered, replicated, durable, and applied exactly once.

    It must be deterministic: the same state and arguments give the same result on every replica (no wall clock, no
    randomness, no order of a set, nothing from outside). If it raises, the caller gets the exception; what it had
    changed by then stays, the same on every replica, as with any Python object. With ``atomic=True`` that is rolled
    back, at the price of a copy of the whole state before each call: for small states. A note on the exception says
    where it was raised (from Python 3.11 on; not where the answer was lost, and asked for again).
    """

    def mark(function: Method) -> Method:
        return _marked(function, Mark(is_command=True, atomic=atomic))

    return mark if method is None else mark(method)


def query(method: Method) -> Method:
    """Mark a method that only reads: it is linearizable and costs no log entry. It must change nothing."""
    return _marked(method, Mark(is_command=False, atomic=False))


def _marked(method: Method, mark: Mark) -> Method:
    if isinstance(method, _NOT_PLAIN):
        raise BadConfiguration(_must_be_plain(getattr(method, "__name__", "what is marked")))
    setattr(method, _MARK, mark)
    return method


def marked_methods(cls: type) -> dict[str, Mark]:
    """The marked methods of a class by name; an override has the mark of what it overrides, or its own.

    Raises BadConfiguration when there is no command, or a marked method can not be served.
    """
    if not inspect.isclass(cls):
        raise BadConfiguration(f"a class is needed, not {cls!r}: pass the class itself, not an object of it")
    if issubclass(cls, _CONTAINERS) or cls.__reduce__ is not object.__reduce__:
        raise BadConfiguration(
            f"{cls.__name__} keeps its state where snapshots can not find it: keep containers in attributes, and use "
            "__getstate__ and __setstate__ rather than __reduce__"
        )
    found: dict[str, Mark] = {}
    for name in dir(cls):
        mark, function = _mark_of(cls, name), inspect.getattr_static(cls, name, None)
        if mark is None or function is None:  # None: the subclass takes the method away
            continue
        if name in RESERVED_NAMES or name.startswith("_"):
            raise BadConfiguration(f"{cls.__name__}.{name} can not be a command or query: handles use that name")
        if isinstance(function, _NOT_PLAIN if mark.is_command else property):
            raise BadConfiguration(_must_be_plain(f"{cls.__name__}.{name}"))
        if any(is_other(function) for is_other in _NOT_AT_ONCE):
            raise BadConfiguration(
                f"{cls.__name__}.{name} must be a plain method: it can not wait or be consumed later"
            )
        found[name] = mark
    if not any(mark.is_command for mark in found.values()):
        raise BadConfiguration(f"{cls.__name__} has no method marked with @rayraft.command")
    return found


def _mark_of(cls: type, name: str) -> Mark | None:
    """That of the nearest class which marks it."""
    for base in cls.__mro__:
        member = vars(base).get(name)
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        mark = getattr(function, _MARK, None)
        if isinstance(mark, Mark):
            return mark
    return None


def _must_be_plain(name: str) -> str:
    return f"{name} must be a plain method to be a command or query, not a staticmethod, classmethod or property"


class ObjectMachine:
    """A `StateMachine` that holds one object of a user's class and calls its marked methods.

    1. The class is part of the state: it changes with one command of the log, and snapshots say which one it is.
    2. An upgrade that fails, fails on every replica and changes nothing. Where only this node fails (it lacks a module)
       ClassNotLoadable leaves `apply` or `restore`, and the node must end: its state would not be that of the others.
    """

    def __init__(
        self,
        cls: type,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        names: dict[Name, type] | None = None,
    ) -> None:
        self._founding = LoadedClass(cls, names or {})
        self._object = cls(*args, **(kwargs or {}))
        self._places: dict[int, str] = {}  # where calls of the last packet have raised
        self._commands: dict[str, Callable[..., Any]] = {}
        self._queries: dict[str, Callable[..., Any]] = {}
        self._adopt(self._founding, Upgraded(0, b""))
        self._bind()

    @classmethod
    def founded(cls, machine: bytes) -> ObjectMachine:
        """As ``machine`` says, the cloudpickle of (class, args, kwargs)."""
        return cls(*load_founding(machine))

    @property
    def cls(self) -> type:
        return self._loaded.cls

    @property
    def version(self) -> int:
        """How many upgrades led to the class that it has now."""
        return self._upgraded.version

    @property
    def methods(self) -> dict[str, bool]:
        """Name -> whether it is a command."""
        return {name: mark.is_command for name, mark in self._marks.items()}

    def _adopt(self, loaded: LoadedClass, upgraded: Upgraded) -> None:
        self._marks = marked_methods(loaded.cls)
        self._loaded = loaded
        self._upgraded = upgraded

    def _bind(self) -> None:
        """In place: a packet that is being run must see the object that a roll back has put here."""
        self._commands.clear()
        self._queries.clear()
        for name, mark in self._marks.items():
            methods = self._commands if mark.is_command else self._queries
            methods[name] = self._atomic(name) if mark.atomic else getattr(self._object, name)
        self._commands[UPGRADE] = self._upgrade

    def _atomic(self, name: str) -> Callable[..., Any]:
        """The command, rolled back when it raises."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before = cloudpickle.dumps(object_state(self._object))
            try:
                return getattr(self._object, name)(*args, **kwargs)
            except BaseException:
                self._replace(cloudpickle.loads(before))
                raise

        return run

    def apply(self, packet: bytes) -> bytes:
        return encode_results(self._run(self._commands, decode_calls(packet)))

    def query(self, packet: bytes) -> bytes:
        return encode_results(self._run(self._queries, decode_calls(packet))) + self.take_places()

    def take_places(self) -> bytes:
        places, self._places = self._places, {}
        return encode_places(places)

    def _run(self, methods: dict[str, Callable[..., Any]], calls: list[Any]) -> list[Any]:
        results: list[Any] = []
        places = self._places = {}
        for call in calls:  # the innermost loop of every node: nothing here that could be done per packet
            try:
                if type(call) is list and call and call[0] in methods:
                    result = methods[call.pop(0)](*call)
                else:
                    name, args, kwargs = open_call(call, self._loaded.names)
                    if name not in methods:
                        raise BadCall(self._no_such(name))
                    result = methods[name](*args, **kwargs)
                results.append(result if type(result) in PLAIN else freeze(result))
            except ClassNotLoadable:
                raise
            except BaseException as error:  # whatever a user's method raises is its caller's, never the node's
                if len(places) < MAX_PLACES and (where := where_raised(error)):
                    places[len(results)] = where
                results.append(Raised.of(error))
        return results

    def _no_such(self, name: str) -> str:
        text = f"{self.cls.__name__} has no such command or query: {name}"
        if self.version:
            kinds = {True: "a command", False: "a query"}
            known = ", ".join(f"{method} ({kinds[mark.is_command]})" for method, mark in sorted(self._marks.items()))
            text += f". Its class was upgraded and has: {known}; connect again for a handle that knows them"
        return text

    # --- the class ----------------------------------------------------------------------------------------------------

    def _upgrade(self, replaces: int, packed: bytes) -> int:
        """The command: the object becomes one of the class in ``packed``. Returns the new version."""
        if replaces != self.version:
            raise UpgradeFailed(
                f"the class is version {self.version} by now, not {replaces}: somebody else has upgraded it meanwhile"
            )
        loaded = self._load(packed)
        new = self.migrate(self.pickled_state(), loaded)
        self._adopt(loaded, Upgraded(self.version + 1, packed))
        self._object = new
        self._bind()
        return self.version

    def pickled_state(self) -> bytes:
        try:
            data: bytes = cloudpickle.dumps(object_state(self._object))
        except Exception as error:
            raise UpgradeFailed(f"the state can not be serialised: {error}") from error
        return data

    def rehearse(self, state: bytes, packed: bytes) -> None:
        """Whether an upgrade would do here. Raises UpgradeFailed, ClassNotLoadable. Safe in any thread."""
        self.migrate(state, self._load(packed))

    def _load(self, packed: bytes) -> LoadedClass:
        loaded = load_class(packed, self._founding.cls)
        return self._founding if loaded.cls is self._founding.cls else loaded

    def migrate(self, state: bytes, loaded: LoadedClass) -> Any:
        """The first object of the new class, made of a copy of the state. Raises UpgradeFailed, ClassNotLoadable."""
        try:
            marked_methods(loaded.cls)
            content = loads(state, loaded.names)
            if MIGRATE in vars(loaded.cls):  # an inherited one was written for another upgrade
                new = getattr(loaded.cls, MIGRATE)(_with_state(self.cls, content))
                if type(new) is not loaded.cls:
                    raise TypeError(f"{MIGRATE} returned {type(new).__name__}, not {loaded.cls.__name__}")
            else:
                new = _with_state(loaded.cls, content)
            cloudpickle.dumps(object_state(new))  # or there would never be a snapshot again
        except (ImportError, MemoryError) as error:  # of this node, perhaps of no other
            raise ClassNotLoadable(
                f"the state can not be migrated to {full_name(loaded.cls)} on this node ({type(error).__name__}: "
                f"{error}): until it can, the node stays away, because its state would differ from that of the others"
            ) from error
        except BaseException as error:
            raise UpgradeFailed(
                f"the state can not be migrated to {full_name(loaded.cls)}, so nothing was changed: "
                f"{type(error).__name__}: {error}"
            ) from error
        return new

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def save(self, stream: BinaryIO) -> None:
        if self.version:
            cloudpickle.dump(self._upgraded, stream)
        cloudpickle.dump(object_state(self._object), stream)

    def check_saves(self) -> None:
        """Raises BadConfiguration when the state can not be pickled: there would never be a snapshot."""
        state: Any = None
        try:
            state = object_state(self._object)
            cloudpickle.dumps(state)
        except Exception as error:
            raise BadConfiguration(
                f"{_unpicklable_part(state)} of {self.cls.__name__} can not be pickled, so no snapshot could be saved "
                f"({error}): make such a thing where a method needs it, or leave it out of the state by __getstate__ "
                "and make it anew in __setstate__"
            ) from error

    def restore(self, stream: BinaryIO) -> None:
        first = load(stream, self._founding.names)
        if not isinstance(first, Upgraded):
            if self.version:  # back to a state from before
                self._adopt(self._founding, Upgraded(0, b""))
            self._replace(first)
            return
        if first != self._upgraded:
            self._adopt(self._load(first.packed), first)
        self._replace(load(stream, self._loaded.names))

    def _replace(self, state: Any) -> None:
        """A new object: on the old one, what ``state`` does not mention would stay."""
        self._object = _with_state(self.cls, state)
        self._bind()

    def digest(self) -> bytes:
        state = object_state(self._object)
        return digest_of((*self._upgraded, state) if self.version else state)


def _with_state(cls: type, state: Any) -> Any:
    made: Any = object.__new__(cls)
    set_object_state(made, state)
    return made


def object_state(obj: Any) -> Any:
    """The state as pickle sees it, without the class: ``__getstate__``, ``__dict__``, slots."""
    reduced = obj.__reduce_ex__(2)
    return reduced[2] if len(reduced) > 2 else None


def _unpicklable_part(state: Any) -> str:
    """Which attribute it is that can not be pickled."""
    for part in state if isinstance(state, tuple) else (state,):  # attributes, slots
        for name, value in part.items() if isinstance(part, dict) else ():
            try:
                cloudpickle.dumps(value)
            except Exception:
                return f"the attribute {name!r}"
    return "the state"


def set_object_state(obj: Any, state: Any) -> None:
    """The reverse of `object_state`, as pickle does it."""
    if state is None:
        return
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if hasattr(obj, "__dict__"):
        obj.__dict__.clear()
        obj.__dict__.update(attributes or {})
    for name, value in (slots or {}).items():
        setattr(obj, name, value)
