"""What a user holds: an object with the methods of the user's class, each a replicated call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Protocol, TypeAlias, TypeVar

from rayraft.client.client import Client, Lifeline
from rayraft.client.config import ClientConfig, check_timeout
from rayraft.client.reads import LINEARIZABLE, Reads
from rayraft.client.results import Packet, Result
from rayraft.errors import BadCall, ClientClosed
from rayraft.machine.calls import encode_call

DEFAULT_TIMEOUT_S = 30.0

T = TypeVar("T")
Hold: TypeAlias = Callable[[float], tuple[Client, Lifeline]]  # within so many seconds


class Group(Protocol):
    """What a handle needs of the group it talks to."""

    @property
    def name(self) -> str: ...

    @property
    def commands(self) -> frozenset[str]: ...

    @property
    def queries(self) -> frozenset[str]: ...

    def operator(self) -> Any:
        """The operator's view of it."""
        ...

    def passed(self, config: ClientConfig) -> PassedGroup:
        """As a handle in another process shall know it (it must pickle)."""
        ...


class PassedGroup(Group, Protocol):
    """Where it is unpickled, nothing may be asked of the group or of Ray before `Access.client` is."""

    def access(self) -> Access: ...


class Access:
    """How handles reach their client, which is there only once a call needs it; the client lives as long as they do."""

    __slots__ = ("_closed", "_held", "_hold", "_shared", "config")

    def __init__(self, hold: Hold, config: ClientConfig, *, shared: bool = False) -> None:
        """``hold`` finds or makes it, the same for several threads at once.

        ``shared``: it has other users than these handles, and stays when they close.
        """
        self.config = config
        self._hold = hold
        self._shared = shared
        self._held: tuple[Client, Lifeline] | None = None
        self._closed = False

    def client(self, timeout_s: float) -> tuple[Client, Lifeline]:
        """The client for calls with this deadline, and what keeps it. Raises ClientClosed, and what ``hold`` does."""
        self._check_open()
        held = self._held
        if held is None or (self._shared and held[0].closed):  # it found Ray or the group gone: they may be back
            held = self._held = self._hold(timeout_s)
        held[0].expect(timeout_s)
        return held

    def way(self, choose: Callable[[Client], Callable[..., T]], timeout_s: float) -> Callable[..., T]:
        """What ``choose`` takes of the client, whichever that is; it ends with `close`."""
        client, _ = self.client(timeout_s)
        if not self._shared:
            return choose(client)

        def through_the_present_one(*args: Any, **kwargs: Any) -> T:
            held = self.client(timeout_s)
            return choose(held[0])(*args, **kwargs)

        return through_the_present_one

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this handle was closed: connect again")

    def close(self) -> None:
        held, self._held, self._closed = self._held, None, True
        if held is not None and not self._shared:
            held[0].leave()


class Handle:
    """The replicated object. ``handle.method(...)`` waits; ``handle.method.remote(...)`` gives a `Result` at once.

    Safe to share between threads, usable in a notebook, and picklable into Ray tasks and actors.
    """

    def __init__(
        self, access: Access, group: Group, timeout_s: float = DEFAULT_TIMEOUT_S, reads: Reads = LINEARIZABLE
    ) -> None:
        self._access = access
        self._group = group
        self._timeout_s = timeout_s
        self._reads = reads

    @property
    def name(self) -> str:
        return self._group.name

    @cached_property
    def cluster(self) -> Any:
        """The group's nodes: ``status()``, ``shutdown()``, …"""
        return self._group.operator()

    def options(
        self, *, timeout_s: float | None = None, read: str | None = None, max_staleness_s: float | None = None
    ) -> Handle:
        """The same object with other settings for its calls; what is not named stays as it is.

        ``timeout_s`` is the deadline of each call in seconds. ``read`` is what queries may return:

        - ``"linearizable"`` (the default): the newest state; the leader asks a quorum first.
        - ``"lease"``: the same, without asking while the leader's lease holds; needs `Settings.max_clock_drift`.
        - ``"follower"``: the same, from the state of any node; takes load off the leader.
        - ``"stale"``: the state of any node that is certainly no older than ``max_staleness_s`` seconds; needs no
          quorum, and raises TooStale when no node can vouch for one.

        Raises BadConfiguration.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        check_timeout(timeout_s)
        if read is None and max_staleness_s is not None:
            read = "stale"
        reads = self._reads if read is None else Reads.of(read, max_staleness_s)
        return Handle(self._access, self._group, timeout_s, reads)

    def batch(self) -> Batch:
        """Collect commands in a ``with`` block and send them as one call and one log record."""
        return Batch(self._access, self._group, self._timeout_s)

    def close(self) -> None:
        """Let go of the group; it lives on. Calls under way fail with ClientClosed.

        A handle that is dropped does so by itself, once the calls that were made through it have their answers, or
        their deadlines are over and nobody waits for them. Handles that were passed to this process (in the arguments
        of a task, say) share a client: closing one of them ends its own calls only, from the next one on.
        """
        self._access.close()

    def __getattr__(self, name: str) -> Method:
        if name.startswith("_"):
            raise AttributeError(name)
        method = Method(self, name, is_command=_kind_of(self._group, name))
        self.__dict__[name] = method  # found directly the next time
        return method

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._group.commands, *self._group.queries})

    def __repr__(self) -> str:
        return f"<rayraft handle of {self.name!r}>"

    def __reduce__(self) -> tuple[Callable[..., Handle], tuple[Any, ...]]:
        return _rebuild, (self._group.passed(self._access.config), self._timeout_s, self._reads)


def _rebuild(group: PassedGroup, timeout_s: float, reads: Reads) -> Handle:
    return Handle(group.access(), group, timeout_s, reads)


def _kind_of(group: Group, name: str) -> bool:
    """Whether ``name`` is a command (True) or a query (False); AttributeError when it is neither."""
    if name in group.commands:
        return True
    if name in group.queries:
        return False
    known = ", ".join(sorted(group.commands | group.queries))
    raise AttributeError(
        f"{group.name!r} has no command or query {name!r} (it has: {known}); is the method marked with "
        "@rayraft.command or @rayraft.query?"
    )


class Method:
    """One command or query of a handle."""

    __slots__ = ("_access", "_name", "_send", "_timeout_s")

    def __init__(self, handle: Handle, name: str, *, is_command: bool) -> None:
        self._access, reads = handle._access, handle._reads
        self._name = name
        self._timeout_s = handle._timeout_s
        if is_command:
            self._send = self._access.way(lambda client: client.command, self._timeout_s)
        else:
            self._send = self._access.way(lambda client: partial(client.query, reads=reads), self._timeout_s)

    def remote(self, *args: Any, **kwargs: Any) -> Result:
        """Send the call and return at once, unless too many are open already: then wait for room."""
        return self._send(encode_call(self._name, args, kwargs), self._timeout_s)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send the call and wait for its result."""
        return self._send(encode_call(self._name, args, kwargs), self._timeout_s, waits=True).result()


class Batch:
    """Commands that are sent together when the ``with`` block ends, and not at all when it raises.

    ``results`` has what they returned, in order.
    """

    def __init__(self, access: Access, group: Group, timeout_s: float) -> None:
        self._access = access
        self._send = access.way(lambda client: client.batch, timeout_s)
        self._group = group
        self._timeout_s = timeout_s
        self._packet = Packet()

    def __enter__(self) -> Batch:
        self._packet.collecting = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._packet.collecting = False
        if error is not None or not len(self):
            return
        self._send(self._packet, self._timeout_s)
        if not self._packet.wait(self._timeout_s):
            self._packet.give_up(range(len(self)), self._timeout_s)

    def __getattr__(self, name: str) -> Callable[..., Result]:
        if name.startswith("_"):
            raise AttributeError(name)
        if not _kind_of(self._group, name):
            raise BadCall(f"{name} is a query; a batch takes commands only")

        packet, timeout_s = self._packet, self._timeout_s

        def add(*args: Any, **kwargs: Any) -> Result:
            if packet.sealed:
                raise BadCall("this batch was sent already: open another one")
            return packet.add(encode_call(name, args, kwargs), timeout_s)

        self.__dict__[name] = add
        return add

    def __len__(self) -> int:
        return len(self._packet.calls)

    @property
    def results(self) -> list[Any]:
        """What the commands returned, in order; raises the first exception that one of them raised."""
        if not len(self):
            return []
        if not self._packet.sealed:
            raise BadCall("the batch is sent when its with block ends: ask for the results after it")
        if not self._packet.wait(self._timeout_s):
            self._packet.give_up(range(len(self)), self._timeout_s)
        return self._packet.outcomes()
