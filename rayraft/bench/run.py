"""Runs a load against a replicated key-value store to its end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rayraft.bench.journal import clock
from rayraft.bench.load import TICK_SECONDS, Load, LoadResult, Style
from rayraft.bench.pipelines import Pipelined, PipelinedPuts
from rayraft.bench.witness import CHUNK_BYTES, CHUNKS_IN_FLIGHT, Witness, chunks
from rayraft.bench.writers import Awaited, AwaitedPuts, Closed, ClosedPuts, Many, Packed, Run, Worker
from rayraft.bench.ycsb import key_name


def load_records(handle: Any, witness: Witness, records: int, on_progress: Callable[[int], None]) -> None:
    """YCSB's load phase: the first version of every record, many in one command."""
    # Versions by key, the command that writes them, and when it was sent.
    flight: deque[tuple[dict[int, int], Any, float]] = deque()
    done = 0

    def collect() -> None:
        nonlocal done
        versions, result, begin = flight.popleft()
        result.result()
        for key, version in versions.items():
            witness.acknowledge(key, version, begin)
        done += len(versions)
        on_progress(done)

    for keys in chunks(iter(range(records)), max(1, CHUNK_BYTES // witness.value_size)):
        written = {key: witness.next_value(key) for key in keys}
        begin = clock()
        result = handle.put_many.remote({key_name(key): value for key, (_, value) in written.items()})
        flight.append(({key: version for key, (version, _) in written.items()}, result, begin))
        if len(flight) >= CHUNKS_IN_FLIGHT:
            collect()
    while flight:
        collect()


def run_load(
    handle: Any,
    load: Load,
    witness: Witness,
    on_tick: Callable[[float, int], None] = lambda elapsed, done: None,
    until: threading.Event | None = None,
) -> LoadResult:
    """Run a load to its end, or ``until`` that is set; ``on_tick(seconds, operations so far)`` is called ten times a
    second meanwhile.

    Commands without an answer within the handle's deadline count as errors: their outcome is unknown, and they are
    not among the acknowledged. Every operation goes into the witness's journal too, which is a history to be checked.
    """
    run = Run(handle, load, witness)
    threads = [threading.Thread(target=run.guard, args=(worker,), daemon=True) for worker in _workers(run)]
    gc.freeze()  # the witness's million records: a collection that looks at them stops every thread for 0.4 s
    run.start()
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            threads[0].join(TICK_SECONDS) if threads[0].is_alive() else time.sleep(TICK_SECONDS / 10)
            on_tick(clock() - run.origin, sum(recorder.operations for recorder in run.recorders))
            run.over = run.over or (until is not None and until.is_set())
    finally:
        run.over = True
        for thread in threads:
            thread.join()
        gc.unfreeze()
    if run.error is not None:
        raise run.error
    return run.result()


def _workers(run: Run) -> list[Callable[[], None]]:
    """What each thread of a run does."""
    load = run.load
    if load.style is Style.AWAITED:
        coroutine = AwaitedPuts if load.is_plain_puts else Awaited
        coroutines = [coroutine(run, index) for index in range(load.writers)]
        return [lambda: asyncio.run(_together(coroutines))]
    styles: dict[Style, type[Worker]] = {
        Style.CLOSED: ClosedPuts if load.is_plain_puts else Closed,
        Style.PIPELINED: PipelinedPuts if load.is_plain_puts else Pipelined,
        Style.PACKED: Packed,
        Style.MANY: Many,
    }
    return [styles[load.style](run, index).run for index in range(load.writers)]


async def _together(coroutines: Sequence[Awaited | AwaitedPuts]) -> None:
    await asyncio.gather(*(one.go() for one in coroutines))
