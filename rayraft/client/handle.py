"""What a user holds: an object with the methods of the user's class, each a replicated call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Protocol

from rayraft.client.client import Client
from rayraft.client.reads import LINEARIZABLE, Reads
from rayraft.client.results import Packet, Result
from rayraft.errors import BadCall, BadConfiguration
from rayraft.machine.calls import encode_call

DEFAULT_TIMEOUT_S = 30.0


class Group(Protocol):
    """What a handle needs of the group it talks to."""

    @property
    def name(self) -> str: ...

    @property
    def commands(self) -> frozenset[str]: ...

    @property
    def queries(self) -> frozenset[str]: ...

    def reconnect(self) -> Callable[[], Handle]:
        """How to make a handle like this one in another process (it must pickle)."""
        ...


class Lifeline:
    """Held by all through which a client can be called; when the last of them is dropped, the client retires."""

    __slots__ = ("__weakref__",)

    def __init__(self, client: Client) -> None:
        weakref.finalize(self, client.retire).atexit = False


class Handle:
    """The replicated object. ``handle.method(...)`` waits; ``handle.method.remote(...)`` gives a `Result` at once.

    Safe to share between threads, usable in a notebook, and picklable into Ray tasks and actors.
    """

    def __init__(
        self,
        client: Client,
        group: Group,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        reads: Reads = LINEARIZABLE,
        lifeline: Lifeline | None = None,
    ) -> None:
        self._client = client
        self._lifeline = lifeline or Lifeline(client)
        self._group = group
        self._timeout_s = timeout_s
        self._reads = reads
        client.expect(timeout_s)

    @property
    def name(self) -> str:
        return self._group.name

    @property
    def cluster(self) -> Any:
        """The group's nodes: ``status()``, ``shutdown()``, …"""
        return self._group

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
        if not timeout_s > 0:
            raise BadConfiguration(f"timeout_s must be above 0, not {timeout_s}")
        if read is None and max_staleness_s is not None:
            read = "stale"
        reads = self._reads if read is None else Reads.of(read, max_staleness_s)
        return Handle(self._client, self._group, timeout_s, reads, self._lifeline)

    def batch(self) -> Batch:
        """Collect commands in a ``with`` block and send them as one call and one log record."""
        return Batch(self._client, self._group, self._timeout_s, self._lifeline)

    def close(self) -> None:
        """Let go of the group; it lives on. Calls under way fail with ClientClosed.

        A handle that is dropped does so by itself, once the calls that were made through it have their answers, or
        their deadlines are over and nobody waits for them.
        """
        self._client.close()

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
        return _rebuild, (self._group.reconnect(), self._timeout_s, self._reads)


def _rebuild(reconnect: Callable[[], Handle], timeout_s: float, reads: Reads) -> Handle:
    handle = reconnect()
    handle._timeout_s, handle._reads = timeout_s, reads
    handle._client.expect(timeout_s)
    return handle


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

    __slots__ = ("_lifeline", "_name", "_send", "_timeout_s")

    def __init__(self, handle: Handle, name: str, *, is_command: bool) -> None:
        client = handle._client
        self._lifeline = handle._lifeline
        self._name = name
        self._timeout_s = handle._timeout_s
        self._send = client.command if is_command else partial(client.query, reads=handle._reads)

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

    def __init__(self, client: Client, group: Group, timeout_s: float, lifeline: Lifeline) -> None:
        self._client = client
        self._lifeline = lifeline
        self._group = group
        self._timeout_s = timeout_s
        self._packet = Packet()

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not len(self):
            return
        self._client.batch(self._packet, self._timeout_s)
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
