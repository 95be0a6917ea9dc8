"""Trouble at random moments: what the plan allows, at the rate it says, and the end of it all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rayraft.raft.types import NodeId
from rayraft.simulation.effects import Effect
from rayraft.simulation.members import in_sight, outlives
from rayraft.simulation.network import Link, bridge, one_way, ring, split
from rayraft.simulation.node import Node, World
from rayraft.simulation.plan import Cut, Fault, stream


class Faults:
    """Strikes again and again until `heal`, in storms with lulls between them. Leaders are its favourite victims.

    At most a minority of the nodes loses its disk for good: more than that no consensus can survive.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = stream(world.plan.seed, "faults")
        self._over = False
        self._storm_until = 0.0
        self._strikes: dict[Fault, Callable[[Node, float], None]] = {
            Fault.CRASH: self._crash,
            Fault.CRASH_IN_TURN: self._crash_in_turn,
            Fault.BLACKOUT: self._blackout,
            Fault.PAUSE: self._pause,
            Fault.STALL: self._stall,
            Fault.PARTITION: self._partition,
            Fault.CLOG: self._clog,
            Fault.SLOW_DISK: self._slow_disk,
            Fault.DISK_FAILURE: self._fail_disk,
            Fault.FULL_DISK: self._fill_disk,
            Fault.DAMAGE: self._damage,
            Fault.LOST_DISK: self._lose_disk,
            Fault.WRONG_DISK: self._misplace_disk,
            Fault.ALARM: self._alarm,
            Fault.CLOCK: self._clock,
            Fault.WALL_CLOCK: self._set_wall_clock,
        }
        if world.plan.faults:
            self._next()

    def _next(self) -> None:
        plan, now = self._world.plan, self._world.scheduler.now
        delay = self._rng.expovariate(1 / plan.fault_interval)
        if now + delay > self._storm_until:
            delay += plan.lull * self._rng.uniform(0.5, 1.5)
            self._storm_until = now + delay + plan.storm * self._rng.uniform(0.5, 1.5)
        self._world.scheduler.after(delay, self._strike)

    def _strike(self) -> None:
        if self._over:
            return
        rng, timeout = self._rng, self._world.plan.election_timeout
        seconds = timeout * rng.choice((0.05, 0.3, 1.0, 3.0)) * rng.uniform(0.5, 1.5)
        self._strikes[rng.choice(self._world.plan.faults)](self._victim(), seconds)
        self._next()

    def heal(self) -> None:
        """From now on nothing breaks, what is broken is repaired, and who is gone comes back."""
        self._over = True
        self._world.network.heal()
        now = self._world.scheduler.now
        for node in self._world.nodes.values():
            node.effects.calm()
            node.restart_after = 0.0
            node.trouble.fails = False
            node.trouble.slow_until = node.trouble.full_until = 0.0
            node.trouble.latency = min(node.trouble.latency, 0.01)
            node.clock.set_rate(now, 1.0)
            node.misplaced = None
            if not node.spoilt and not node.left:
                node.resume()
                node.start()
        self._world.story.headline(now, "everything heals")

    def _victim(self) -> Node:
        nodes = self._world.usable
        leaders = [node for node in nodes if node.leads]
        return self._rng.choice(leaders if leaders and self._rng.random() < 0.6 else nodes)

    def _tell(self, fault: Fault, text: str, *args: object) -> None:
        self._world.story.fault(self._world.scheduler.now, fault.value, text, *args)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _crash(self, node: Node, seconds: float) -> None:
        alone = all(other.alive for other in self._world.usable)
        # When the others can go on, it may stay away for so long that it needs a snapshot afterwards.
        node.restart_after = seconds * (self._rng.choice((1, 4, 12)) if alone else 1)
        node.kill(Fault.CRASH.value)
        if self._rng.random() < 0.5:  # the others may learn of it at once, as in an actor system
            for other in self._world.nodes.values():
                self._world.scheduler.after(self._rng.uniform(0.005, 0.05), partial(other.alarm, node.id))

    def _crash_in_turn(self, node: Node, seconds: float) -> None:
        node.restart_after = seconds
        if self._rng.random() < 0.5:
            node.effects.crash_after(self._rng.randint(1, 3), self._rng.choice(list(Effect)))
        else:
            node.effects.crash_after(self._rng.choice((1, 3, 10, 30)) + self._rng.randint(0, 9))

    def _blackout(self, _: Node, seconds: float) -> None:
        for node in self._world.usable:
            node.restart_after = seconds * self._rng.random()
            node.effects.crash_after(self._rng.randint(1, 12))
            if self._rng.random() < 0.5:
                node.kill(Fault.BLACKOUT.value)

    def _pause(self, node: Node, seconds: float) -> None:
        seconds *= self._rng.choice((1, 4))
        self._tell(Fault.PAUSE, "node {} for {:.2f} s", node.id, seconds)
        node.pause(seconds)

    def _stall(self, node: Node, seconds: float) -> None:
        self._tell(Fault.STALL, "node {} for {:.2f} s", node.id, seconds)
        node.effects.stall_after(self._rng.randint(1, 20), seconds)

    def _alarm(self, node: Node, _: float) -> None:
        self._tell(Fault.ALARM, "of node {}", node.id)
        for other in self._world.nodes.values():
            if other is not node and self._rng.random() < 0.7:
                other.alarm(node.id)

    def _clock(self, node: Node, _: float) -> None:
        rate = self._rng.uniform(*self._world.plan.clock_rates)
        self._tell(Fault.CLOCK, "node {} at rate {:.2f}", node.id, rate)
        node.clock.set_rate(self._world.scheduler.now, rate)

    def _set_wall_clock(self, node: Node, seconds: float) -> None:
        jump = self._rng.choice((-1, 1)) * seconds * self._rng.choice((1, 10))
        self._tell(Fault.WALL_CLOCK, "of node {} jumps by {:.2f} s", node.id, jump)
        node.wall_skew += jump

    # --- network ------------------------------------------------------------------------------------------------------

    def _partition(self, node: Node, seconds: float) -> None:
        cut = self._rng.choice(self._world.plan.cuts)
        links = self._links_of(cut, node.id)
        seconds *= self._rng.choice((1, 4, 8))
        self._world.story.faults[f"partition: {cut.value}"] += 1
        self._tell(Fault.PARTITION, "{}, around node {}, for {:.2f} s", cut.value, node.id, seconds)
        network = self._world.network
        self._world.scheduler.after(seconds, partial(network.mend, network.cut(links)))

    def _links_of(self, cut: Cut, victim: NodeId) -> set[Link]:
        rng, nodes = self._rng, self._world.nodes
        others = [node for node in nodes if node != victim]
        rng.shuffle(others)
        middle = rng.randint(0, max(0, len(others) - 1))
        group, rest = [victim, *others[:middle]], others[middle:]
        if cut is Cut.ALONE:
            return split([victim], others)
        if cut is Cut.PRIMARIES:
            leaders = [node.id for node in nodes.values() if node.leads]
            return set().union(*(split([leader], [node for node in nodes if node != leader]) for leader in leaders))
        if cut is Cut.HALVES:
            return split(group, rest)
        if cut is Cut.DEAF:
            return one_way(others, [victim])
        if cut is Cut.MUTE:
            return one_way([victim], others)
        if cut is Cut.ONE_WAY:
            return one_way(group, rest)
        return bridge([victim, *others]) if cut is Cut.BRIDGE else ring([victim, *others])

    def _clog(self, node: Node, seconds: float) -> None:
        network, until = self._world.network, self._world.scheduler.now + seconds * self._rng.choice((1, 3, 8))
        inward, outward = self._rng.choice(((True, True), (True, False), (False, True)))
        self._tell(Fault.CLOG, "node {} until {:.2f} s, inward {}, outward {}", node.id, until, inward, outward)
        share = self._rng.choice((0.4, 1.0))
        for other in self._world.nodes:
            if self._rng.random() > share:
                continue
            if inward:
                network.clog((other, node.id), until)
            if outward:
                network.clog((node.id, other), until)

    # --- disks --------------------------------------------------------------------------------------------------------

    def _slow_disk(self, node: Node, seconds: float) -> None:
        self._tell(Fault.SLOW_DISK, "node {} for {:.2f} s", node.id, seconds)
        node.trouble.slow_until = self._world.scheduler.now + seconds

    def _fill_disk(self, node: Node, seconds: float) -> None:
        self._tell(Fault.FULL_DISK, "of node {} for {:.2f} s", node.id, seconds)
        node.restart_after = seconds * self._rng.uniform(0.3, 1.5)
        node.trouble.full_until = self._world.scheduler.now + seconds

    def _damage(self, node: Node, seconds: float) -> None:
        if self._may_spoil(node):
            node.restart_after = seconds
            self._tell(Fault.DAMAGE, "a bit flips on the disk of node {}", node.id)
            node.damage_disk()

    def _lose_disk(self, node: Node, seconds: float) -> None:
        if self._may_spoil(node):
            node.restart_after = seconds
            self._tell(Fault.LOST_DISK, "node {} gets an empty one", node.id)
            node.lose_disk()

    def _misplace_disk(self, node: Node, seconds: float) -> None:
        other = self._rng.choice(list(self._world.nodes.values()))
        if other is not node:
            self._tell(Fault.WRONG_DISK, "node {} is started from the disk of node {}", node.id, other.id)
            node.restart_after = seconds
            node.misplaced = other.identity
            node.kill(Fault.CRASH.value)

    def _may_spoil(self, node: Node) -> bool:
        """Of every configuration that may be in force, only a minority loses its disks for good."""
        if self._rng.random() >= 0.2:
            return False
        nodes = self._world.nodes
        known = list(in_sight(nodes))
        node.spoilt = "in thought"
        try:
            return all(outlives(nodes, configuration) for configuration in known)
        finally:
            node.spoilt = ""

    def _fail_disk(self, node: Node, seconds: float) -> None:
        node.restart_after = seconds
        node.trouble.fails = True
