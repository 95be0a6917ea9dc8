"""The load generator drives a store in every style, and finds what the store lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from rayraft.bench.journal import Journal, clock
from rayraft.bench.load import PUT, Load, LoadResult, Style
from rayraft.bench.run import load_records, run_load
from rayraft.bench.witness import ABSENT, Together, Witness, version_of
from rayraft.bench.writers import CLOSED_SET, ClosedPuts, Run
from rayraft.bench.ycsb import WORKLOADS, Operation, key_name
from rayraft.errors import BadConfiguration, ClientClosed, CommandTimeout, Overloaded
from rayraft.history import Verdict

RECORDS = 50
SIZE = 64


@dataclass
class Answer:
    future: Future[Any]

    def result(self) -> Any:
        return self.future.result()

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self.future).__await__()


@dataclass
class Call:
    """A method of the handle: called it waits, ``remote`` gives a result to wait for."""

    function: Callable[..., Any]
    pool: ThreadPoolExecutor

    def remote(self, *args: Any) -> Answer:
        return Answer(self.pool.submit(self.function, *args))

    def __call__(self, *args: Any) -> Any:
        return self.remote(*args).result()


@dataclass
class Batch:
    store: Store
    puts: list[tuple[str, bytes]] = field(default_factory=list)

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        for key, value in self.puts:
            self.store.write(key, value)

    def put(self, key: str, value: bytes) -> None:
        self.puts.append((key, value))

    @property
    def results(self) -> list[None]:
        return [None for _ in self.puts]


class Store:
    """A handle on a dictionary, with the methods of `rayraft.KeyValue` that the load uses."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.pool = ThreadPoolExecutor(1)  # one: calls take effect in the order in which they were made
        self.get = Call(self.read, self.pool)
        self.put = Call(self.write, self.pool)
        self.get_many = Call(lambda keys: {key: self.data[key] for key in keys if key in self.data}, self.pool)
        self.commands: list[list[str]] = []  # of many puts: their keys
        self.put_many = Call(self.write_all, self.pool)

    def read(self, key: str) -> bytes | None:
        return self.data.get(key)

    def write(self, key: str, value: bytes) -> None:
        self.data[key] = value

    def write_all(self, items: dict[str, bytes]) -> None:
        self.commands.append(list(items))
        for key, value in items.items():
            self.write(key, value)

    def batch(self) -> Batch:
        return Batch(self)


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.pool.shutdown()


@pytest.fixture
def witness() -> Witness:
    return Witness(SIZE)


def run(
    store: Store, witness: Witness, workload: str = "A", style: Style = Style.PIPELINED, **options: Any
) -> LoadResult:
    options = {"width": 4, "batch": 10, "operations": 400, **options}
    load_records(store, witness, RECORDS, lambda _: None)
    return run_load(store, Load({**WORKLOADS, "put": PUT}[workload], RECORDS, style, **options), witness)


@pytest.mark.parametrize("style", [Style.CLOSED, Style.AWAITED, Style.PIPELINED])
@pytest.mark.parametrize("workload", [*WORKLOADS, "put"])
def test_every_workload_in_every_style(store: Store, witness: Witness, workload: str, style: Style) -> None:
    result = run(store, witness, workload, style)
    found = result.recorder
    assert result.operations == found.timeline.total == sum(each.count for each in found.latencies.values()) == 400
    shares = {**WORKLOADS, "put": PUT}[workload].proportions
    assert {kind for kind, share in shares.items() if share} == set(found.latencies)
    assert result.commands == 400 - (found.latencies[Operation.READ].count if Operation.READ in found.latencies else 0)
    assert not found.errors
    assert not found.stale_reads
    verification = witness.verify(store)
    assert verification.intact
    assert verification.keys == len(store.data) >= RECORDS


@pytest.mark.parametrize("batch", [10, RECORDS])
def test_batches(store: Store, witness: Witness, batch: int) -> None:
    """Also of more puts than a writer has keys: then some are there twice."""
    result = run(store, witness, "put", Style.PACKED, operations=403, batch=batch)
    assert result.operations == result.commands == 403
    assert witness.verify(store).intact


@pytest.mark.parametrize(("width", "batch"), [(4, 10), (1, RECORDS), (7, 7)])
def test_many_puts_in_one_command(store: Store, witness: Witness, width: int, batch: int) -> None:
    """As many as were asked for, each of another key, and each key with one writer: also where all keys are needed."""
    load_records(store, witness, RECORDS, lambda _: None)
    store.commands.clear()
    load = Load(PUT, RECORDS, Style.MANY, width, batch, operations=403)
    result = run_load(store, load, witness)
    assert result.operations == result.commands == sum(map(len, store.commands)) == 403
    assert {len(keys) for keys in store.commands} <= {
        batch,
        *(share % batch for share in (403 // width, 403 // width + 1)),
    }
    for keys in store.commands:
        numbers = [int(key.removeprefix("user")) for key in keys]
        assert len(set(numbers)) == len(numbers)
        assert max(numbers) < RECORDS
        assert len({number % width for number in numbers}) == 1
    assert witness.verify(store).intact


@pytest.mark.parametrize("style", [Style.PIPELINED, Style.PACKED, Style.MANY])
def test_plain_puts_are_made_before_the_clock_runs(
    store: Store, witness: Witness, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    start, end = Run.start, witness.end
    monkeypatch.setattr(Run, "start", lambda self: (events.append("clock"), start(self)))
    monkeypatch.setattr(witness, "end", lambda key, version: (events.append("value"), end(key, version))[1])
    run(store, witness, "put", style)
    assert "value" in events
    assert events.index("clock") == len(events) - 1


def test_every_key_has_one_writer(store: Store, witness: Witness) -> None:
    """So that the versions of a key are applied in order, whatever the threads do."""
    writers: dict[int, set[int]] = {}
    real = witness.next_value

    def next_value(key: int) -> tuple[int, bytes]:
        import threading

        writers.setdefault(key, set()).add(threading.get_ident())
        return real(key)

    load_records(store, witness, RECORDS, lambda _: None)
    witness.next_value = next_value  # type: ignore[method-assign]
    run_load(store, Load(WORKLOADS["W"], RECORDS, Style.CLOSED, 4, operations=1000), witness)
    assert len(writers) > 10
    assert all(len(threads) == 1 for threads in writers.values())


def test_a_load_ends_with_its_time(store: Store, witness: Witness) -> None:
    ticks: list[tuple[float, int]] = []
    load = Load(WORKLOADS["A"], RECORDS, Style.CLOSED, 2, seconds=0.3)
    load_records(store, witness, RECORDS, lambda _: None)
    result = run_load(store, load, witness, lambda seconds, done: ticks.append((seconds, done)))
    assert result.seconds >= 0.3
    assert ticks
    assert ticks == sorted(ticks)
    assert ticks[-1][1] == result.operations


# --- planted faults ---------------------------------------------------------------------------------------------------


def test_a_write_that_vanished_is_found(store: Store, witness: Witness) -> None:
    run(store, witness)
    key, acknowledged = next(
        (key, witness.acknowledged(key)) for key in range(RECORDS) if witness.acknowledged(key) >= 2
    )
    store.data[key_name(key)] = witness._value(key, acknowledged - 2)
    verification = witness.verify(store)
    assert verification.lost == 2
    assert verification.damaged == 0
    assert verification.examples == [
        f"{key_name(key)} is at version {acknowledged - 2}, but {acknowledged} was acknowledged"
    ]


def test_a_key_that_vanished_is_found(store: Store, witness: Witness) -> None:
    run(store, witness, "C")
    del store.data[key_name(7)]
    assert witness.verify(store).lost == 1


@pytest.mark.parametrize(("workload", "style"), [*(("put", style) for style in Style), ("W", Style.PIPELINED)])
def test_an_acknowledged_write_that_was_not_applied_is_found(
    store: Store, witness: Witness, workload: str, style: Style
) -> None:
    hot: set[str] = set()

    def forgetful(key: str, value: bytes) -> None:
        if version_of(value) > 1:
            hot.add(key)
            return
        Store.write(store, key, value)

    store.write = store.put.function = forgetful  # type: ignore[method-assign]
    run(store, witness, workload, style, operations=1000)
    verification = witness.verify(store)
    assert hot
    assert verification.lost == sum(witness.acknowledged(int(key.removeprefix("user"))) - 1 for key in hot)


def test_damage_is_no_loss_but_is_found(store: Store, witness: Witness) -> None:
    run(store, witness)
    value = store.data[key_name(3)]
    store.data[key_name(3)] = value[:-1] + bytes([value[-1] ^ 1])
    store.data[key_name(4)] = witness._value(4, 10_000)  # nobody wrote that version
    store.data[key_name(5)] = b"short"
    verification = witness.verify(store)
    assert (verification.lost, verification.damaged) == (0, 3)
    assert not verification.intact


@pytest.mark.parametrize("style", [Style.CLOSED, Style.AWAITED, Style.PIPELINED])
@pytest.mark.parametrize("workload", [*WORKLOADS, "put"])
def test_the_history_of_a_load_is_whole_and_linearizable(
    store: Store, witness: Witness, workload: str, style: Style
) -> None:
    result = run(store, witness, workload, style)
    history = witness.verify(store).history
    both = result.recorder.latencies.get(Operation.READ_MODIFY_WRITE)
    assert history.verdict is Verdict.LINEARIZABLE
    assert history.operations == RECORDS + 400 + (both.count if both else 0) + len(store.data)
    assert history.keys >= RECORDS


@pytest.mark.parametrize("style", [Style.PIPELINED, Style.PACKED, Style.MANY])
def test_puts_whose_turn_did_not_come_are_not_looked_for(store: Store, witness: Witness, style: Style) -> None:
    """Where the keys were somebody else's before, what that one left there would be called damage."""
    load_records(store, Witness(SIZE + 1), RECORDS, lambda _: None)
    result = run_load(store, Load(PUT, RECORDS, style, 4, 10, seconds=1e-9), witness)
    verification = witness.verify(store)
    assert result.operations == verification.keys == 0
    assert verification.intact


@pytest.mark.parametrize(("style", "batch"), [(Style.PACKED, 100), (Style.MANY, 12)])
def test_the_history_of_batches_is_linearizable(store: Store, witness: Witness, style: Style, batch: int) -> None:
    run(store, witness, "put", style, batch=batch)  # of a packed one, more than one write of a key at the same time
    history = witness.verify(store).history
    assert (history.verdict, history.operations) == (Verdict.LINEARIZABLE, RECORDS + 400 + RECORDS)


def test_a_journal_of_some_keys_has_all_of_their_operations(store: Store, witness: Witness) -> None:
    some = Witness(SIZE, journal=Journal(every=10))
    run(store, some, "A")
    whole = Counter(one.key for one in some.journal.history().operations)
    run(store, witness, "A")
    expected = Counter(one.key for one in witness.journal.history().operations)
    assert set(whole) == {key_name(key) for key in range(0, RECORDS, 10)}
    assert all(expected[key] == count for key, count in whole.items())
    assert some.verify(store).history.keys == 5


@pytest.mark.parametrize("style", [Style.CLOSED, Style.AWAITED, Style.PIPELINED])
def test_reads_of_the_past_break_the_history(store: Store, witness: Witness, style: Style) -> None:
    """Of what was acknowledged, and, which no floor shows, of what an earlier read has seen."""
    run(store, witness, "W", style)
    key = next(key for key in range(RECORDS) if witness.acknowledged(key) >= 1)
    witness.journal.saw(key, witness.acknowledged(key) - 1, time.perf_counter())
    verification = witness.verify(store)
    assert verification.history.verdict is Verdict.VIOLATED
    assert not verification.intact
    assert f"key '{key_name(key)}': client load: read => " in verification.history.explain()


def test_an_error_that_leaves_the_outcome_open_does_not_break_the_history(store: Store, witness: Witness) -> None:
    """A write that timed out, was seen and then overwritten; one that was refused and must not be seen."""
    journal, now = witness.journal, time.perf_counter
    journal.wrote(1, 0, now())
    journal.unsure(1, 1, now(), CommandTimeout("no answer"))
    journal.saw(1, 0, now())
    journal.saw(1, 1, now())
    assert journal.check().verdict is Verdict.LINEARIZABLE
    journal.unsure(1, 2, now(), Overloaded("no room"))
    journal.unsure(1, 3, now(), CommandTimeout("no room", outcome_known=True))
    assert journal.check().operations == 4
    journal.saw(1, 2, now())
    assert journal.check().verdict is Verdict.VIOLATED


@pytest.mark.parametrize("style", [Style.CLOSED, Style.AWAITED, Style.PIPELINED])
def test_reads_of_the_past_are_counted(store: Store, witness: Witness, style: Style) -> None:
    run(store, witness, "W", style)
    store.get.function = lambda key: witness._value(int(key.removeprefix("user")), 0)
    load = Load(WORKLOADS["C"], RECORDS, style, 4, operations=200)
    stale = run_load(store, load, witness).recorder.stale_reads
    assert 0 < stale <= 200


@pytest.mark.parametrize("workload", ["W", "put"])
@pytest.mark.parametrize("style", [Style.CLOSED, Style.AWAITED, Style.PIPELINED])
def test_a_write_without_an_answer_is_neither_acknowledged_nor_lost(
    store: Store, witness: Witness, style: Style, workload: str
) -> None:
    count = 0

    def unsure(key: str, value: bytes) -> None:
        nonlocal count
        count += 1
        if count % 3 != 0:
            Store.write(store, key, value)
        if count % 3 != 1:
            raise CommandTimeout("no answer")

    store.put.function = unsure
    result = run(store, witness, workload, style)
    assert result.commands + result.recorder.errors["CommandTimeout"] == 400
    assert result.recorder.errors["CommandTimeout"] > 200
    assert witness.verify(store).intact


@pytest.mark.parametrize("workload", ["W", "put"])
@pytest.mark.parametrize("style", [Style.CLOSED, Style.AWAITED, Style.PIPELINED])
def test_a_closed_client_ends_the_load(store: Store, witness: Witness, style: Style, workload: str) -> None:
    class Closed:
        def __call__(self, *_: Any) -> None:
            raise ClientClosed("closed")

        remote = __call__

    load_records(store, witness, RECORDS, lambda _: None)
    store.put = Closed()  # type: ignore[assignment]
    load = Load({**WORKLOADS, "put": PUT}[workload], RECORDS, style, 4, seconds=60)
    result = run_load(store, load, witness)
    assert result.operations == 0
    assert 1 <= result.recorder.errors["ClientClosed"] <= 4


@pytest.mark.parametrize("end", ["over", "deadline"])
def test_the_end_of_a_load_is_not_put_off_until_a_set_is_full(store: Store, witness: Witness, end: str) -> None:
    load_records(store, witness, RECORDS, lambda _: None)
    run = Run(store, Load(PUT, RECORDS, Style.CLOSED, 1, seconds=60), witness)
    writer, count = ClosedPuts(run, 0), 0

    def put(key: str, value: bytes) -> None:
        nonlocal count
        count += 1
        if count == 5:
            run.over, run.deadline = end == "over", clock() if end == "deadline" else float("inf")
        store.write(key, value)

    store.put.function = put
    run.start()
    writer.run()
    assert count == run.result().operations == 5 < CLOSED_SET
    assert witness.verify(store).intact


# --- values and settings ----------------------------------------------------------------------------------------------


def test_a_value_tells_what_it_is(witness: Witness) -> None:
    assert [witness.next_value(5)[0] for _ in range(3)] == [0, 1, 2]
    version, value = witness.next_value(5)
    assert version_of(value) == version == 3
    assert witness.issue(Together([6, 5]), 7) + witness.end(6, 7) == witness._value(6, 7)
    assert (witness.issued(5), witness.issued(6), witness.issued(7)) == (7, 7, ABSENT)
    assert witness.next_value(6)[0] == 8
    assert len(value) == SIZE
    assert value == witness._value(5, 3) != witness._value(5, 2)
    assert version_of(None) == version_of(b"") == ABSENT


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "needs an end"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"operations": 1, "width": 0}, "width must be above 0"),
        ({"operations": 1, "batch": -1}, "batch must be above 0"),
        ({"operations": 1, "style": Style.CLOSED, "width": 51}, "51 writers"),
        ({"operations": 1, "style": Style.PACKED, "width": 4}, "batches are of plain puts"),
        ({"operations": 1, "style": Style.MANY, "width": 4}, "batches are of plain puts"),
        ({"workload": PUT, "operations": 1, "style": Style.MANY, "width": 4, "batch": 13}, "needs 52 records"),
    ],
)
def test_impossible_loads_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadConfiguration, match=problem):
        Load(**{"workload": WORKLOADS["A"], "records": RECORDS, **options})


def test_a_value_has_room_for_its_header() -> None:
    with pytest.raises(BadConfiguration, match="16 bytes"):
        Witness(15)
