"""What a user holds: the methods of the user's class as replicated calls, and batches of them."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from rayraft.client.client import Client
from rayraft.client.config import ClientConfig
from rayraft.client.handle import DEFAULT_TIMEOUT_S, Access, Handle
from rayraft.client.results import Result
from rayraft.errors import BadCall, BadConfiguration, ClientClosed, CommandTimeout
from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import ObjectMachine, marked_methods
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import NEW_SESSION, Status, query_packet, reply
from tests.client.support import PATIENCE, SESSION, Call, Scripted
from tests.machine.support import Log

METHODS = marked_methods(KeyValue)


class Store:
    """A group of one, without Raft: it serves a `KeyValue` within the very call."""

    name = "store"
    commands = frozenset(name for name, mark in METHODS.items() if mark.is_command)
    queries = frozenset(name for name, mark in METHODS.items() if not mark.is_command)

    def __init__(self) -> None:
        self.log = Log(ReplicatedMachine(ObjectMachine(KeyValue)))
        self.endpoints = Scripted(react=self.serve)
        self.entries = 0

    def serve(self, call: Call) -> None:
        if call.kind == "query":
            call.done(reply(Status.OK, self.log.machine.machine.query(query_packet(call.data))))
            return
        self.entries += call.header.session != NEW_SESSION
        [(_, answer)] = self.log.commit(call.data)
        call.done(answer)

    def operator(self) -> Store:
        return self

    def passed(self, config: ClientConfig) -> PassedStore:
        return PassedStore(self.name)


class PassedStore(Store):
    """Made without a look at `STORES`, which stands for what a process asks Ray for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[type[PassedStore], tuple[str]]:
        return PassedStore, (self.name,)

    def access(self) -> Access:
        return access_to(Client(STORES[self.name].endpoints))


STORES: dict[str, Store] = {}


def access_to(client: Client) -> Access:
    return Access(lambda _: (client, client.hold()), client.config)


def connect(name: str) -> Handle:
    store = STORES[name]
    return Handle(access_to(Client(store.endpoints)), store)


@pytest.fixture
def store() -> Iterator[Store]:
    made = STORES["store"] = Store()
    yield made
    del STORES["store"]


@pytest.fixture
def handle(store: Store) -> Iterator[Handle]:
    made = connect("store")
    yield made
    made.close()


def test_methods_of_the_class_are_methods_of_the_handle(handle: Handle) -> None:
    assert handle.put("k", value=1) is None
    assert handle.increment("k", by=2) == 3
    assert handle.get("k") == 3
    assert handle.get.remote("k").result() == 3


def test_an_exception_of_a_command_is_raised_where_its_result_is_asked_for(handle: Handle) -> None:
    handle.put("k", "text")
    failing = handle.increment.remote("k")
    with pytest.raises(TypeError):
        failing.result()
    with pytest.raises(TypeError):
        handle.increment("k")


def test_an_unknown_method_is_named_with_those_there_are(handle: Handle) -> None:
    with pytest.raises(AttributeError, match=r"'store' has no command or query 'putt' \(it has: .*put, put_many"):
        handle.putt("k", 1)
    assert not hasattr(handle, "_set")
    assert not hasattr(handle, "__len__")


def test_dir_shows_what_can_be_called(handle: Handle) -> None:
    assert {"put", "get", "scan", "batch", "options"} <= set(dir(handle))


def test_the_handle_says_what_it_is(handle: Handle, store: Store) -> None:
    assert repr(handle) == "<rayraft handle of 'store'>"
    assert handle.name == "store"
    assert handle.cluster is store


def test_a_handle_pickles_into_one_of_the_same_group_with_the_same_options(handle: Handle) -> None:
    handle.put("k", 1)
    other = pickle.loads(pickle.dumps(handle.options(timeout_s=3)))
    assert other.get("k") == 1
    assert (other._timeout_s, handle._timeout_s) == (3, DEFAULT_TIMEOUT_S)
    other.close()
    assert handle.get("k") == 1, "closing one does not close the other"


def test_a_handle_can_be_copied_before_it_is_complete() -> None:
    with pytest.raises(AttributeError, match="_client"):
        object.__new__(Handle).__getattr__("_client")


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), "3"])
def test_a_timeout_that_is_none_is_refused(handle: Handle, timeout_s: Any) -> None:
    with pytest.raises(BadConfiguration, match="timeout_s"):
        handle.options(timeout_s=timeout_s)


def test_options_change_the_deadline_of_every_call(store: Store) -> None:
    silent = Handle(access_to(Client(Scripted(react=lambda call: None), ClientConfig())), store).options(timeout_s=0.01)
    with pytest.raises(CommandTimeout) as caught:
        silent.put("k", 1)
    assert caught.value.outcome_known, "without a session nothing was sent"
    with pytest.raises(CommandTimeout):
        silent.get("k")
    silent.close()
    with pytest.raises(ClientClosed):
        silent.put("k", 1)


def test_an_argument_that_can_not_travel_is_refused_and_the_handle_goes_on(handle: Handle) -> None:
    with pytest.raises(BadCall, match=r"put\(\)"):
        handle.put("k", (n for n in range(3)))
    assert handle.count() == 0


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_one_entry_with_its_results_in_order(handle: Handle, store: Store) -> None:
    with handle.batch() as batch:
        batch.put("a", 1)
        increments = [batch.increment("a") for _ in range(3)]
        assert len(batch) == 4
        with pytest.raises(BadCall, match="after it"):
            _ = batch.results
    assert batch.results == [None, 2, 3, 4]
    assert [result.result() for result in increments] == [2, 3, 4]
    assert store.entries == 1


def test_a_batch_whose_block_raises_is_not_sent(handle: Handle, store: Store) -> None:
    def interrupted() -> None:
        with handle.batch() as batch:
            batch.put("a", 1)
            raise KeyError("in the block")

    with pytest.raises(KeyError, match="in the block"):
        interrupted()
    assert handle.count() == 0
    assert store.entries == 0


def test_an_empty_batch_sends_nothing(handle: Handle, store: Store) -> None:
    with handle.batch() as batch:
        pass
    assert batch.results == []
    assert store.endpoints.seen == []


def test_one_failing_command_of_a_batch_does_not_stop_the_others(handle: Handle) -> None:
    with handle.batch() as batch:
        batch.put("a", "text")
        failing = batch.increment("a")
        after = batch.put("b", 2)
    assert after.result() is None
    with pytest.raises(TypeError):
        failing.result()
    with pytest.raises(TypeError):
        _ = batch.results
    assert handle.get("b") == 2


def test_a_batch_takes_commands_only_and_only_before_it_was_sent(handle: Handle) -> None:
    with handle.batch() as batch:
        put = batch.put
        with pytest.raises(BadCall, match="get is a query"):
            batch.get("a")
        with pytest.raises(AttributeError, match="no command"):
            batch.nonsense()
        put("a", 1)
    with pytest.raises(BadCall, match="sent already"):
        put("b", 2)
    assert handle.count() == 1


def test_a_batch_has_no_results_before_it_was_sent(handle: Handle) -> None:
    """To ask for one waited for the whole time, with nothing on its way."""

    async def wait(result: Any) -> None:
        await result

    with handle.batch() as batch:
        result = batch.put("a", 1)
        with pytest.raises(BadCall, match="after it"):
            result.result()
        with pytest.raises(BadCall, match="after it"):
            asyncio.run(wait(result))
    assert result.result() == batch.results[0]


def check_a_batch_that_runs_out_of_time_has_no_effect_later(store: Store) -> None:
    """It says that it was withdrawn: then nothing of it may be sent when a leader comes back."""
    store.endpoints.react = None  # nobody leads
    handle = Handle(access_to(Client(store.endpoints, ClientConfig())), store, timeout_s=0.01)

    def send() -> None:
        with handle.batch() as batch:
            batch.put("a", 1)
            batch.put("b", 2)

    with pytest.raises(CommandTimeout) as caught:
        send()
    assert caught.value.outcome_known
    opening = store.endpoints.calls.get(timeout=30)
    store.endpoints.react = store.serve
    store.serve(opening)
    patient = handle.options(timeout_s=30)
    patient.put("c", 3)
    assert patient.scan() == [("c", 3)]
    handle.close()


def test_a_batch_that_runs_out_of_time_has_no_effect_later(store: Store) -> None:
    check_a_batch_that_runs_out_of_time_has_no_effect_later(store)


def test_a_batch_of_which_the_answer_is_late_may_still_take_effect(store: Store) -> None:
    late: list[Call] = []

    def keep(call: Call) -> None:
        if call.header.session == NEW_SESSION:
            store.serve(call)
        else:
            late.append(call)

    store.endpoints.react = keep
    handle = Handle(access_to(Client(store.endpoints)), store)
    batch = handle.options(timeout_s=0.2).batch()
    batch.put("a", 1)
    with pytest.raises(CommandTimeout) as caught:
        batch.__exit__(None, None, None)
    assert caught.value.outcome_known == (not late)
    for call in late:
        store.serve(call)
        assert batch.results == [None]
    handle.close()


def test_a_copy_of_a_handle_is_a_handle(handle: Handle) -> None:
    handle.put("k", 1)
    assert copy.copy(handle).get("k") == 1


# --- a handle that is dropped -----------------------------------------------------------------------------------------


def thread_of(handle: Handle) -> threading.Thread:
    thread = handle._access.client(1.0)[0]._thread
    assert thread is not None
    return thread


def check_a_dropped_handle_ends_its_client(store: Store) -> None:
    """Its thread and its watches on the nodes with it."""
    handle = connect("store")
    handle.put("k", 1)
    thread = thread_of(handle)
    del handle
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_dropped_handle_ends_its_client(store: Store) -> None:
    check_a_dropped_handle_ends_its_client(store)


@pytest.mark.parametrize("part", ["put", "options", "batch"])
def test_a_client_lives_as_long_as_something_that_it_can_be_called_through(store: Store, part: str) -> None:
    handle = connect("store")
    handle.put("k", 1)
    thread = thread_of(handle)
    put, other, batch = handle.put, handle.options(timeout_s=5), handle.batch()
    del handle
    if part == "put":
        del other, batch
        gc.collect()
        assert put("k", 2) is None
        del put
    elif part == "options":
        del put, batch
        gc.collect()
        assert other.get("k") == 1
        del other
    else:
        del put, other
        gc.collect()
        with batch:
            batch.put("k", 3)
        assert batch.results == [None]
        del batch
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def check_calls_of_a_dropped_handle_are_answered() -> None:
    endpoints = Scripted()
    handle = Handle(access_to(Client(endpoints)), Store())
    result = handle.put.remote("k", 1)
    thread = thread_of(handle)
    del handle
    gc.collect()
    opening = endpoints.calls.get(timeout=PATIENCE)
    opening.done(reply(Status.OK, SESSION.to_bytes(8, "little")))
    endpoints.calls.get(timeout=PATIENCE).ok()
    assert result.result(timeout_s=PATIENCE) == "k"
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_calls_of_a_dropped_handle_are_answered() -> None:
    check_calls_of_a_dropped_handle_are_answered()


def unanswered(endpoints: Scripted, timeout_s: float) -> Handle:
    """A handle whose calls have ``timeout_s``, and are tried again soon."""
    return Handle(access_to(Client(endpoints, ClientConfig(backoff=0.001, max_backoff=0.002))), Store(), timeout_s)


def check_a_dropped_handle_of_a_group_that_is_gone_ends_its_client() -> None:
    """The nodes never answer, and nobody waits: the thread would call them for ever."""
    handle = unanswered(Scripted(react=Call.fail), 0.05)
    result, thread = handle.put.remote("k", 1), thread_of(handle)
    del handle
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    with pytest.raises(ClientClosed, match="dropped"):
        result.result()


def test_a_dropped_handle_of_a_group_that_is_gone_ends_its_client() -> None:
    check_a_dropped_handle_of_a_group_that_is_gone_ends_its_client()


def check_a_client_goes_on_while_somebody_waits(wait: Callable[[Result], Any]) -> None:
    """Though its handle is dropped and the deadline of its calls is over."""
    endpoints = Scripted()
    handle = unanswered(endpoints, 0.001)
    result, thread = handle.put.remote("k", 1), thread_of(handle)
    outcomes: SimpleQueue[Any] = SimpleQueue()
    waiter = threading.Thread(target=lambda: outcomes.put(outcome_of(lambda: wait(result))), daemon=True)
    waiter.start()
    while not result._packet.awaited:
        assert waiter.is_alive()
    del handle
    gc.collect()
    for _ in range(50):  # each is tried again after 2 ms and more
        endpoints.calls.get(timeout=PATIENCE).fail()
    endpoints.calls.get(timeout=PATIENCE).done(reply(Status.OK, SESSION.to_bytes(8, "little")))
    endpoints.calls.get(timeout=PATIENCE).ok()
    assert outcomes.get(timeout=PATIENCE) == "k"
    thread.join(PATIENCE)
    assert not thread.is_alive()


def outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


def wait_in_a_thread(result: Result) -> Any:
    return result.result(timeout_s=PATIENCE)


def wait_in_an_event_loop(result: Result) -> Any:
    async def wait() -> Any:
        return await Result(result._packet, result._position, PATIENCE)

    return asyncio.run(wait())


@pytest.mark.parametrize("wait", [wait_in_a_thread, wait_in_an_event_loop])
def test_a_client_goes_on_while_somebody_waits(wait: Callable[[Result], Any]) -> None:
    check_a_client_goes_on_while_somebody_waits(wait)


def check_a_coroutine_that_gave_up_is_not_waited_for() -> None:
    handle = unanswered(Scripted(react=Call.fail), 0.05)
    result, thread = handle.put.remote("k", 1), thread_of(handle)

    async def give_up() -> None:
        impatient = asyncio.ensure_future(wait_long())
        await asyncio.sleep(0)  # it waits now
        assert result._packet.awaited == 1
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient

    async def wait_long() -> None:
        await Result(result._packet, result._position, None)

    asyncio.run(give_up())
    assert result._packet.awaited == 0
    del handle
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_coroutine_that_gave_up_is_not_waited_for() -> None:
    check_a_coroutine_that_gave_up_is_not_waited_for()


@pytest.mark.parametrize(
    "wrong", [{"read": "quick"}, {"read": "stale"}, {"read": "lease", "max_staleness_s": 1}, {"max_staleness_s": 0}]
)
def test_a_way_of_reading_that_makes_no_sense_is_refused(handle: Handle, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadConfiguration, match=r"read is one of|max_staleness_s"):
        handle.options(**wrong)
