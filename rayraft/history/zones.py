"""Registers whose every write has a value of its own: decided without a search (Gibbons and Korach 1997).

A read then names the write that it saw. A *cluster* is a write and its reads; it stretches from the first return to the
last invocation among them. Where that is a span of time, the register held this value throughout: a *forward zone*.
Where the last invocation comes first there is a moment between the two at which all of the cluster may have happened:
a *backward zone*. The history is linearizable if and only if

1. no read returned before its write was invoked, and none saw a value that nobody wrote,
2. no two forward zones overlap,
3. no backward zone lies inside a forward one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rayraft.history.models import State
from rayraft.history.operations import Kind, Operation


@dataclass(slots=True)
class _Cluster:
    written: float  # when the write was invoked
    returned: float  # the first return
    invoked: float  # the last invocation


def decide(operations: Sequence[Operation], initial: State) -> bool | None:
    """Whether they are linearizable; None where values were written twice, or something else was done than that."""
    reads, clusters = list[Operation](), {initial: _Cluster(-float("inf"), -float("inf"), -float("inf"))}
    for one in operations:
        if one.kind is Kind.READ:
            reads.append(one)
        elif one.kind is not Kind.WRITE or one.output is not None or one.input in clusters:
            return None
        else:
            clusters[one.input] = _Cluster(one.invoked, _end(one), one.invoked)
    seen = {initial} | {one.input for one in operations if one.kind is Kind.WRITE and not one.is_open}
    for one in reads:
        if one.is_open:
            continue
        cluster = clusters.get(one.output)
        if cluster is None or _end(one) < cluster.written:
            return False
        cluster.returned, cluster.invoked = min(cluster.returned, _end(one)), max(cluster.invoked, one.invoked)
        seen.add(one.output)
    # A write without an answer that nobody saw need not have happened.
    return _fit([cluster for value, cluster in clusters.items() if value in seen])


def _fit(clusters: list[_Cluster]) -> bool:
    forward = sorted((each.returned, each.invoked) for each in clusters if each.returned < each.invoked)
    if any(end > begin for (_, end), (begin, _) in pairwise(forward)):
        return False
    begins = [begin for begin, _ in forward]
    for each in clusters:
        if each.returned >= each.invoked:
            before = bisect_left(begins, each.invoked) - 1  # the last that began earlier: the others end before it does
            if before >= 0 and each.returned < forward[before][1]:
                return False
    return True


def _end(operation: Operation) -> float:
    return float("inf") if operation.returned is None else operation.returned
