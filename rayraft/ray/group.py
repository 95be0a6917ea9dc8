"""The node actors of one group, and what they say of themselves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.exceptions import ActorDiedError

from rayraft.errors import NoQuorum, NoSuchGroup
from rayraft.raft.types import NodeId
from rayraft.ray.actors import gather
from rayraft.ray.names import find_nodes
from rayraft.ray.spec import NodeReport
from rayraft.replica import ReplicaStatus

POLL_SECONDS = 0.05
QUICK_SECONDS = 0.5
COMPARE_SECONDS = 10.0  # for the nodes to compare the states that they have saved


class Group:
    """Who they are may change while this is looked at: `look_again` asks Ray's head."""

    def __init__(self, name: str, handles: Mapping[NodeId, Any]) -> None:
        self._name = name
        self._handles = dict(handles)

    @property
    def name(self) -> str:
        return self._name

    @property
    def nodes(self) -> list[NodeId]:
        return sorted(self._handles)

    def actor(self, node: NodeId) -> Any:
        """The Ray actor handle of one node."""
        return self._handles[node]

    def reports(self, timeout_s: float = 5.0) -> dict[NodeId, NodeReport | Exception]:
        """What each node says of itself, or why it could not be asked within ``timeout_s`` seconds."""
        reports = self._answers("report", timeout_s)
        if _members(reports) in (set(), set(self._handles)):
            return reports
        self.look_again()  # somebody else has changed the members
        others = {node: handle.report.remote() for node, handle in self._handles.items() if node not in reports}
        reports |= gather(others, timeout_s)
        return {node: report for node, report in reports.items() if node in self._handles}

    def _answers(self, method: str, timeout_s: float) -> dict[NodeId, Any]:
        """What each node answers; where all are gone, what those do who are there now, if it was started again."""

        def ask() -> dict[NodeId, Any]:
            references = {node: getattr(handle, method).remote() for node, handle in self._handles.items()}
            return gather(references, timeout_s)

        answers = ask()
        if not _are_gone(answers):
            return answers
        self.look_again()
        return ask()

    def status(self, timeout_s: float = 5.0) -> dict[NodeId, NodeReport | Exception]:
        return self.reports(timeout_s)

    def leader(self, timeout_s: float = 30.0) -> NodeId:
        """Wait until a node leads and serves, and return its id. Raises NoQuorum after ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while True:
            reports = self._ask(lambda reports: _serving_leader(reports) is not None)
            leader = _serving_leader(reports)
            if leader is not None:
                return leader
            self.look_again()
            if time.monotonic() > deadline:
                raise NoQuorum(f"no leader of {self._name!r} within {timeout_s} s:\n{_explain(reports)}")
            time.sleep(POLL_SECONDS)

    def quick_reports(self) -> dict[NodeId, NodeReport | Exception]:
        """Reports of those who answer at once, or else of the first who do."""
        return self._ask(lambda reports: any(isinstance(report, NodeReport) for report in reports.values()))

    def _ask(self, enough: Callable[[Mapping[NodeId, NodeReport | Exception]], bool]) -> dict[NodeId, Any]:
        """Reports as from `reports`, but without waiting for those who are away where the others are ``enough``."""
        references = {node: handle.report.remote() for node, handle in self._handles.items()}
        reports = gather(references, QUICK_SECONDS)
        return reports if enough(reports) else gather(references, 5.0)

    def look_again(self) -> None:
        """Somebody else may have changed the members."""
        with contextlib.suppress(NoSuchGroup):
            self._handles = find_nodes(self._name)

    def digests(self, timeout_s: float = 30.0) -> dict[NodeId, tuple[int, str]]:
        """(applied index, hash of the state) of every node that answers."""
        found = self._answers("digest", timeout_s)
        return {node: (item[0], item[1].hex()) for node, item in found.items() if not isinstance(item, Exception)}

    def wait_until_equal(self, timeout_s: float = 30.0) -> dict[NodeId, tuple[int, str]]:
        """Wait until every node has applied the same index, and return the hashes there; the newest after the deadline.

        Meant for a group without load: under load the nodes are never at one index.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            digests = self.digests()
            indexes = {index for index, _ in digests.values()}
            if (len(digests) == len(self._handles) and len(indexes) == 1) or time.monotonic() > deadline:
                return digests
            time.sleep(POLL_SECONDS)

    def wait_until_all_have(self, timeout_s: float) -> None:
        """Wait until every node that answers has in its log what the leader has now, or the time is over."""
        deadline = time.monotonic() + timeout_s
        goal = 0
        while True:
            reports = self.quick_reports()
            newest = _newest_leader(reports)
            goal = goal or (newest.last_index if newest else 0)
            if all(status.last_index >= goal for status in _running(reports)) or time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)

    def take_snapshot(self, timeout_s: float = 600.0) -> dict[NodeId, str]:
        """Have every node save its state and cut its log: one after the other, the leader last.

        So a quorum is never busy with it. A node that takes longer than ``timeout_s`` seconds is left to it. Returns
        who has not done it (yet), and why.
        """
        leader = _serving_leader(self.quick_reports())
        failed: dict[NodeId, str] = {}
        goals: dict[NodeId, int] = {}
        for node in sorted(self._handles, key=lambda node: (node == leader, node)):
            handle, deadline = self._handles[node], time.monotonic() + timeout_s
            goal = gather({node: handle.take_snapshot.remote()}, 30.0)[node]
            if isinstance(goal, Exception):
                failed[node] = str(getattr(goal, "cause", None) or goal)
                continue
            report = None
            while time.monotonic() < deadline and _is_saving(report := self._report(node), goal):
                time.sleep(POLL_SECONDS)
            if report is None or _why_not_saved(report, goal):
                goals[node] = goal
        return dict(sorted((failed | self._not_compared(goals)).items()))

    def _report(self, node: NodeId) -> NodeReport | Exception:
        found: NodeReport | Exception = gather({node: self._handles[node].report.remote()}, 5.0)[node]
        return found

    def _not_compared(self, goals: Mapping[NodeId, int]) -> dict[NodeId, str]:
        """Whose snapshots do not count yet, and why: states are compared when the leader, too, has saved its own."""
        deadline = time.monotonic() + COMPARE_SECONDS
        while True:
            reasons = {node: _why_not_saved(self._report(node), goal) for node, goal in goals.items()}
            if not any(reasons.values()) or time.monotonic() > deadline:
                return {node: reason for node, reason in reasons.items() if reason}
            time.sleep(POLL_SECONDS)

    def admit(self, node: NodeId, actor: Any) -> None:
        """For `Members`: ``actor`` belongs to the group from now on."""
        self._handles[node] = actor

    def dismiss(self, node: NodeId) -> Any:
        """For `Members`: ``node`` is gone; its actor, if there is one."""
        return self._handles.pop(node, None)


# --- what the reports say ---------------------------------------------------------------------------------------------


def _are_gone(answers: Mapping[NodeId, Any]) -> bool:
    """Whether none came, and Ray knows at least one of the actors to be dead for good."""
    return all(isinstance(answer, Exception) for answer in answers.values()) and any(
        isinstance(answer, ActorDiedError) for answer in answers.values()
    )


def _running(reports: Mapping[NodeId, NodeReport | Exception]) -> list[ReplicaStatus]:
    return [report.replica for report in reports.values() if isinstance(report, NodeReport) and report.replica]


def _newest_leader(reports: Mapping[NodeId, NodeReport | Exception]) -> ReplicaStatus | None:
    """What the leader of the newest term says."""
    leaders = [status for status in _running(reports) if status.role == "leader"]
    return max(leaders, key=lambda status: status.term, default=None)


def _serving_leader(reports: Mapping[NodeId, NodeReport | Exception]) -> NodeId | None:
    """The leader of the newest term, if its no-op is applied."""
    newest = _newest_leader(reports)
    return newest.leader if newest is not None and newest.serves else None


def newest_of(reports: Mapping[NodeId, NodeReport | Exception]) -> NodeReport:
    """Of a node whose class is the newest: others may be behind."""
    found = [report for report in reports.values() if isinstance(report, NodeReport)]
    if not found:
        raise NoQuorum(f"no node answers:\n{_explain(reports)}")
    return max(found, key=lambda report: report.version)


def _members(reports: Mapping[NodeId, NodeReport | Exception]) -> set[NodeId]:
    """Who belongs to the group by the leader of the newest term; nobody where none answers."""
    newest = _newest_leader(reports)
    return set(newest.configuration.members()) if newest is not None else set()


def _is_saving(report: NodeReport | Exception, goal: int) -> bool:
    """Whether it has no state as new as ``goal`` yet and is at it; a busy group begins the next as soon as it has."""
    replica = report.replica if isinstance(report, NodeReport) else None
    return replica is not None and replica.saving and replica.snapshot < goal


def _why_not_saved(report: NodeReport | Exception, goal: int) -> str:
    """Empty where its log is cut behind a state as new as ``goal``. A witness has none, and cuts it later."""
    if isinstance(report, Exception):
        return str(report)
    replica = report.replica
    if replica is None or replica.diverged:
        return str(report.error or report.state.value)
    if replica.snapshot >= goal or (report.node_id in replica.configuration.witnesses and not replica.saving):
        return ""
    if replica.saving:
        return "it is still at it"
    return replica.snapshot_error or "it has saved its state, and cuts its log once a majority has the same one"


def _explain(reports: Mapping[NodeId, NodeReport | Exception]) -> str:
    lines: Iterable[str] = (
        f"  node {node}: {report}"
        if isinstance(report, Exception)
        else f"  node {node}: {report.state.value}"
        + (f", {report.replica.role} in term {report.replica.term}" if report.replica else "")
        + (f", {report.error}" if report.error else "")
        for node, report in sorted(reports.items())
    )
    return "\n".join(lines)
