"""Doing something on the machine of a node, whichever that is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayraft.client.handle import Handle
from rayraft.errors import NoQuorum
from rayraft.ray.spec import NodeReport

T = TypeVar("T")


def reports_of(handle: Handle) -> list[NodeReport]:
    """Of the nodes that answer."""
    return [report for report in handle.cluster.reports().values() if isinstance(report, NodeReport)]


def on_machine_of(report: NodeReport, function: Callable[..., T], *arguments: Any) -> T:
    """What ``function`` returns there: called here if that is this machine, else in a task of Ray's.

    Raises NoQuorum when Ray knows no such machine.
    """
    if report.host == os.uname().nodename:
        return function(*arguments)
    machines = {node["NodeManagerHostname"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
    if report.host not in machines:
        raise NoQuorum(f"node {report.node_id} runs on {report.host}, which Ray does not know: is it down?")
    where = NodeAffinitySchedulingStrategy(machines[report.host], soft=False)
    found: T = ray.get(ray.remote(num_cpus=0)(_call).options(scheduling_strategy=where).remote(function, *arguments))
    return found


def _call(function: Callable[..., T], *arguments: Any) -> T:
    """A task must be a function that is written in Python: `os.kill` is none."""
    return function(*arguments)
