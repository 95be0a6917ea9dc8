"""The sections of `rayraft bench`: each measures one thing on a group and returns its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from rayraft.bench.progress import Stage
from rayraft.bench.sections.durability import Recovery, Snapshots, recovery, snapshots
from rayraft.bench.sections.failover import Failover, kills
from rayraft.bench.sections.memory import Memory, Sample, Writes, memory, writes
from rayraft.bench.sections.offered import Offered, offered
from rayraft.bench.sections.plan import Kept, Plan, Section
from rayraft.bench.sections.reads import ReadKinds, reads
from rayraft.bench.sections.rivals import Rivals, peers
from rayraft.bench.sections.scaling import GroupSizes, Processes, Sizes, nodes, processes, sizes
from rayraft.bench.sections.sequential import Sequential, sequential
from rayraft.bench.sections.throughput import Throughput, callers, coroutines, packed, single
from rayraft.bench.sections.workloads import Workloads, workload

Measure: TypeAlias = Callable[[Plan, Stage], Section]

SECTIONS: Final[dict[str, Measure]] = {
    "sequential": sequential,
    "packed": packed,
    "single": single,
    "callers": callers,
    "coroutines": coroutines,
    "offered": offered,
    "processes": processes,
    "sizes": sizes,
    "nodes": nodes,
    "reads": reads,
    "workload": workload,
    "writes": writes,
    "snapshots": snapshots,
    "recovery": recovery,
    "kills": kills,
    "memory": memory,
    "peers": peers,
}

__all__ = [
    "SECTIONS",
    "Failover",
    "GroupSizes",
    "Kept",
    "Measure",
    "Memory",
    "Offered",
    "Plan",
    "Processes",
    "ReadKinds",
    "Recovery",
    "Rivals",
    "Sample",
    "Section",
    "Sequential",
    "Sizes",
    "Snapshots",
    "Throughput",
    "Workloads",
    "Writes",
]
