"""`Progress` and `Inflights`: what a leader may send to one follower, as examples and against plain models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rayraft.raft.progress import Inflights, Progress, ProgressState
from rayraft.raft.types import AppendEntries, Heartbeat, Message, NodeId
from tests.harness import Group


def progress(state: ProgressState = ProgressState.REPLICATE, match: int = 5, window: int = 3) -> Progress:
    """A follower known to hold ``match`` entries of a log that was 10 long at the election."""
    made = Progress(2, 11, Inflights(window, 1 << 20), now=0.0)
    made.acknowledge(match)
    if state is ProgressState.REPLICATE:
        made.become_replicate()
    if state is ProgressState.SNAPSHOT:
        made.become_snapshot(8)
    return made


# --- examples ---------------------------------------------------------------------------------------------------------


def test_the_window_is_bounded_in_messages_and_in_bytes() -> None:
    by_count, by_bytes = Inflights(2, 1000), Inflights(100, 50)
    for window in (by_count, by_bytes):
        window.add(1, 30)
        assert not window.full
        window.add(2, 30)
        assert window.full


def test_one_answer_frees_every_message_before_it() -> None:
    window = Inflights(8, 1000)
    for index in (3, 5, 9):
        window.add(index, 10)
    window.free_to(6)
    assert len(window) == 1
    window.free_to(4)
    assert len(window) == 1, "a late answer frees nothing twice"
    window.free_to(9)
    window.check()
    assert not window.full
    assert len(window) == 0


def test_a_probe_waits_for_its_answer() -> None:
    follower = progress(ProgressState.PROBE)
    follower.sent(11, 1, 10)
    assert follower.paused
    assert follower.next == 11, "a probe is not counted as received"
    follower.heartbeat_answered(0.0, 0.1)
    assert not follower.paused


def test_replication_runs_ahead_of_the_answers_up_to_the_window() -> None:
    follower = progress(window=2)
    follower.sent(6, 1, 10)
    follower.sent(8, 2, 20)
    assert (follower.next, follower.paused) == (9, True)
    follower.acknowledge(6)
    follower.inflights.free_to(6)
    assert not follower.paused


def test_a_late_answer_changes_nothing() -> None:
    follower = progress()
    follower.sent(7, 2, 10)
    assert follower.acknowledge(7)
    assert not follower.acknowledge(6)
    assert (follower.match, follower.next) == (7, 8)
    assert not follower.refuse(rejected=6, next_index=1)


def test_a_refusal_falls_back_to_what_is_known() -> None:
    follower = progress()
    follower.sent(9, 4, 10)
    assert follower.refuse(rejected=9, next_index=2)
    assert follower.next == follower.match + 1 == 6


@pytest.mark.parametrize(("hint", "expected"), [(3, 6), (8, 8), (10, 10), (99, 10)])
def test_a_refused_probe_goes_back_at_least_one_and_never_behind_the_match(hint: int, expected: int) -> None:
    follower = progress(ProgressState.PROBE)
    assert follower.refuse(rejected=10, next_index=hint)
    assert follower.next == expected
    assert not follower.refuse(rejected=10, next_index=hint), "its repetition is stale"


def test_a_snapshot_pauses_entries_until_it_has_ended() -> None:
    follower = progress(ProgressState.SNAPSHOT)
    assert follower.paused
    follower.heartbeat_answered(0.0, 0.1)
    assert follower.paused
    assert not follower.refuse(rejected=10, next_index=1)
    follower.become_probe()
    assert (follower.next, follower.paused) == (9, False), "it holds at least what the snapshot held"


def test_a_pipeline_without_headway_for_a_while_is_probed_again() -> None:
    follower = progress()
    follower.sent(7, 2, 10)
    for now in (1.0, 1.001, 1.05):
        follower.heartbeat_answered(now, patience=0.1)
        assert follower.state is ProgressState.REPLICATE, "its answer may be on its way"
    follower.heartbeat_answered(1.1001, patience=0.1)
    assert (follower.state, follower.next, follower.paused) == (ProgressState.PROBE, 6, False)


def test_a_pipeline_with_headway_or_nothing_under_way_is_left_alone() -> None:
    follower = progress(window=100)
    follower.heartbeat_answered(0.0, patience=0.1)
    for step in range(1, 20):
        follower.heartbeat_answered(0.2 * step - 0.1, patience=0.1)
        follower.sent(5 + step, 1, 10)
        follower.heartbeat_answered(0.2 * step, patience=0.1)
        follower.acknowledge(5 + step)
        assert follower.state is ProgressState.REPLICATE


# --- a slow follower in a group ---------------------------------------------------------------------------------------

WINDOW_MESSAGES, WINDOW_BYTES, MESSAGE_BYTES = 4, 1_000, 300
CACHE_BYTES = 2_000  # of the whole log
COMMANDS = 200


class CountingGroup(Group):
    """Counts the steps of the leader's loop."""

    def __init__(self, **settings: Any) -> None:
        self.loops = 0
        super().__init__(3, **settings)

    def _finish(self, id: NodeId, *rest: Any) -> None:
        self.loops += id == 1
        super()._finish(id, *rest)


@dataclass
class Load:
    """What `COMMANDS` commands, one after another, took of the leader and of the quorum."""

    rounds: int = 0  # of messages, until each was committed
    loops: int = 0  # of the leader
    messages: int = 0  # between the two nodes of the quorum
    open_messages: int = 0  # with entries for the third node that it has not answered: at most ...
    open_bytes: int = 0  # ... and their bytes
    log_bytes: int = 0  # of the log in the leader's memory, when a command is committed


Trouble = Callable[[Group], None]


def gone(group: Group) -> None:
    group.crash(3)


def standing_still(group: Group) -> None:
    group.pause(3)


def mute(group: Group) -> None:
    """It takes in everything, and no answer arrives."""
    group.severed.add((3, 1))


def under_load(trouble: Trouble, *, wakes_every: int = 0, size: int = 100) -> tuple[CountingGroup, Load]:
    """Nodes 1 and 2 are well, node 3 is not; ``wakes_every`` so many commands it takes in what waits for it."""
    group = CountingGroup(
        max_inflight_messages=WINDOW_MESSAGES,
        max_inflight_bytes=WINDOW_BYTES,
        max_append_bytes=MESSAGE_BYTES,
        cache_bytes=CACHE_BYTES,
    )
    group.elect(1)
    group.run(0.2)
    trouble(group)
    before, load = len(group.sent), Load(loops=-group.loops)
    for number in range(1, COMMANDS + 1):
        index = group.propose(bytes(size), at=1)
        for _ in range(10):
            if group[1].log.commit >= index:
                break
            group.deliver()
            load.rounds += 1
        assert group[1].log.commit >= index, "two of three hold it, and it is not committed"
        assert group[1].term == 1
        third = group[1].progress[3].inflights
        load.open_messages = max(load.open_messages, len(third))
        load.open_bytes = max(load.open_bytes, third._bytes)
        load.log_bytes = max(load.log_bytes, sum(entry.size for entry in group[1].log._tail))
        if number % 10 == 0:  # every ten commands a heartbeat: twenty of them are two election timeouts
            group.tick(0.1)
        if wakes_every and number % wakes_every == 0:
            group.resume(3)
            group.pause(3)
        group.settle()
    load.loops += group.loops
    load.messages = sum({message.src, message.dst} == {1, 2} for message in group.sent[before:])
    return group, load


def entries_for_3(group: Group, messages: list[Message]) -> list[AppendEntries]:
    return [m for m in messages if isinstance(m, AppendEntries) and m.dst == 3 and m.src == 1 and m.entries]


def check_the_window(group: Group, load: Load) -> None:
    """Of entries, never more is on its way to a follower than the window allows: and no leader keeps more for it."""
    assert 0 < load.open_messages <= WINDOW_MESSAGES
    assert load.open_bytes < WINDOW_BYTES + MESSAGE_BYTES
    assert load.log_bytes <= CACHE_BYTES, "what it lacks is on the disk"


@pytest.mark.parametrize("trouble", [standing_still, mute])
def test_a_slow_follower_never_slows_the_quorum(trouble: Trouble) -> None:
    """One that never answers: the two others commit in as many rounds, loops and messages as if it did not exist."""
    _, without = under_load(gone)
    group, load = under_load(trouble)
    assert (load.rounds, load.loops, load.messages) == (without.rounds, without.loops, without.messages)
    assert load.rounds == 2 * COMMANDS, "there and back"
    assert group.count_sent(Heartbeat, src=1, dst=3) >= 20, "it is told all the while who leads"
    check_the_window(group, load)


def test_a_follower_that_never_answers_gets_one_window_of_entries_and_no_more() -> None:
    for size, messages in ((1, WINDOW_MESSAGES), (290, WINDOW_MESSAGES), (600, 2)):
        group, load = under_load(standing_still, size=size)
        sent = entries_for_3(group, group.nodes[3].waiting)
        assert len(sent) == load.open_messages == messages
        assert load.open_bytes < WINDOW_BYTES + max(MESSAGE_BYTES, size + 100)
        assert sum(entry.size for message in sent for entry in message.entries) == load.open_bytes


def test_a_follower_that_answers_now_and_then_never_slows_the_quorum() -> None:
    """Its window opens as it answers; the quorum has no more rounds and messages for it, and it catches up."""
    _, without = under_load(gone)
    group, load = under_load(standing_still, wakes_every=20)
    assert (load.rounds, load.messages) == (without.rounds, without.messages)
    check_the_window(group, load)
    assert entries_for_3(group, group.sent)[-1].entries[0].index > 30, "it got more than the first window"
    group.resume(3)
    group.run(0.5)
    assert group.data(3) == group.data(1)


def test_a_follower_that_never_answered_catches_up_when_it_does() -> None:
    group, _ = under_load(standing_still)
    group.resume(3)
    group.run(0.5)
    assert len(group.data(3)) == COMMANDS


# --- the window against a list ----------------------------------------------------------------------------------------


class WindowAgainstList(RuleBasedStateMachine):
    @initialize(messages=st.integers(1, 5), size=st.integers(1, 100))
    def start(self, messages: int, size: int) -> None:
        self.window, self.limits = Inflights(messages, size), (messages, size)
        self.model: list[tuple[int, int]] = []
        self.last = 0

    @precondition(lambda self: not self.window.full)
    @rule(step=st.integers(1, 3), size=st.integers(0, 60))
    def add(self, step: int, size: int) -> None:
        self.last += step
        self.window.add(self.last, size)
        self.model.append((self.last, size))

    @rule(back=st.integers(-1, 10))
    def free(self, back: int) -> None:
        self.window.free_to(self.last - back)
        self.model = [item for item in self.model if item[0] > self.last - back]

    @rule()
    def clear(self) -> None:
        self.window.clear()
        self.model = []

    @invariant()
    def agree(self) -> None:
        self.window.check()
        assert len(self.window) == len(self.model)
        assert self.window.full == (
            len(self.model) >= self.limits[0] or sum(s for _, s in self.model) >= self.limits[1]
        )


# --- one follower against a real log on the other side ----------------------------------------------------------------


class FollowerOnALine(RuleBasedStateMachine):
    """A leader's log of ``last`` entries; a follower that truly agrees on ``holds``; messages that lie about nothing.

    Answers may be lost, late and repeated. Whatever happens, the leader never believes more than is true, and a
    heartbeat answer or two are enough to get going again.
    """

    @initialize(last=st.integers(0, 10), agrees=st.integers(0, 10), window=st.integers(1, 3))
    def start(self, last: int, agrees: int, window: int) -> None:
        self.last = last
        self.holds = min(agrees, last)  # the prefix in which the follower's log agrees with the leader's
        self.window = window
        self.now = 0.0
        self.progress = Progress(2, last + 1, Inflights(window, 1 << 20), 0.0)
        self.appends: list[tuple[int, int]] = []  # (prev, last) of all that were ever sent
        self.answers: list[Callable[[], None]] = []
        self.best = 0

    @rule(count=st.integers(1, 3))
    def propose(self, count: int) -> None:
        self.last += count

    @precondition(lambda self: self.can_send())
    @rule(count=st.integers(1, 3))
    def send(self, count: int) -> None:
        prev = self.progress.next - 1
        upto = min(prev + count, self.last)
        self.appends.append((prev, upto))
        self.progress.sent(upto, upto - prev, 10)

    def can_send(self) -> bool:
        probing = self.progress.state is ProgressState.PROBE and self.progress.match < self.last
        return not self.progress.paused and (self.progress.next <= self.last or probing)

    @precondition(lambda self: self.appends)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        """Any append ever sent arrives (again): the follower answers with the truth of now."""
        prev, upto = data.draw(st.sampled_from(self.appends))
        if prev <= self.holds:
            self.holds = max(self.holds, upto)
            self.answers.append(lambda: self.succeed(upto))
        else:
            first = self.holds + 1
            self.answers.append(lambda: self.refuse(prev, first))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Any answer ever given arrives (again)."""
        data.draw(st.sampled_from(self.answers))()

    def succeed(self, index: int) -> None:
        news = self.progress.acknowledge(index)
        assert news == (index > self.best)
        self.best = max(self.best, index)
        self.progress.inflights.free_to(index)
        if self.progress.state is ProgressState.PROBE:
            self.progress.become_replicate()

    def refuse(self, rejected: int, hint: int) -> None:
        if self.progress.refuse(rejected, hint) and self.progress.state is ProgressState.REPLICATE:
            self.progress.become_probe()

    @rule()
    def lose_a_call(self) -> None:
        if self.progress.state is ProgressState.REPLICATE:
            self.progress.become_probe()

    @precondition(lambda self: self.holds >= self.progress.match)
    @rule(delivered=st.booleans())
    def send_snapshot(self, delivered: bool) -> None:
        self.progress.become_snapshot(self.last)
        assert self.progress.paused
        if delivered:
            self.holds = self.last
        else:
            self.progress.snapshot_index = 0
        self.progress.become_probe()

    @rule(wait=st.sampled_from([0.01, 0.11]))
    def heartbeat(self, wait: float) -> None:
        self.now += wait
        self.progress.heartbeat_answered(self.now, 0.1)

    @invariant()
    def nothing_is_believed_that_is_not_true(self) -> None:
        self.progress.check()
        assert self.progress.match == self.best <= self.holds
        assert self.progress.next <= self.last + 1
        assert len(self.progress.inflights) <= self.window

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        """If everything in the air is lost, three heartbeat answers bring back the sending."""
        if self.progress.match == self.last:
            return
        saved = {name: getattr(self.progress, name) for name in Progress.__slots__ if name != "inflights"}
        window = list(self.progress.inflights._open)
        for step in (1, 2, 3):
            self.progress.heartbeat_answered(self.now + step, 0.1)
        assert self.can_send()
        for name, value in saved.items():
            setattr(self.progress, name, value)
        self.progress.inflights.clear()
        for index, size in window:
            self.progress.inflights.add(index, size)


TestWindowAgainstList = WindowAgainstList.TestCase
TestFollowerOnALine = FollowerOnALine.TestCase
TestWindowAgainstList.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestFollowerOnALine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
