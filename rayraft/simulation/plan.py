"""What one seed decides about a run before it begins. Swarm testing: each kind of trouble is sometimes absent."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, replace

from rayraft.machine.requests import Consistency
from rayraft.raft.ready import RaftConfig
from rayraft.replica import ReplicaConfig


def stream(seed: int, name: str) -> random.Random:
    """An independent source of randomness for each purpose, so that a change in one leaves the others as they were."""
    return random.Random(f"{seed}/{name}")


class Fault(enum.Enum):
    CRASH = "crash"  # a process ends between two turns
    CRASH_IN_TURN = "crash in a turn"  # a process ends between two effects of one turn
    BLACKOUT = "blackout"  # every process ends at about the same moment
    PAUSE = "pause"  # a process stands still between two turns
    STALL = "stall"  # a process stands still between two effects of one turn
    PARTITION = "partition"
    CLOG = "clog"  # what is sent on some links arrives seconds later, all at once
    SLOW_DISK = "slow disk"
    DISK_FAILURE = "disk failure"  # a sync fails: the process ends
    FULL_DISK = "full disk"  # nothing can be written for a while
    DAMAGE = "damage"  # bits flip in a log, hard state or snapshot at rest: the node must refuse to start, for good
    LOST_DISK = "lost disk"  # a process finds an empty disk: it must refuse to start, for good
    WRONG_DISK = "wrong disk"  # a process finds another node's disk: it must refuse to start, until it has its own
    ALARM = "false alarm"  # a node is told that another one's process is gone
    CLOCK = "clock"  # a clock changes its rate
    WALL_CLOCK = "wall clock"  # the time of day, by which a leader stamps what it proposes, jumps


class Cut(enum.Enum):
    """Shapes of a partition."""

    ALONE = "one node alone"
    PRIMARIES = "every leader alone"
    HALVES = "two groups"
    DEAF = "one node hears nobody"
    MUTE = "nobody hears one node"
    ONE_WAY = "one group does not hear the other"
    BRIDGE = "two groups with one node between them"
    RING = "each node with its own majority"


class Operation(enum.Enum):
    """What operators order."""

    ADD = "add a node"  # as a learner, which becomes a voter later on
    ADD_WITNESS = "add a witness"
    REMOVE = "remove a node"
    REPLACE = "replace a node"
    RESHAPE = "change several at once"
    DEMOTE = "demote a voter"
    TRANSFER = "transfer leadership"
    PREFER = "prefer a leader"


SPOILING = {Fault.DAMAGE, Fault.LOST_DISK}


@dataclass(frozen=True, slots=True)
class Plan:
    """The ranges and rates of one run; times in simulated seconds."""

    seed: int
    nodes: int
    seconds: float  # with faults; healing comes after
    election_timeout: float
    heartbeat_interval: float
    pre_vote: bool
    check_quorum: bool
    loss: float
    duplicates: float
    echo: float  # how late a duplicate may come, much later than any delay: 0 when it is only delayed
    delay: float  # the median
    delay_spread: float  # sigma of the logarithm: above 1 the tail is heavy
    wake_latency: float  # until an idle process takes in what arrived, and what came meanwhile with it
    sync_latency: float
    snapshot_entries: int
    snapshot_trailing: int
    snapshot_delay: float
    digest_entries: int
    chunk_bytes: int
    cache_bytes: int
    max_append_bytes: int
    max_apply_bytes: int
    commit_notice_delay: float
    standby_delay: float
    clients: int
    window: int
    think_time: float
    faults: tuple[Fault, ...]
    cuts: tuple[Cut, ...]
    fault_interval: float
    storm: float  # trouble comes in storms of about this length ...
    lull: float  # ... with calm between them, about so long: time to get something done that the next one can destroy
    clock_rates: tuple[float, float]  # the slowest and the fastest; most are near 1 where no bound is promised
    drift: float | None  # the bound that all trust, and that holds: leases are on
    witnesses: int  # among the founders
    session_ttl_ms: int  # 0: the default, which no run is long enough for
    leaving: float  # how probable it is that a client with nothing under way ends its session, and takes a new one
    consistencies: tuple[Consistency, ...]  # of the reads
    max_age: float  # of stale reads
    operations: tuple[Operation, ...]
    operation_interval: float
    max_promotion_lag: int

    def describe(self) -> str:
        """The plan in a few lines, for a reader."""
        cuts = ", ".join(cut.value for cut in self.cuts) if Fault.PARTITION in self.faults else "none"
        return (
            f"seed {self.seed}: {self.nodes} nodes, {self.seconds:g} s with faults, election timeout"
            f" {self.election_timeout} s, pre-vote {self.pre_vote}, check-quorum {self.check_quorum}\n"
            f"network: loss {self.loss:.0%}, duplicates {self.duplicates:.0%} (late by up to {self.echo:.1f} s),"
            f" delay {1000 * self.delay:.2f} ms (spread {self.delay_spread}); sync {1000 * self.sync_latency:.2f} ms\n"
            f"work: {self.clients} clients with {self.window} requests open; a snapshot every"
            f" {self.snapshot_entries} entries, {self.snapshot_trailing} kept\n"
            f"clocks: rates {self.clock_rates[0]:.2f} to {self.clock_rates[1]:.2f}, trusted bound {self.drift};"
            f" sessions live {self.session_ttl_ms or 'for ever'} ms, ended early {self.leaving:.0%};"
            f" reads: {', '.join(one.name.lower() for one in self.consistencies)}\n"
            f"operators: {', '.join(one.value for one in self.operations) or 'none'}; witnesses: {self.witnesses}\n"
            f"faults: {', '.join(fault.value for fault in self.faults) or 'none'}; partitions: {cuts}"
        )

    def replica_config(self, node: int) -> ReplicaConfig:
        raft = RaftConfig(
            node,
            election_timeout=self.election_timeout,
            heartbeat_interval=self.heartbeat_interval,
            pre_vote=self.pre_vote,
            check_quorum=self.check_quorum,
            max_append_bytes=self.max_append_bytes,
            max_inflight_messages=4,
            cache_bytes=self.cache_bytes,
            commit_notice_delay=self.commit_notice_delay,
            standby_delay=self.standby_delay,
            max_apply_bytes=self.max_apply_bytes,
            max_clock_drift=self.drift,
            max_promotion_lag=self.max_promotion_lag,
        )
        return ReplicaConfig(
            raft,
            snapshot_entries=self.snapshot_entries,
            snapshot_trailing=self.snapshot_trailing,
            digest_entries=self.digest_entries,
            max_entry_bytes=300,
        )

    def draw_rate(self, rng: random.Random) -> float:
        """For one clock, within what is promised; where nothing is, most keep near the true time."""
        low, high = self.clock_rates
        if self.drift is not None and rng.random() < 0.5:
            return rng.choice((low, high))
        if self.drift is None and rng.random() < 0.8:
            low, high = 0.9, 1.1
        return rng.uniform(low, high)


def draw_plan(seed: int, nodes: int | None, seconds: float) -> Plan:
    rng = stream(seed, "plan")
    count = nodes or rng.choice((3, 3, 5))
    timeout = rng.choice((0.5, 1.0, 1.0))

    def sometimes(probability: float, low: float, high: float) -> float:
        return rng.uniform(low, high) if rng.random() < probability else 0.0

    share = rng.choice((0.15, 0.35, 0.7))  # few kinds of trouble go deeper than all of them at once
    faults = tuple(fault for fault in Fault if rng.random() < share)
    plan = Plan(
        seed=seed,
        nodes=count,
        seconds=seconds,
        election_timeout=timeout,
        heartbeat_interval=timeout * rng.choice((0.2, 0.35, 0.35)),
        pre_vote=rng.random() < 0.8,
        check_quorum=rng.random() < 0.65,
        loss=sometimes(0.6, 0.0, 0.3),
        duplicates=sometimes(0.6, 0.0, 0.5),
        echo=timeout * sometimes(0.6, 1.0, 20.0),
        delay=timeout * rng.choice((0.0005, 0.002, 0.01, 0.03)),
        delay_spread=rng.choice((0.2, 1.0, 1.5, 2.0)),
        wake_latency=timeout * rng.choice((0.0, 0.01, 0.02, 0.03)),
        sync_latency=timeout * rng.choice((0.0002, 0.001, 0.01, 0.03)),
        snapshot_entries=rng.choice((10, 10, 10, 20, 50, 100)),
        snapshot_trailing=rng.choice((0, 0, 2, 10)),
        snapshot_delay=rng.choice((0.0, 0.0, 0.05, 0.5)),
        standby_delay=timeout * stream(seed, "standby").choice((0.0, 0.02, 0.1)),
        digest_entries=stream(seed, "digests").choice((0, 0, 5, 30)),
        chunk_bytes=rng.choice((150, 400, 100_000)),
        cache_bytes=rng.choice((0, 500, 1 << 20)),
        max_append_bytes=rng.choice((1, 300, 1 << 20)),
        max_apply_bytes=rng.choice((1, 500, 1 << 20)),
        commit_notice_delay=timeout * rng.choice((0.0, 0.02, 0.02, 0.05)),
        clients=rng.choice((2, 3, 5)),
        window=rng.choice((1, 3, 6)),
        think_time=rng.choice((0.08, 0.2, 0.4)),
        faults=faults,
        cuts=tuple(cut for cut in Cut if rng.random() < 0.5) or tuple(Cut),
        storm=timeout * rng.choice((3.0, 6.0, 12.0)),
        lull=timeout * rng.choice((2.0, 4.0, 8.0)),
        fault_interval=timeout * rng.choice((0.5, 1.0, 2.0, 4.0)),
        clock_rates=(0.5, 2.0),
        drift=None,
        witnesses=0,
        session_ttl_ms=0,
        leaving=0.0,
        consistencies=(Consistency.LINEARIZABLE,),
        max_age=0.0,
        operations=(),
        operation_interval=1.0,
        max_promotion_lag=1000,
    )
    plan = _with_features(plan, stream(seed, "features"))
    theme = rng.random()
    if theme < 0.15:
        return _old_leaders(plan, rng)
    return _old_leases(plan, rng) if theme < 0.25 else plan


def _with_features(plan: Plan, rng: random.Random) -> Plan:
    """What goes beyond the paper's core: each is absent in a share of the runs."""
    drift, rates = None, plan.clock_rates
    if rng.random() < 0.35:
        drift = rng.choice((0.02, 0.1, 0.3))
        slowest = 1.0 - drift * rng.random()
        rates = slowest, slowest / (1.0 - drift)  # as far apart as the bound allows
    share = rng.choice((0.0, 0.25, 0.5, 0.8))
    operations = tuple(one for one in Operation if rng.random() < share)
    # A witness and one full node may be all that holds an entry: then no full disk may be lost for good.
    if SPOILING & set(plan.faults) or plan.nodes < 3:
        operations = tuple(one for one in operations if one is not Operation.ADD_WITNESS)
        witnesses = 0
    else:
        witnesses = int(rng.random() < 0.3)
    others = (Consistency.LEASE, Consistency.FOLLOWER, Consistency.STALE)
    return replace(
        plan,
        drift=drift,
        clock_rates=rates,
        check_quorum=plan.check_quorum or drift is not None,
        witnesses=witnesses,
        session_ttl_ms=rng.choice((0, 0, 500, 2_000)),
        consistencies=(Consistency.LINEARIZABLE, *(one for one in others if rng.random() < 0.5)),
        max_age=plan.election_timeout * rng.choice((0.3, 1.0, 4.0)),
        operations=operations,
        operation_interval=plan.election_timeout * rng.choice((0.3, 1.0, 2.0, 4.0)),
        max_promotion_lag=rng.choice((0, 5, 1000)),
        leaving=rng.choice((0.0, 0.0, 0.2)),
    )


def _old_leaders(plan: Plan, rng: random.Random) -> Plan:
    """A theme: leaders are cut off, nobody tells them, and late copies of old answers keep coming."""
    return replace(
        plan,
        check_quorum=False,
        drift=None,
        duplicates=rng.uniform(0.3, 0.5),
        echo=plan.election_timeout * rng.uniform(4.0, 12.0),
        loss=min(plan.loss, 0.05),
        clients=5,
        faults=(Fault.PARTITION, *((Fault.CRASH,) if rng.random() < 0.3 else ())),
        cuts=(Cut.PRIMARIES, Cut.HALVES),
        fault_interval=plan.election_timeout * 5.0,
        storm=plan.seconds,
        lull=plan.election_timeout,
    )


def _old_leases(plan: Plan, rng: random.Random) -> Plan:
    """A theme: clocks as far apart as they may be, leaders that are cut off, and answers that come late."""
    drift = rng.choice((0.1, 0.3, 0.3))
    reshaping = tuple(one for one in (Operation.TRANSFER, Operation.PREFER) if rng.random() < 0.5)
    return replace(
        plan,
        check_quorum=True,
        drift=drift,
        clock_rates=(1.0 - drift, 1.0),
        duplicates=rng.uniform(0.2, 0.5),
        echo=plan.election_timeout * rng.uniform(0.5, 4.0),
        loss=min(plan.loss, 0.05),
        consistencies=(Consistency.LINEARIZABLE, Consistency.LEASE, Consistency.LEASE, Consistency.STALE),
        operations=reshaping,
        faults=tuple(
            fault
            for fault in (Fault.PARTITION, Fault.PARTITION, Fault.ALARM, Fault.CRASH, Fault.CLOG, Fault.PAUSE)
            if fault is Fault.PARTITION or rng.random() < 0.5
        ),
        cuts=(Cut.PRIMARIES, Cut.ALONE, Cut.HALVES),
        fault_interval=plan.election_timeout * rng.choice((1.0, 3.0)),
        storm=plan.seconds,
        lull=plan.election_timeout,
    )
