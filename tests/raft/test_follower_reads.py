"""Linearizable reads that a follower answers from its own state; the leader gives the index (thesis §6.4)."""

from __future__ import annotations

import pytest

from rayraft.raft.membership import Change, ChangeKind
from rayraft.raft.raft import Raft
from rayraft.raft.reads import ForwardedReads, ReadState
from rayraft.raft.ready import NotLeader
from rayraft.raft.types import Heartbeat, HeartbeatResponse, ReadIndexRequest, ReadIndexResponse
from tests.harness import Group


def led_by_1(size: int = 3, **settings: object) -> Group:
    group = Group(size, **settings)  # type: ignore[arg-type]
    group.elect(1)
    group.run(0.02)
    return group


def ask(group: Group, *tokens: object, at: int = 2) -> None:
    for token in tokens:
        group.read(token, at, Raft.follower_read)


def answers(group: Group, id: int = 2) -> list[object]:
    return [token for state in group.nodes[id].reads for token in state.tokens]


def test_a_follower_reads_at_the_index_that_a_quorum_has_confirmed() -> None:
    group = led_by_1(5)
    group.commit(b"x")
    ask(group, "r")
    group.deliver(ReadIndexRequest)
    group.deliver(Heartbeat)
    group.deliver(HeartbeatResponse, src=2)
    assert not group.pick(ReadIndexResponse), "two of five are no quorum"
    group.settle()
    assert group.nodes[2].reads == [ReadState(2, ["r"])]
    assert not group.nodes[1].reads, "the leader's own surroundings have nothing to do with it"


def test_one_request_serves_all_reads_that_wait() -> None:
    group = led_by_1()
    ask(group, "first")
    ask(group, *range(20))
    group.settle()
    assert answers(group) == ["first", *range(20)]
    assert group.count_sent(ReadIndexRequest) == 2


def test_reads_that_come_after_a_request_left_wait_for_the_next() -> None:
    group = led_by_1()
    ask(group, "early")
    group.deliver(ReadIndexRequest)
    ask(group, "late")
    group.deliver(Heartbeat)
    group.deliver(HeartbeatResponse)
    [answer] = group.pick(ReadIndexResponse)
    group.receive(answer)
    assert answers(group) == ["early"]


@pytest.mark.parametrize("lost", [ReadIndexRequest, ReadIndexResponse, Heartbeat])
def test_what_is_lost_is_asked_again(lost: type) -> None:
    group = led_by_1()
    ask(group, "r")
    if lost is not ReadIndexRequest:
        group.deliver(ReadIndexRequest)
    if lost is ReadIndexResponse:
        group.deliver(Heartbeat)
        group.deliver(HeartbeatResponse)
    assert group.pick(lost)
    group.drop()
    group.run(0.25)
    assert answers(group) == ["r"]


def test_repeated_and_late_answers_answer_nothing_else() -> None:
    group = led_by_1()
    ask(group, "a")
    group.settle()
    [old] = [m for m in group.sent if isinstance(m, ReadIndexResponse)]
    group.commit(b"x")
    ask(group, "b")
    group.receive(old)
    group.receive(old)
    assert answers(group) == ["a"]
    group.settle()
    assert answers(group) == ["a", "b"]
    assert group.nodes[2].reads[-1].index == 2


def test_an_answer_to_an_earlier_process_of_the_node_is_for_nobody() -> None:
    group = led_by_1()
    ask(group, "a")
    group.settle()
    [old] = [m for m in group.sent if isinstance(m, ReadIndexResponse)]
    group.crash(2)
    group.restart(2)
    group.nodes[2].reads.clear()
    group.commit(b"x")
    group.run(0.3)
    ask(group, "b")
    group.receive(old)
    assert not answers(group)
    group.settle()
    assert answers(group) == ["b"]


def test_without_a_leader_such_a_read_is_refused() -> None:
    group = Group(3)
    with pytest.raises(NotLeader):
        ask(group, "r")


def test_reads_are_refused_when_the_leader_changes() -> None:
    group = led_by_1()
    group.cut(1, 2)
    ask(group, "asked")
    ask(group, "waits")
    group.elect(3)
    group.settle()
    assert group.nodes[2].refused == ["asked", "waits"]
    ask(group, "again")
    group.settle()
    assert answers(group) == ["again"]


def test_reads_are_refused_when_the_leader_is_reported_down() -> None:
    group = led_by_1()
    ask(group, "r")
    group.report_down(2, 1)
    assert group.nodes[2].refused == ["r"]
    group.settle()
    assert not answers(group)


def test_a_cut_off_leader_confirms_no_read_of_its_last_follower() -> None:
    """Node 2 still believes in node 1, and both are cut off from what the others commit."""
    group = led_by_1(5, check_quorum=False)
    group.isolate(1, 2)
    group.elect(3)
    group.commit(b"new")
    group.run(0.2)
    assert group[2].leader == 1
    ask(group, "r")
    group.run(5.0)
    assert not answers(group)
    group.heal()
    group.run(1.0)
    assert group.nodes[2].refused == ["r"]


def test_no_index_is_given_before_the_leaders_noop() -> None:
    group = led_by_1()
    group.propose(b"x")
    group.settle()
    group.crash(1)
    group.now += 1.0
    group.drop()
    for id in (2, 3):
        group[id].tick(group.now)
    group.campaign(2)
    while not group[2].is_leader:
        group.deliver()
    group.deliver(Heartbeat)
    group[3].step(Heartbeat(group[2].term, 2, 3, commit=0))
    group.turn(3)
    ask(group, "r", at=3)
    group.deliver(ReadIndexRequest)
    group.deliver(Heartbeat)
    group.deliver(HeartbeatResponse)
    assert not group.pick(ReadIndexResponse)
    group.settle()
    assert group.nodes[3].reads == [ReadState(3, ["r"])]


def test_the_leader_answers_such_a_read_itself() -> None:
    group = led_by_1()
    ask(group, "r", at=1)
    group.settle()
    assert answers(group, 1) == ["r"]
    assert not group.count_sent(ReadIndexRequest)


def test_a_learner_may_ask() -> None:
    group = led_by_1()
    group.commit(b"x")
    group.join(4)
    group.change(Change(ChangeKind.ADD_LEARNER, 4))
    group.run(0.3)
    ask(group, "r", at=4)
    group.settle()
    assert group.nodes[4].reads == [ReadState(3, ["r"])]


def test_reads_of_a_learner_do_not_hang_on_a_leader_that_is_gone() -> None:
    """It never campaigns, and so would never give up a leader that nobody replaces."""
    group = led_by_1()
    group.join(4)
    group.change(Change(ChangeKind.ADD_LEARNER, 4))
    group.run(0.3)
    for id in (1, 2, 3):
        group.crash(id)
    ask(group, "r", at=4)
    group.run(2.1)
    assert group.nodes[4].refused == ["r"]
    with pytest.raises(NotLeader):
        ask(group, "s", at=4)


def test_a_request_of_a_stranger_is_left_alone() -> None:
    group = led_by_1()
    group.receive(ReadIndexRequest(1, 9, 1, 5))
    group.settle()
    assert not group.count_sent(ReadIndexResponse)


def test_a_request_is_repeated_in_time_and_not_more_often() -> None:
    reads = ForwardedReads(first_id=7)
    assert reads.request(0.0, patience=1.0) is None
    reads.add("a")
    assert reads.request(0.0, patience=1.0) == 8
    assert reads.request(0.9, patience=1.0) is None
    assert reads.request(1.0, patience=1.0) == 8
    assert reads.repeat_at == 2.0
    assert reads.answered(7, 5) is None
    assert reads.answered(8, 5) == ReadState(5, ["a"])
    assert reads.repeat_at == float("inf")
    assert reads.answered(8, 5) is None
    assert reads.drop_all() == []
