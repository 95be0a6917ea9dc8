"""Changing who is in a group while it serves: new nodes catch up as learners before they vote (thesis §4.2.1)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from rayraft.errors import MembershipRefused, NoQuorum
from rayraft.machine.requests import Status
from rayraft.raft.membership import Change, ChangeKind
from rayraft.raft.types import Configuration, NodeId
from rayraft.ray.actors import create_actor, gather
from rayraft.ray.node import NodeSpec, NodeState
from rayraft.replica import ReplicaStatus
from rayraft.replica.administration import ChangeMembers, Order, PreferLeaders, TransferLeadership, encode_order

if TYPE_CHECKING:
    from rayraft.ray.cluster import Cluster

POLL_SECONDS = 0.05
LEAVE_SECONDS = 5.0  # for a removed node to learn of it by itself


class Members:
    """The changes of one group's membership. Each call returns when the change is committed, or raises.

    Every one may be repeated after an error: what is so already is not changed again.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    # --- what an operator asks for ------------------------------------------------------------------------------------

    def add(self, *, directory: str | Path | None, witness: bool, learner: bool, timeout_s: float) -> NodeId:
        """Start a node under an id that was never used, let it catch up, and have it vote; returns the id."""
        deadline = time.monotonic() + timeout_s
        node = self._join(directory, deadline)
        try:
            if witness:
                self._change([Change(ChangeKind.ADD_WITNESS, node)], deadline)
                return node
            self._change([Change(ChangeKind.ADD_LEARNER, node)], deadline)
            if not learner:
                self._wait_until_caught_up(node, deadline)
                self._change([Change(ChangeKind.ADD_VOTER, node)], deadline)
        except BaseException:
            with contextlib.suppress(Exception):
                self._change([Change(ChangeKind.REMOVE, node)], time.monotonic() + 5.0)
            self.end(node)
            raise
        return node

    def remove(self, node: NodeId, timeout_s: float) -> None:
        """Have ``node`` leave the group, and end its actor; its directory stays."""
        self._require_member(node)
        self._change([Change(ChangeKind.REMOVE, node)], time.monotonic() + timeout_s)
        self._let_go(node)

    def replace(self, node: NodeId, *, directory: str | Path | None, timeout_s: float) -> NodeId:
        """A new node takes the place of ``node`` in one joint change, once it has caught up; returns its id."""
        deadline = time.monotonic() + timeout_s
        configuration = self._require_member(node)
        if node in configuration.witnesses:
            new = self.add(directory=directory, witness=True, learner=False, timeout_s=timeout_s)
            self.remove(node, max(1.0, deadline - time.monotonic()))
            return new
        new = self.add(directory=directory, witness=False, learner=True, timeout_s=timeout_s)
        self._wait_until_caught_up(new, deadline)
        changes = [Change(ChangeKind.REMOVE, node)]
        if node in configuration.voters:
            changes.insert(0, Change(ChangeKind.ADD_VOTER, new))
        self._change(changes, deadline)
        self._let_go(node)
        return new

    def set(self, voters: Sequence[NodeId], learners: Sequence[NodeId], timeout_s: float) -> None:
        """Make exactly these the members, in one step: promote, demote and remove (joint consensus, Raft §6)."""
        configuration = self.configuration()
        members = set(configuration.members())
        wanted = set(voters) | set(learners)
        if unknown := wanted - members:
            raise MembershipRefused(f"{sorted(unknown)} are no members: start them with add_node(learner=True) first")
        changes = [Change(ChangeKind.ADD_VOTER, node) for node in voters if node not in configuration.witnesses]
        changes += [Change(ChangeKind.ADD_LEARNER, node) for node in learners]
        removed = sorted(members - wanted)
        changes += [Change(ChangeKind.REMOVE, node) for node in removed]
        deadline = time.monotonic() + timeout_s
        for node in set(voters) - set(configuration.voters):
            self._wait_until_caught_up(node, deadline)
        self._change(changes, deadline)
        for node in removed:
            self._let_go(node)

    def transfer(self, to: NodeId, timeout_s: float) -> None:
        """Have ``to`` lead."""
        self._require_member(to)
        deadline = time.monotonic() + timeout_s
        while self._cluster.leader(max(0.1, deadline - time.monotonic())) != to:
            self._order(TransferLeadership(to), deadline)

    def prefer(self, nodes: Sequence[NodeId], timeout_s: float) -> None:
        """Who should lead, most preferred first; leadership moves there whenever that node is healthy."""
        self._order(PreferLeaders(list(nodes)), time.monotonic() + timeout_s)

    def configuration(self) -> Configuration:
        return self._leader_status().configuration

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _leader_status(self) -> ReplicaStatus:
        """What the leader says of the group. Raises NoQuorum."""
        leader = self._cluster.leader()
        status = self._cluster.reports()[leader]
        if isinstance(status, Exception) or status.replica is None:
            raise NoQuorum(f"the leader {leader} of {self._cluster.name!r} does not answer: {status}")
        return status.replica

    def _require_member(self, node: NodeId) -> Configuration:
        configuration = self.configuration()
        if node not in set(configuration.members()):
            members = ", ".join(map(str, configuration.members()))
            raise MembershipRefused(f"node {node} is no member of {self._cluster.name!r} (members: {members})")
        return configuration

    def _join(self, directory: str | Path | None, deadline: float) -> NodeId:
        """Bring up an actor on a blank disk, under the next id; it waits to be made a member."""
        cluster = self._cluster
        configuration = self.configuration()
        pattern: NodeSpec = ray.get(cluster.actor(cluster.leader()).spec.remote(), timeout=30.0)
        identity = next(
            report.identity
            for report in cluster.reports().values()
            if not isinstance(report, Exception) and report.identity is not None
        )
        node = max(configuration.highest_id, *configuration.members(), *cluster.nodes) + 1
        while True:
            place = Path(directory) if directory is not None else Path(pattern.directory).parent / f"node-{node}"
            if directory is None and place.exists():  # of a node that never became a member
                node += 1
                continue
            config = replace(pattern.config, raft=replace(pattern.config.raft, node_id=node))
            spec = replace(pattern, node_id=node, directory=str(place), config=config)
            try:
                actor = create_actor(spec)
                break
            except ValueError:  # somebody else adds a node at this moment
                node += 1
        cluster.admit(node, actor)
        try:
            report = ray.get(actor.join.remote(identity.cluster_id), timeout=max(1.0, deadline - time.monotonic()))
            if report.state is not NodeState.RUNNING:
                raise report.error or MembershipRefused(f"node {node} is {report.state.value}: {place} can not be used")
        except BaseException:
            self.end(node)
            raise
        return node

    def _wait_until_caught_up(self, node: NodeId, deadline: float) -> None:
        while True:
            status = self._leader_status()
            match = status.match.get(node, 0)
            if match and match >= status.commit - 100:
                return
            if time.monotonic() > deadline:
                raise MembershipRefused(f"node {node} has not caught up in time: {match} of {status.commit} entries")
            time.sleep(POLL_SECONDS)

    def _change(self, changes: Sequence[Change], deadline: float) -> None:
        self._order(ChangeMembers(list(changes)), deadline)

    def _order(self, order: Order, deadline: float) -> None:
        """Have the leader carry ``order`` out; asked again where leadership moved in the middle of it."""
        data = encode_order(order)
        while True:
            leader = self._cluster.leader(max(0.1, deadline - time.monotonic()))
            answer = gather(
                {leader: self._cluster.actor(leader).order.remote(data)}, max(1.0, deadline - time.monotonic())
            )
            reply = answer[leader]
            if isinstance(reply, bytes) and reply[0] == Status.OK:
                return
            if isinstance(reply, bytes) and reply[0] == Status.REFUSED:
                raise MembershipRefused(reply[1:].decode())
            if time.monotonic() > deadline:
                raise MembershipRefused(f"not done in time; the leader {leader} said: {reply!r}")
            if isinstance(order, TransferLeadership):
                return  # its caller looks who leads now
            time.sleep(POLL_SECONDS)

    def _let_go(self, node: NodeId) -> None:
        """``node`` was removed: it learns of it and marks its disk, a leader hands over first; then it is ended."""
        if node not in self._cluster.nodes:  # its actor is gone already
            return
        actor = self._cluster.actor(node)
        deadline = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < deadline:
            report = gather({node: actor.report.remote()}, LEAVE_SECONDS)[node]
            if isinstance(report, Exception) or report.state is not NodeState.RUNNING:
                break
            time.sleep(POLL_SECONDS)
        gather({node: actor.retire.remote()}, LEAVE_SECONDS)
        self.end(node)

    def end(self, node: NodeId) -> None:
        """End the actor of a node that is no member (any longer)."""
        actor = self._cluster.dismiss(node)
        if actor is not None:
            gather({node: actor.stop.remote()}, 10.0)
            with contextlib.suppress(Exception):
                ray.kill(actor, no_restart=True)
