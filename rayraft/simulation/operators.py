"""Operators: they bring up nodes and have them made members, remove, replace and demote others, and move leadership."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rayraft.machine.requests import Status
from rayraft.raft.membership import Change, ChangeKind
from rayraft.raft.types import Configuration, NodeId
from rayraft.replica.administration import ChangeMembers, Order, PreferLeaders, TransferLeadership, encode_order
from rayraft.simulation.members import MAX_VOTERS
from rayraft.simulation.node import Ask, ClientCall, World
from rayraft.simulation.plan import Operation, stream

ADDRESS: NodeId = -1_000
MAX_NODES = 16  # in a whole run, those that left included
FEWEST = 2  # full voters that operators leave in place


class Operators:
    """They see who leads and who is a member, as people would; what they order travels like everything else."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = stream(world.plan.seed, "operators")
        self._over = False
        self._ways: dict[Operation, Callable[[Configuration], Order | None]] = {
            Operation.ADD: self._add,
            Operation.ADD_WITNESS: self._add_witness,
            Operation.REMOVE: self._remove,
            Operation.REPLACE: self._replace,
            Operation.RESHAPE: self._reshape,
            Operation.DEMOTE: self._demote,
            Operation.TRANSFER: self._transfer,
            Operation.PREFER: self._prefer,
        }
        if world.plan.operations:
            self._next()

    def stop(self) -> None:
        self._over = True

    def _next(self) -> None:
        self._world.scheduler.after(self._rng.expovariate(1 / self._world.plan.operation_interval), self._act)

    def _act(self) -> None:
        if self._over:
            return
        what = self._rng.choice(self._world.plan.operations)
        order = self._ways[what](self._world.invariants.configuration)
        if order is not None:
            self._send(what, order)
        self._next()

    def _send(self, what: Operation, order: Order) -> None:
        world = self._world
        leaders = [node for node in world.usable if node.leads]
        node = self._rng.choice(leaders or world.usable)
        world.story.fault(world.scheduler.now, f"operator: {what.value}", "{}, at node {}", order, node.id)
        call = ClientCall(encode_order(order), Ask.ORDER, partial(self._answered, what))
        world.network.send((ADDRESS, node.id), world.scheduler.now, node.deliver, call)

    def _answered(self, what: Operation, data: bytes, at: float) -> None:
        status = Status(data[0])
        self._world.story.faults[f"orders: {status.name.lower()}"] += 1
        self._world.story.headline(at, "operator: {}: {}", what.value, status.name)

    # --- who may come and go ------------------------------------------------------------------------------------------

    def _new_node(self, *, witness: bool = False) -> NodeId | None:
        world = self._world
        return world.join(witness=witness).id if len(world.nodes) < MAX_NODES else None

    def _one_to_go(self, configuration: Configuration) -> NodeId | None:
        """A member that the others can do without: one that has lost its disk is the first to be replaced."""
        nodes = self._world.nodes
        members = list(configuration.members())
        spoilt = [node for node in members if nodes[node].spoilt]
        if spoilt and self._rng.random() < 0.7:
            return self._rng.choice(spoilt)
        node = self._rng.choice(members)
        full = [voter for voter in configuration.voters if not nodes[voter].witness]
        return None if node in full and len(full) <= FEWEST else node

    def _learners(self, configuration: Configuration) -> list[NodeId]:
        return [node for node in configuration.learners if not self._world.nodes[node].spoilt]

    # --- what they order ----------------------------------------------------------------------------------------------

    def _add(self, configuration: Configuration) -> Order | None:
        learners = self._learners(configuration)
        if learners and self._rng.random() < 0.7:
            return ChangeMembers([Change(ChangeKind.ADD_VOTER, self._rng.choice(learners))])
        if len(set(configuration.members())) >= MAX_VOTERS:
            return None
        new = self._new_node()
        kind = ChangeKind.ADD_LEARNER if self._rng.random() < 0.7 else ChangeKind.ADD_VOTER
        return None if new is None else ChangeMembers([Change(kind, new)])

    def _add_witness(self, configuration: Configuration) -> Order | None:
        if configuration.witnesses or len(configuration.voters) < FEWEST:
            return None
        new = self._new_node(witness=True)
        return None if new is None else ChangeMembers([Change(ChangeKind.ADD_WITNESS, new)])

    def _remove(self, configuration: Configuration) -> Order | None:
        gone = self._one_to_go(configuration)
        return None if gone is None else ChangeMembers([Change(ChangeKind.REMOVE, gone)])

    def _replace(self, configuration: Configuration) -> Order | None:
        gone = self._one_to_go(configuration)
        learners = self._learners(configuration)
        if gone is None or gone in configuration.witnesses:
            return None
        new = learners[0] if learners else self._new_node()
        if new is None or new == gone:
            return None
        return ChangeMembers([Change(ChangeKind.ADD_VOTER, new), Change(ChangeKind.REMOVE, gone)])

    def _reshape(self, configuration: Configuration) -> Order | None:
        """Several voters at once: some come, some go, some are demoted."""
        rng = self._rng
        changes = [Change(ChangeKind.ADD_VOTER, node) for node in self._learners(configuration)[:2]]
        if len(configuration.voters) < MAX_VOTERS - 2 and (new := self._new_node()) is not None:
            changes.append(Change(ChangeKind.ADD_VOTER, new))
        going = [node for node in configuration.voters if not self._world.nodes[node].witness]
        rng.shuffle(going)
        for node in going[: min(rng.randint(0, 2), len(going) + len(changes) - FEWEST)]:
            changes.append(Change(rng.choice((ChangeKind.REMOVE, ChangeKind.ADD_LEARNER)), node))
        return ChangeMembers(changes) if changes else None

    def _demote(self, configuration: Configuration) -> Order | None:
        node = self._one_to_go(configuration)
        if node is None or node in configuration.witnesses:
            return None
        return ChangeMembers([Change(ChangeKind.ADD_LEARNER, node)])

    def _transfer(self, configuration: Configuration) -> Order | None:
        return TransferLeadership(self._rng.choice(list(configuration.members())))

    def _prefer(self, configuration: Configuration) -> Order | None:
        members = list(configuration.members())
        return PreferLeaders(self._rng.sample(members, min(len(members), self._rng.choice((0, 1, 1, 2)))))
