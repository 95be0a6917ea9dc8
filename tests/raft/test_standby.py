"""Followers that a quorum does not need get their entries a little later, many in one message (`standby_delay`)."""

from __future__ import annotations

from rayraft.raft.membership import Change, ChangeKind
from rayraft.raft.raft import Raft
from rayraft.raft.reads import RemoteRead
from rayraft.raft.ready import Joint
from rayraft.raft.types import AppendEntries, Configuration, Heartbeat, ReadIndexResponse, RequestVote
from tests.harness import Group

DELAY = 0.02


def led_by_1(size: int = 3, **settings: object) -> Group:
    group = Group(size, standby_delay=DELAY, **settings)  # type: ignore[arg-type]
    group.elect(1)
    group.run(0.2)
    group.sent.clear()
    return group


def appended(group: Group, to: int) -> list[bytes]:
    """The data of all entries that have left for ``to``, message by message."""
    return [
        b"".join(entry.data for entry in message.entries)
        for message in group.sent
        if isinstance(message, AppendEntries) and message.dst == to and message.entries
    ]


def test_a_quorum_gets_entries_at_once_and_the_others_get_many_together() -> None:
    group = led_by_1()
    for data in (b"a", b"b", b"c"):
        group.propose(data)
        group.settle()
    assert group[1].log.commit == group[1].log.last_index(), "the quorum suffices"
    assert appended(group, 2) == [b"a", b"b", b"c"]
    assert not appended(group, 3)
    group.run(DELAY * 1.01)
    assert appended(group, 3) == [b"abc"]
    group.run(DELAY)
    assert group.data(3) == [b"a", b"b", b"c"]


def test_the_news_of_a_commit_rides_on_what_waits_for_a_standby() -> None:
    group = led_by_1()
    group.propose(b"a")
    group.run(DELAY * 1.01)
    group.propose(b"b")
    group.sent.clear()
    group.run(DELAY * 1.01)
    assert appended(group, 3) == [b"b"]
    assert not group.count_sent(Heartbeat, dst=3)


def test_a_quorum_that_falls_silent_costs_one_delay_and_then_another_follower_takes_its_place() -> None:
    group = led_by_1()
    group.cut(1, 2)
    group.propose(b"a")
    group.settle()
    assert group[1].log.commit < group[1].log.last_index()
    group.run(DELAY * 1.01)
    assert group[1].log.commit == group[1].log.last_index(), "node 3 got it after the delay"
    group.propose(b"b")
    group.settle()
    assert group[1].log.commit == group[1].log.last_index(), "and is asked first from now on"


def test_a_follower_that_was_not_heard_of_for_long_is_none_of_the_first() -> None:
    group = led_by_1()
    group.cut(1, 2)
    group.run(0.35)
    group.propose(b"a")
    group.settle()
    assert group[1].log.commit == group[1].log.last_index()


def test_five_nodes_need_two_followers() -> None:
    group = led_by_1(5)
    group.propose(b"a")
    assert [len(appended(group, node)) for node in (2, 3, 4, 5)] == [1, 1, 0, 0]
    group.run(DELAY * 1.01)
    assert [len(appended(group, node)) for node in (2, 3, 4, 5)] == [1, 1, 1, 1]


def test_in_a_joint_phase_both_quorums_get_entries_at_once() -> None:
    group = led_by_1(5)
    swap = [Change(ChangeKind.REMOVE, 2), Change(ChangeKind.REMOVE, 3)]
    group.change(*swap, joint=Joint.EXPLICIT)
    group.settle()
    group.run(0.2)
    group.sent.clear()
    group.propose(b"a")
    first = [node for node in (2, 3, 4, 5) if appended(group, node)]
    assert len({1, *first} & {1, 4, 5}) >= 2, "a majority of the new voters"
    assert len({1, *first}) >= 3, "and of the old ones"
    group.settle()
    assert group[1].log.commit == group[1].log.last_index()


def test_a_full_node_comes_before_a_witness() -> None:
    group = Group(configuration=Configuration((1, 2, 3), witnesses=(2,), highest_id=3), standby_delay=DELAY)
    group.elect(1)
    group.run(0.2)
    group.sent.clear()
    group.propose(b"a")
    group.settle()
    assert appended(group, 3) == [b"a"]
    assert not group.count_sent(AppendEntries, dst=2)


def test_nobody_waits_while_leadership_is_handed_over() -> None:
    group = led_by_1()
    group.propose(b"a")
    assert not appended(group, 3)
    group.transfer(3)
    assert appended(group, 3) == [b"a"]
    group.settle()
    assert group.leader == 3


def test_reads_ask_the_first_followers_and_the_others_only_when_they_do_not_answer() -> None:
    group = led_by_1(heartbeat_interval=0.5)  # whose heartbeats do not come in between
    group.read("r")
    assert [message.dst for message in group.pick(Heartbeat)] == [2]
    group.settle()
    assert [state.tokens for state in group.nodes[1].reads] == [["r"]]
    group.cut(1, 2)
    group.read("s")
    group.settle()
    assert len(group.nodes[1].reads) == 1
    group.run(DELAY * 1.01)
    assert [state.tokens for state in group.nodes[1].reads] == [["r"], ["s"]]


def test_many_reads_do_not_keep_the_standbys_from_hearing_of_their_leader() -> None:
    group = led_by_1()
    for number in range(300):
        group.read(number)
        group.settle()
        group.run(0.01)
    assert group.leader == 1
    assert group[1].term == 1
    assert group.count_sent(Heartbeat, dst=3) <= 40, "one an interval"
    assert group.count_sent(RequestVote) == 0


def test_a_standby_that_never_quite_has_what_is_committed_stays_fresh_for_stale_reads() -> None:
    group = led_by_1()
    for _ in range(200):
        group.propose(b"x")
        group.settle()
        assert group[3].log.commit < group[1].log.commit
        assert group.now - group[3].fresh_as_of < 0.45, "a few heartbeats"
        group.run(0.005)


def test_a_standby_that_reads_gets_what_it_lacks_with_the_answer() -> None:
    group = led_by_1()
    group.propose(b"a")
    group.settle()
    assert group.data(3) == []
    group.read("r", 3, Raft.follower_read)
    group.settle()
    assert group.count_sent(ReadIndexResponse, dst=3) == 1
    assert [state.tokens for state in group.nodes[3].reads] == [["r"]]
    assert [entry.data for entry in group.nodes[3].applied if entry.data] == [b"a"], "no timer had to run out"


def test_a_node_that_is_gone_when_its_read_is_confirmed_is_brought_nothing() -> None:
    """Found by the simulator (seed 40654): the leader looked for what it knew of a node that had been removed."""
    group = led_by_1()
    leading = group[1].leading
    assert leading is not None
    leading.reads.add(RemoteRead(9, 1))
    group.turn(1)
    group.settle()
    assert group.count_sent(ReadIndexResponse, dst=9) == 1
    assert group.leader == 1


def test_after_a_crash_the_survivor_that_holds_more_campaigns_as_soon_as_the_other_asks() -> None:
    """The standby may be the first in rank; it can not win, and its question tells the other one that it must."""
    group = led_by_1(crash_stagger=0.05)
    group.cut(1, 2)
    group.run(0.35)
    group.propose(b"a")  # node 3 has it, and node 2 has not
    group.settle()
    group.crash(1)
    group.report_down(2, 1)
    group.report_down(3, 1)
    group.run(0.02)
    assert group.leader == 3
