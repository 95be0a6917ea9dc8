"""A leader whose disk or machine stalls hands over, although its heartbeats go on; if it stands still, others elect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from rayraft.machine.requests import Status
from rayraft.raft.leader import Leader
from rayraft.raft.types import AnyMessage, Entry, Heartbeat, NodeId, RequestVote, TimeoutNow
from rayraft.replica.replica import Replica
from rayraft.replica.watchdog import Watchdog
from rayraft.simulation.effects import Effect, Effects
from rayraft.simulation.plan import draw_plan
from rayraft.simulation.run import Simulation
from rayraft.storage.memory import MemoryLogStore
from tests.replica.support import STEP, Caller, Group, status_of

TIMEOUT = 1.0  # the election timeout of the groups below
SLOW = 0.4 * TIMEOUT  # more than a turn should take, and far less than what an election would be held for
WINDOW = 10 * TIMEOUT

# --- the count --------------------------------------------------------------------------------------------------------


def dog(*slow_turns: float) -> Watchdog:
    watchdog = Watchdog(slow=0.3, window=10.0)
    for ended in slow_turns:
        watchdog.turned(ended, 0.31)
    return watchdog


def check_three_slow_turns_within_the_window_make_unfit() -> None:
    assert not dog(1.0).unfit(1.0)
    assert not dog(1.0, 2.0).unfit(2.0)
    assert dog(1.0, 2.0, 3.0).unfit(3.0)
    assert dog(1.0, 2.0, 11.0).unfit(11.0), "just within the window"
    assert not dog(1.0, 2.0, 11.5).unfit(11.5), "the first is too long ago"


def test_three_slow_turns_within_the_window_make_unfit() -> None:
    check_three_slow_turns_within_the_window_make_unfit()


def test_old_strikes_are_forgotten_one_by_one() -> None:
    watchdog = dog(1.0, 5.0)
    watchdog.turned(12.0, 0.5)
    assert not watchdog.unfit(12.0)
    watchdog.turned(13.0, 0.5)
    assert watchdog.unfit(13.0), "5, 12 and 13"


def test_a_turn_that_takes_no_longer_than_allowed_is_no_strike() -> None:
    watchdog = dog(1.0, 2.0)
    watchdog.turned(3.0, 0.3)
    assert not watchdog.unfit(3.0)


def test_after_handing_over_the_count_begins_anew() -> None:
    watchdog = dog(1.0, 2.0, 3.0)
    watchdog.handed_over()
    watchdog.turned(4.0, 0.5)
    watchdog.turned(5.0, 0.5)
    assert not watchdog.unfit(5.0)


# --- a group with one slow node ---------------------------------------------------------------------------------------


class SlowGroup(Group):
    """Work on a disk or in a machine may take time, which passes for everybody; all that is said is kept."""

    def __init__(self, **settings: Any) -> None:
        self.said: list[AnyMessage] = []
        super().__init__(election_timeout=TIMEOUT, **settings)

    def send(self, messages: list[AnyMessage]) -> None:
        self.said += messages
        super().send(messages)

    def heard(self, kind: type, src: NodeId) -> int:
        return sum(isinstance(message, kind) and message.src == src for message in self.said)


Stall = Callable[[SlowGroup, NodeId, float], None]


def stall_the_disk(group: SlowGroup, node: NodeId, seconds: float) -> None:
    """The next sync of this node takes that long."""
    store: MemoryLogStore = group.logs[node]

    def sync() -> None:
        del vars(store)["sync"]
        store.sync()
        group.now += seconds

    vars(store)["sync"] = sync


def stall_the_machine(group: SlowGroup, node: NodeId, seconds: float) -> None:
    """The next entry that this node applies takes that long."""
    replica = group[node]
    apply = replica._apply

    def slowly(entries: list[Entry]) -> None:
        if entries:
            del vars(replica)["_apply"]
            group.now += seconds
        apply(entries)

    vars(replica)["_apply"] = slowly


STALLS = pytest.mark.parametrize("stall", [stall_the_disk, stall_the_machine])


class Slowness:
    """A group with a leader, and commands that one node is slow with."""

    def __init__(self, stall: Stall, *, follower: bool = False) -> None:
        self.group = SlowGroup()
        self.leader = self.group.elect()
        self.caller = Caller(self.group, self.leader)
        self.term = self.leader.raft.term
        self.group.said.clear()
        slow = self.group.followers()[0] if follower else self.leader
        self._stall = partial(stall, self.group, slow.raft.id)

    def strike(self, count: int = 1, seconds: float = SLOW) -> None:
        """So many commands, each of which takes the slow node that long; then some time for what follows from it."""
        for _ in range(count):
            self._stall(seconds)
            answers = self.caller.submit(self.leader, "put", "x", self.caller.number)
            self.group.until(partial(len, answers))
        self.wait(20 * STEP)

    def wait(self, seconds: float) -> None:
        over = self.group.now + seconds
        self.group.until(lambda: self.group.now >= over)

    def assert_nobody_else_leads(self) -> None:
        assert self.leader.status().serves
        assert self.leader.raft.term == self.term
        assert [replica.counters.handed_over for replica in self.group.replicas.values()] == [0, 0, 0]


def check_three_slow_turns_hand_over(stall: Stall) -> None:
    story = Slowness(stall)
    group, old = story.group, story.leader
    story.strike(2)
    story.assert_nobody_else_leads()
    story.strike()
    new = group.elect()
    assert new is not old
    assert old.counters.handed_over == 1
    assert group.heard(Heartbeat, old.raft.id) >= 6, "its heartbeats went on"
    assert group.heard(TimeoutNow, old.raft.id), "leadership was transferred,"
    assert new.raft.term == story.term + 1, "in one election,"
    assert not any(isinstance(said, RequestVote) and said.pre_vote for said in group.said), "which no timer began"
    group.until(group.all_equal)
    assert len({replica.machine.digest() for replica in group.replicas.values()}) == 1
    assert Caller(group, new).run(new, "put", "y", 1) is None


@STALLS
def test_a_leader_that_is_slow_three_times_hands_over_although_its_heartbeats_go_on(stall: Stall) -> None:
    check_three_slow_turns_hand_over(stall)


@STALLS
def test_a_slow_turn_or_two_change_nothing(stall: Stall) -> None:
    story = Slowness(stall)
    story.strike()
    story.assert_nobody_else_leads()
    story.strike()
    story.assert_nobody_else_leads()


@STALLS
def test_turns_that_are_not_slow_enough_change_nothing(stall: Stall) -> None:
    story = Slowness(stall)
    story.strike(10, seconds=0.29 * TIMEOUT)
    story.assert_nobody_else_leads()


@STALLS
def test_slow_turns_far_apart_change_nothing(stall: Stall) -> None:
    check_slow_turns_far_apart_change_nothing(stall)


def check_slow_turns_far_apart_change_nothing(stall: Stall) -> None:
    story = Slowness(stall)
    for _ in range(5):
        story.strike()
        story.wait(0.55 * WINDOW)  # never three within one window
        story.assert_nobody_else_leads()


@STALLS
def test_slow_turns_of_a_follower_change_nothing(stall: Stall) -> None:
    story = Slowness(stall, follower=True)
    story.strike(6)
    story.assert_nobody_else_leads()
    assert story.group.heard(TimeoutNow, story.leader.raft.id) == 0


def test_without_anybody_to_hand_over_to_a_slow_leader_leads_on_as_long_as_it_may() -> None:
    """Nobody answers any more: the watchdog has no successor to name, and the check of the quorum ends it."""
    story = Slowness(stall_the_disk)
    group, leader = story.group, story.leader
    story.strike(2)
    group.cut = {leader.raft.id}
    over = group.now + 1.2 * TIMEOUT
    group.until(lambda: group.now >= over or not leader.raft.is_leader)
    stall_the_disk(group, leader.raft.id, SLOW)
    answers = story.caller.submit(leader, "put", "x", 0)
    group.until(lambda: answers)
    assert status_of(answers) is Status.NOT_LEADER
    assert leader.counters.handed_over == 0


# --- a turn that does not end -----------------------------------------------------------------------------------------

STANDSTILL = 30.0


def standstill(kind: Effect, patch: pytest.MonkeyPatch) -> None:
    """In a whole simulation, with all its invariants: the leader's next effect of this kind takes half a minute."""
    calm = replace(
        draw_plan(1, 3, 60.0), faults=(), operations=(), election_timeout=1.0, heartbeat_interval=0.1, pre_vote=True,
        check_quorum=True, loss=0.0, duplicates=0.0, delay=0.001, delay_spread=0.2, sync_latency=0.001, drift=None,
        snapshot_entries=50,
    )  # fmt: skip
    simulation = Simulation(calm)
    nodes, invariants, scheduler = simulation.world.nodes, simulation.invariants, simulation.scheduler
    scheduler.run_until(5.0)
    (old,) = [node for node in nodes.values() if node.leads]
    assert old.raft is not None
    term, committed = old.raft.term, invariants.committed
    point, stalled = Effects.point, False

    def stall(self: Effects, effect: Effect) -> None:
        nonlocal stalled
        point(self, effect)
        if self is old.effects and effect is kind and not stalled:
            stalled = True
            self.elapsed += STANDSTILL

    patch.setattr(Effects, "point", stall)
    scheduler.run_until(15.0)
    assert stalled
    (new,) = [node for node in nodes.values() if node.leads and node is not old]
    assert new.raft is not None
    assert new.raft.term > term, "the others have elected one of them,"
    assert invariants.committed > committed + 5, "and serve,"
    assert old.raft.is_leader, "while the one who sleeps takes itself for the leader"
    scheduler.run_until(5.0 + STANDSTILL + 2.0)
    assert not old.raft.is_leader, "it steps down as it wakes"
    assert old.raft.leader == new.id
    assert new.leads, "and disturbs nobody"
    simulation.run()  # to the end: all have applied the same, and the clients' history is linearizable


@pytest.mark.parametrize("kind", [Effect.SYNC, Effect.APPLY])
def test_when_a_turn_never_ends_the_others_elect_and_the_old_leader_steps_down_as_it_wakes(
    kind: Effect, monkeypatch: pytest.MonkeyPatch
) -> None:
    standstill(kind, monkeypatch)


# --- the same checks were seen to fail --------------------------------------------------------------------------------


@STALLS
def test_a_watchdog_that_sleeps_is_caught(stall: Stall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "_watch_over_itself", lambda self: None)
    with pytest.raises(AssertionError):
        check_three_slow_turns_hand_over(stall)


def test_a_watchdog_that_looks_at_the_clock_too_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the disk and the machine have done their work, every turn is quick."""
    turn = Replica.turn

    def mutant(self: Replica, now: float) -> None:
        self._now = max(self._now, now)
        self._watch_over_itself()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Replica, "_watch_over_itself", lambda self: None)
            turn(self, now)

    monkeypatch.setattr(Replica, "turn", mutant)
    with pytest.raises(AssertionError):
        check_three_slow_turns_hand_over(stall_the_disk)


def test_strikes_that_are_never_forgotten_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watchdog, "unfit", lambda self, now: len(self._slow_turns) >= self._strikes)
    with pytest.raises(AssertionError):
        check_three_slow_turns_within_the_window_make_unfit()
    with pytest.raises(AssertionError):
        check_slow_turns_far_apart_change_nothing(stall_the_disk)


def test_handing_over_to_nobody_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It steps down and leaves the rest to the others' timers."""

    def step_down(self: Replica) -> None:
        now = self._clock()
        self._watchdog.turned(now, now - self._now)
        if self.raft.is_leader and self._watchdog.unfit(now):
            self._watchdog.handed_over()
            self.counters.handed_over += 1
            self.raft.become_follower(self.raft.term, 0)

    monkeypatch.setattr(Replica, "_watch_over_itself", step_down)
    with pytest.raises(AssertionError):
        check_three_slow_turns_hand_over(stall_the_disk)


def test_an_old_leader_that_does_not_step_down_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on with its term when it wakes: it neither listens to the others nor counts who listens to it."""
    step = Replica.receive
    awake: set[NodeId] = set()

    def deaf(self: Replica, message: AnyMessage) -> None:
        if self.raft.is_leader and message.term > self.raft.term:
            awake.add(self.raft.id)
            return
        step(self, message)

    monkeypatch.setattr(Replica, "receive", deaf)
    monkeypatch.setattr(Leader, "_quorum_active", lambda self: True)
    with pytest.raises(AssertionError):
        standstill(Effect.SYNC, monkeypatch)
    assert awake
