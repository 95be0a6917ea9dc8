"""A member of a PySyncObj cluster, driven by lines of JSON on its standard input; run by `rayraft bench`.

The load runs in the leader's own process, which is how PySyncObj is used and its fastest way. The journal is a
memory-mapped file that PySyncObj never syncs: what it acknowledges may be lost with the power.

python pysyncobj_load.py SELF PARTNER PARTNER --journal FILE
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import threading
import time
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

QUANTILES = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 99.99, 100)


class Store(SyncObj):  # type: ignore[misc]
    def __init__(self, own: str, partners: list[str], journal: str) -> None:
        # Without batches it is awake at once for what is put, and that must be so from the start; see `tune`. The queue
        # of its default would refuse what the load keeps under way.
        self._settings = SyncObjConf(journalFile=journal, commandsQueueSize=1_000_000, appendEntriesUseBatch=False)
        super().__init__(own, partners, self._settings)
        self._data: dict[str, bytes] = {}

    def tune(self, batches: bool) -> None:
        """Whether what was put within a tick of 50 ms goes together (its default), or each put at once."""
        self._settings.appendEntriesUseBatch = batches

    @replicated  # type: ignore[untyped-decorator]
    def put(self, key: str, value: bytes) -> None:
        self._data[key] = value


class Load:
    """``outstanding`` puts are kept under way: the answer to one sends the next."""

    def __init__(self, store: Store, outstanding: int, seconds: float, value_size: int, records: int) -> None:
        self._store, self._size, self._records, self._under_way = store, value_size, records, outstanding
        self._dice = random.Random(0)
        self._latencies: list[float] = []
        self._errors = 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._begin = time.perf_counter()
        self._end = self._begin + seconds

    def run(self) -> dict[str, Any]:
        for _ in range(self._under_way):
            self._send()
        self._over.wait(60 + self._end - self._begin)
        seconds = time.perf_counter() - self._begin
        return {"seconds": seconds, "errors": self._errors, "error": "", **summary(self._latencies)}

    def _send(self) -> None:
        key, value = f"user{self._dice.randrange(self._records):012d}", os.urandom(self._size)
        sent = time.perf_counter()
        self._store.put(key, value, callback=lambda _, error: self._answered(sent, error))

    def _answered(self, sent: float, error: int) -> None:
        now = time.perf_counter()
        with self._lock:
            if error == FAIL_REASON.SUCCESS:
                self._latencies.append(now - sent)
            else:
                self._errors += 1
            going_on = now < self._end
            self._under_way -= not going_on
            if not self._under_way:
                self._over.set()
        if going_on:
            self._send()


def summary(latencies: list[float]) -> dict[str, Any]:
    count = len(latencies)
    latencies = sorted(latencies)
    ranks = [max(1, math.ceil(q * count / 100)) for q in QUANTILES] if count else []
    return {
        "operations": count,
        "mean": sum(latencies) / count if count else 0.0,
        "quantiles": [(latencies[rank - 1], q) for rank, q in zip(ranks, QUANTILES, strict=False)],
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("own")
    arguments.add_argument("partners", nargs="*")
    arguments.add_argument("--journal", required=True)
    given = arguments.parse_args()
    store = Store(given.own, given.partners, given.journal)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "leads":
            answer: Any = {"leads": bool(store.isReady() and store._isLeader())}
        else:
            store.tune(asked["batches"])
            answer = Load(store, *(asked[name] for name in ("outstanding", "seconds", "value_size", "records"))).run()
        print(json.dumps(answer), flush=True)
    os._exit(0)  # its thread would keep the process


if __name__ == "__main__":
    main()
