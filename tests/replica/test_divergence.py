"""Replicas compare their states: who differs is found, stops serving, and is rebuilt; what is wrong does not spread."""

from __future__ import annotations

import dataclasses
import random
import time
from functools import partial
from typing import Any

import cloudpickle
import pytest

from rayraft.machine.determinism import Evidence, first_difference
from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import command, query
from rayraft.machine.requests import Consistency, Status
from rayraft.raft.types import AnyMessage, InstallSnapshot, NodeId, StateDigest
from rayraft.replica import Replica
from rayraft.replica.divergence import Verdict
from rayraft.simulation.plan import draw_plan
from rayraft.simulation.run import Simulation
from tests.replica.support import Caller, Group, ask, result_of, status_of


class Dice:
    """Every way in which a command can be wrong that three replicas in one process can show."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @command
    def keep(self, value: Any) -> None:
        self.seen.append(value)

    @command
    def roll(self, sides: int) -> None:
        self.seen.append(random.SystemRandom().randrange(sides))

    @command
    def stamp(self) -> None:
        self.seen.append(time.perf_counter_ns())

    @command
    def address(self) -> None:
        self.seen.append(id(self))

    @query
    def count(self) -> int:
        return len(self.seen)


def data_of(replica: Replica) -> dict[str, Any]:
    """What lies in the memory of one node: changing it is what a command must not be able to do."""
    data: dict[str, Any] = replica.machine.machine._object._data  # type: ignore[attr-defined]
    return data


def write(group: Group, caller: Caller, count: int, prefix: str = "k") -> None:
    for number in range(count):
        answers = caller.submit(group.elect(), "put", f"{prefix}{number}", number)
        group.until(partial(bool, answers))
        for _ in range(10):  # as a client would, when leadership changes meanwhile
            if status_of(answers) is Status.OK:
                break
            answers = caller.repeat(group.elect(), caller.number)
            group.until(partial(bool, answers))
        assert status_of(answers) is Status.OK


def compare(group: Group) -> None:
    """Have the leader open a round now, and wait for its verdict."""
    leader = group.elect()
    index = leader.raft.propose_digest()
    group.until(lambda: any(r.state_check.settled >= index for r in group.replicas.values()))


def healthy(group: Group) -> bool:
    return group.all_equal() and not any(replica.diverged for replica in group.replicas.values())


def stale_read(replica: Replica, *args: Any) -> list[bytes]:
    return ask(replica, "get", *args, reads=Consistency.STALE, max_age=1e9)


def no_snapshots(message: AnyMessage) -> bool:
    return isinstance(message, InstallSnapshot)


def corrupt(group: Group, *nodes: NodeId, value: Any = "wrong") -> None:
    for node in nodes:
        data_of(group[node])["k0"] = value


# --- nothing is wrong -------------------------------------------------------------------------------------------------


def test_a_healthy_group_compares_now_and_then_and_reports_nothing() -> None:
    group = Group(digest_entries=5)
    caller = Caller(group, group.elect())
    for _ in range(5):
        write(group, caller, 6)
        group.rest()
    for replica in group.replicas.values():
        assert replica.counters.digests >= 3
        assert replica.status().checked >= 20
        assert replica.status().divergence is None


def test_a_comparison_is_no_reason_for_another_one() -> None:
    group = Group(digest_entries=1)
    write(group, Caller(group, group.elect()), 3)
    for _ in range(50):
        group.step()
    last = group.elect().status().last_index
    for _ in range(200):
        group.step()
    assert group.elect().status().last_index == last
    assert last < 20


def test_a_group_of_one_agrees_with_itself() -> None:
    group = Group(digest_entries=1, voters=(1,), snapshot_entries=5)
    write(group, Caller(group, group.elect()), 20)
    assert group[1].status().checked > 0
    assert group[1].status().snapshot > 0


def test_without_digests_no_entry_is_spent_on_them() -> None:
    group = Group(digest_entries=0, snapshot_entries=10)
    write(group, Caller(group, group.elect()), 30)
    assert all(replica.counters.digests == 0 for replica in group.replicas.values())
    assert all(replica.status().snapshot > 0 for replica in group.replicas.values())


@pytest.mark.parametrize("seed", range(300, 316))
def test_with_any_trouble_a_healthy_group_reports_no_divergence(seed: int) -> None:
    check_simulated(seed)


def check_simulated(seed: int) -> None:
    plan = dataclasses.replace(draw_plan(seed, None, 10.0), digest_entries=3)
    simulation = Simulation(plan)
    simulation.run()  # an invariant fails where a divergence is found
    compared = [node.replica.state_check.checked for node in simulation.world.nodes.values() if node.replica]
    assert any(compared) or simulation.invariants.committed < 10


def test_digests_that_are_lost_are_told_again() -> None:
    group = Group(digest_entries=1000)
    write(group, Caller(group, group.elect()), 3)
    lost: list[AnyMessage] = []

    def lose(message: AnyMessage) -> bool:
        if isinstance(message, StateDigest) and len(lost) < 6:
            lost.append(message)
            return True
        return False

    group.lose = lose
    compare(group)
    assert len(lost) == 6
    group.until(lambda: all(replica.status().checked for replica in group.replicas.values()))


def test_the_next_leader_brings_a_round_to_its_end() -> None:
    group = Group(digest_entries=1000)
    caller = Caller(group, group.elect())
    write(group, caller, 3)
    group.lose = lambda message: isinstance(message, StateDigest)
    first = group.elect()
    mark = first.raft.propose_digest()
    group.until(lambda: all(replica.state_check.marked == mark for replica in group.replicas.values()))
    group.cut = {first.raft.id}
    group.lose = lambda message: False
    second = group.elect()
    group.until(lambda: second.status().checked == mark)
    group.cut = set()
    group.until(lambda: first.status().checked == mark)


def test_a_node_that_never_tells_is_not_waited_for_for_ever() -> None:
    group = Group(digest_entries=1000)
    write(group, Caller(group, group.elect()), 3)
    silent = group.followers()[0].raft.id
    group.lose = lambda message: isinstance(message, StateDigest) and message.src == silent
    compare(group)
    assert group.elect().status().checked > 0


# --- one differs ------------------------------------------------------------------------------------------------------


def check_a_follower_is_found_and_rebuilt(**settings: Any) -> Group:
    group = Group(digest_entries=1000, **settings)
    caller = Caller(group, group.elect())
    write(group, caller, 5)
    wrong = group.followers()[0]
    corrupt(group, wrong.raft.id)
    group.lose = no_snapshots  # so that there is time to look
    compare(group)
    group.until(lambda: wrong.diverged, seconds=5)
    found = wrong.status().divergence
    assert found is not None
    assert found.nodes == (wrong.raft.id,)
    assert found.by_majority
    assert str(wrong.raft.id) in str(found)
    refused = stale_read(wrong, "k0")
    group.step()
    assert status_of(refused) is Status.FAILED
    write(group, caller, 5, "later")  # its log is good: the group goes on with it
    others = {wrong.raft.id, group.elect().raft.id}
    group.cut = {node for node in (1, 2, 3) if node not in others}
    write(group, caller, 5, "quorum")
    group.cut = set()
    group.lose = lambda message: False
    group.until(lambda: healthy(group))
    assert wrong.counters.rebuilt == 1
    served = stale_read(wrong, "k0")
    group.step()
    assert result_of(served) == 0
    compare(group)
    group.until(lambda: wrong.status().divergence is not None and wrong.status().divergence.over)
    assert all(replica.status().checked > found.index for replica in group.replicas.values())
    return group


def test_a_follower_whose_memory_is_broken_is_found_and_rebuilt() -> None:
    check_a_follower_is_found_and_rebuilt()


def check_it_is_caught_up_in_steps() -> None:
    check_a_follower_is_found_and_rebuilt(chunk_bytes=60, max_apply_bytes=1)


def test_the_rebuilt_state_comes_in_many_chunks_and_is_caught_up_in_steps() -> None:
    check_it_is_caught_up_in_steps()


def test_every_node_knows_who_differed() -> None:
    group = check_a_follower_is_found_and_rebuilt()
    found = [replica.status().divergence for replica in group.replicas.values()]
    assert len({(item.index, item.nodes) for item in found if item is not None}) == 1
    assert None not in found


def check_a_leader_is_found() -> None:
    group = Group(digest_entries=1000)
    caller = Caller(group, group.elect())
    write(group, caller, 5)
    wrong = group.elect()
    corrupt(group, wrong.raft.id)
    waiting = []
    group.lose = no_snapshots
    wrong.raft.propose_digest()
    group.until(lambda: wrong.diverged, seconds=5)
    for read in (ask(wrong, "get", "k0"), stale_read(wrong, "k0")):
        waiting.append(read)
    waiting.append(caller.submit(wrong, "put", "k9", 9))
    group.until(lambda: all(waiting))
    assert all(status_of(answers) is not Status.OK for answers in waiting)
    assert not wrong.status().serves
    leader = group.elect()
    assert leader is not wrong
    assert result_of(caller_repeats(group, caller, leader)) is None
    group.lose = lambda message: False
    group.until(lambda: healthy(group))
    assert data_of(wrong)["k0"] == 0


def caller_repeats(group: Group, caller: Caller, leader: Replica) -> list[bytes]:
    answers = caller.repeat(leader, caller.number)
    group.until(lambda: answers)
    return answers


def test_a_leader_whose_state_is_wrong_makes_way_and_is_rebuilt() -> None:
    check_a_leader_is_found()


def test_where_only_the_wrong_one_can_lead_the_log_goes_on_and_nobody_is_answered_wrongly() -> None:
    group = Group(digest_entries=1000)
    caller = Caller(group, group.elect())
    write(group, caller, 5)
    wrong = group.elect()
    corrupt(group, wrong.raft.id)
    wrong.raft.propose_digest()
    group.lose = no_snapshots
    group.until(lambda: wrong.diverged and not wrong.raft.is_leader and group.elect())
    leader = group.elect()
    behind = next(r for r in group.replicas.values() if r is not leader and r is not wrong)
    group.cut = {behind.raft.id}
    write(group, caller, 3, "only two have it")
    group.kill(leader.raft.id)
    group.cut = set()
    group.until(lambda: behind.status().serves)  # the wrong one had to lead first, for only it had the whole log
    assert result_of(run(group, behind, "only two have it2")) == 2
    group.lose = lambda message: False
    group.until(lambda: healthy(group))
    assert data_of(wrong)["k0"] == 0


def run(group: Group, replica: Replica, key: str) -> list[bytes]:
    answers = ask(replica, "get", key)
    group.until(lambda: answers)
    return answers


def test_of_five_two_may_be_wrong_and_a_healthy_one_leads() -> None:
    group = Group(digest_entries=1000, voters=(1, 2, 3, 4, 5))
    caller = Caller(group, group.elect())
    write(group, caller, 5)
    wrong, other = group.elect(), group.followers()[0]
    corrupt(group, wrong.raft.id, value="one")
    corrupt(group, other.raft.id, value="two")
    group.lose = no_snapshots
    wrong.raft.propose_digest()
    group.until(lambda: wrong.diverged and other.diverged)
    assert group.elect() not in (wrong, other)
    found = group.elect().status().divergence
    assert found is not None
    assert found.nodes == tuple(sorted((wrong.raft.id, other.raft.id)))
    group.lose = lambda message: False
    group.until(lambda: healthy(group))
    assert {data_of(replica)["k0"] for replica in group.replicas.values()} == {0}


def test_where_the_third_node_is_gone_the_wrong_one_is_rebuilt_all_the_same() -> None:
    group = Group(digest_entries=1000)
    write(group, Caller(group, group.elect()), 5)
    wrong, third = group.followers()
    corrupt(group, wrong.raft.id)
    group.lose = no_snapshots
    compare(group)
    group.until(lambda: wrong.diverged)
    group.kill(third.raft.id)
    group.lose = lambda message: False
    group.until(lambda: wrong.counters.rebuilt == 1 and healthy(group))
    assert data_of(wrong)["k0"] == 0


def check_any_story(seed: int) -> None:
    """One node at a time may be wrong, nodes die and are cut off, states are saved: in the end all are right."""
    rng = random.Random(seed)
    group = Group(digest_entries=rng.choice((5, 15, 1000)), snapshot_trailing=rng.choice((0, 3)), chunk_bytes=200)
    caller = Caller(group, group.elect())
    write(group, caller, 1)
    group.until(lambda: all("k0" in data_of(replica) for replica in group.replicas.values()))
    for turn in range(rng.randrange(10, 40)):
        up, node = sorted(group.replicas), rng.choice((1, 2, 3))
        kind = rng.choice(("corrupt", "kill", "cut", "save", "compare", "write", "write", "write"))
        calm = len(up) == 3 and not group.cut
        if kind == "corrupt" and calm and healthy(group):
            corrupt(group, node, value=f"wrong {turn}")
        elif kind == "kill" and calm:
            group.kill(node)
        elif kind == "cut" and calm:
            group.cut = {node}
        elif kind == "save":
            group[rng.choice(up)].compaction.take()
        elif kind == "compare":
            group.elect().raft.propose_digest()
        elif kind == "write":
            write(group, caller, rng.randrange(1, 8), f"{turn}-")
        if not calm and rng.random() < 0.4:
            group.cut = set()
            for gone in {1, 2, 3} - set(group.replicas):
                group.start(gone)
        for _ in range(rng.choice((0, 3, 30))):
            group.step()
    group.cut = set()
    for gone in {1, 2, 3} - set(group.replicas):
        group.start(gone)
    group.until(lambda: len({replica.raft.log.applied for replica in group.replicas.values()}) == 1)
    compare(group)
    group.until(lambda: healthy(group), seconds=60)
    assert {data_of(replica)["k0"] for replica in group.replicas.values()} == {0}


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_any_story_ends_with_equal_and_right_states(first: int) -> None:
    for seed in range(first, first + 10):
        check_any_story(seed)


# --- restarts, snapshots ----------------------------------------------------------------------------------------------


def test_a_node_that_is_restarted_amid_its_rebuilding_comes_up_right() -> None:
    group = Group(digest_entries=1000)
    write(group, Caller(group, group.elect()), 5)
    wrong = group.followers()[0].raft.id
    corrupt(group, wrong)
    group.lose = no_snapshots
    compare(group)
    group.until(lambda: group[wrong].diverged)
    group.kill(wrong)
    group.start(wrong)
    group.until(lambda: healthy(group))
    assert data_of(group[wrong])["k0"] == 0


def test_a_node_that_replays_into_a_wrong_state_is_found_again() -> None:
    group = Group(Dice, digest_entries=1000)
    caller = Caller(group, group.elect())
    caller.run(group.elect(), "keep", 1)
    for replica in group.replicas.values():
        replica.compaction.take()
    group.elect().raft.propose_digest()
    group.until(lambda: all(replica.status().snapshot for replica in group.replicas.values()))
    caller.run(group.elect(), "roll", 10**9)
    group.until(lambda: len({replica.raft.log.applied for replica in group.replicas.values()}) == 1)
    first, *rest = group.replicas.values()
    for replica in rest:  # two agree, by chance as it were
        replica.machine.machine._object.seen[:] = [1, 7]  # type: ignore[attr-defined]
    wrong = first.raft.id
    group.lose = no_snapshots
    compare(group)
    group.until(lambda: group[wrong].diverged)
    group.kill(wrong)
    group.start(wrong)
    group.until(lambda: group[wrong].diverged)
    group.lose = lambda message: False
    group.until(lambda: healthy(group))
    assert group[wrong].machine.machine._object.seen == [1, 7]  # type: ignore[attr-defined]
    recorded = group.logs[wrong].snapshot().index
    group.kill(wrong)
    group.start(wrong)  # and what it has on its disk now is right
    assert recorded > 0
    group.until(lambda: healthy(group))
    assert group[wrong].machine.machine._object.seen == [1, 7]  # type: ignore[attr-defined]


def check_a_wrong_snapshot_does_not_spread() -> None:
    group = Group(digest_entries=1000, snapshot_trailing=0, election_timeout=1.0)
    caller = Caller(group, group.elect())
    write(group, caller, 5)
    wrong = group.elect()
    behind, third = group.followers()
    group.lose = lambda message: isinstance(message, StateDigest) and message.src == third.raft.id
    group.cut = {behind.raft.id}
    write(group, caller, 5, "without it")
    corrupt(group, wrong.raft.id)
    wrong.compaction.take()
    for _ in range(50):
        group.step()  # it is saved, and waits for the others' word
    group.cut = set()
    group.until(lambda: "without it4" in data_of(behind))
    assert data_of(behind)["k0"] == 0
    group.lose = lambda message: False
    group.until(lambda: wrong.counters.rebuilt == 1 and healthy(group))
    assert all(data_of(replica)["k0"] == 0 for replica in group.replicas.values())
    for node in list(group.replicas):  # nor is it on any disk
        group.kill(node)
        group.start(node)
    group.until(lambda: group.leader_among({1, 2, 3}) and healthy(group))
    assert all(data_of(replica)["k0"] == 0 for replica in group.replicas.values())


def test_the_snapshot_of_a_wrong_state_does_not_spread() -> None:
    check_a_wrong_snapshot_does_not_spread()


def test_a_snapshot_is_recorded_after_the_verdict_and_the_log_kept_until_then() -> None:
    group = Group(digest_entries=1000, snapshot_trailing=0)
    write(group, Caller(group, group.elect()), 5)
    group.lose = lambda message: isinstance(message, StateDigest)
    leader = group.elect()
    leader.compaction.take()
    for _ in range(20):
        group.step()
    assert leader.status().snapshot == 0
    assert leader.status().first_index == 1
    group.lose = lambda message: False
    group.until(lambda: leader.status().snapshot > 0)
    assert leader.status().first_index > 1


def test_without_a_verdict_the_log_is_cut_with_the_next_snapshot() -> None:
    group = Group(digest_entries=1000, snapshot_entries=20, snapshot_trailing=0)
    leader = group.elect()
    group.lose = lambda message: isinstance(message, StateDigest)
    caller = Caller(group, leader)
    write(group, caller, 20)  # whoever leads has saved its state once
    assert leader.status().snapshot == 0
    write(group, caller, 25)
    assert leader.status().snapshot > 0


# --- nobody knows who is right ----------------------------------------------------------------------------------------


def test_three_different_states_are_reported_by_all_and_serving_goes_on() -> None:
    group = Group(digest_entries=1000)
    caller = Caller(group, group.elect())
    write(group, caller, 5)
    corrupt(group, 1, value="one")
    corrupt(group, 2, value="two")
    compare(group)
    group.until(lambda: all(replica.status().divergence for replica in group.replicas.values()))
    for replica in group.replicas.values():
        found = replica.status().divergence
        assert found is not None
        assert (found.nodes, found.by_majority) == ((1, 2, 3), False)
        assert not replica.diverged
    write(group, caller, 5, "later")


def test_of_two_that_are_wrong_alike_the_third_is_overruled() -> None:
    """The majority decides: what it is right about is that all are alike again."""
    group = Group(digest_entries=1000)
    write(group, Caller(group, group.elect()), 5)
    corrupt(group, 1, 2)
    compare(group)
    group.until(lambda: group[3].counters.rebuilt == 1 and healthy(group))
    assert {data_of(replica)["k0"] for replica in group.replicas.values()} == {"wrong"}


def test_a_witness_takes_no_part_and_two_states_that_differ_are_both_suspected() -> None:
    group = Group(digest_entries=1000, witnesses=(3,), snapshot_entries=40)
    caller = Caller(group, group.elect())
    write(group, caller, 5)
    compare(group)
    group.until(lambda: group[1].status().checked and group[2].status().checked)
    assert group[3].counters.digests == 0
    corrupt(group, 1)
    compare(group)
    group.until(lambda: group[1].status().divergence and group[2].status().divergence)
    found = group[1].status().divergence
    assert found is not None
    assert (found.nodes, found.by_majority) == ((1, 2), False)
    assert group[3].status().divergence is None
    write(group, caller, 90, "later")
    assert group[1].status().snapshot > 0  # the log must be cut all the same


@pytest.mark.parametrize(
    ("voters", "digests", "agreed", "suspects"),
    [
        ((1, 2, 3), {1: b"a", 2: b"a", 3: b"b"}, b"a", (3,)),
        ((1, 2, 3), {1: b"a", 2: b"b", 3: b"c"}, b"", (1, 2, 3)),
        ((1, 2, 3), {1: b"a", 2: b"a"}, b"a", ()),
        ((1, 2, 3), {1: b"a"}, b"", ()),
        ((1, 2, 3, 4, 5), {1: b"a", 2: b"a", 3: b"b"}, b"", (3,)),
        ((1, 2), {1: b"a", 2: b"b"}, b"", (1, 2)),
        ((1, 2, 3), {1: b"a", 2: b"a", 4: b"b"}, b"a", (4,)),  # a learner does not decide, and is named
        ((1, 2, 3), {1: b"a", 4: b"b", 5: b"b"}, b"", (1,)),
        ((1, 2, 3), {}, b"", ()),
    ],
)
def test_a_majority_of_the_voters_decides(
    voters: tuple[int, ...], digests: dict[int, bytes], agreed: bytes, suspects: tuple[int, ...]
) -> None:
    verdict = Verdict(1, voters, digests)
    assert verdict.agreed() == agreed
    assert verdict.suspects() == suspects


# --- which command it was ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "args"), [("roll", (10**9,)), ("stamp", ()), ("address", ())])
def test_the_command_is_named_from_the_log(method: str, args: tuple[Any, ...]) -> None:
    group = Group(Dice, digest_entries=1000)
    evidence: list[Evidence] = []
    for replica in group.replicas.values():
        vars(replica)["_on_divergence"] = evidence.append
    caller = Caller(group, group.elect())
    for number in range(20):
        caller.run(group.elect(), "keep", number)
    group.elect().compaction.take()
    group.until(lambda: group.elect().status().snapshot)
    caller.run(group.elect(), "keep", 0)
    caller.run(group.elect(), method, *args)
    at = group.elect().raft.log.applied
    caller.run(group.elect(), "keep", 0)
    compare(group)
    group.until(lambda: evidence)
    assert evidence[0].snapshot
    found = first_difference(cloudpickle.dumps((Dice, (), {})), evidence[0])
    assert found is not None
    assert found.call == f"{method}({', '.join(map(repr, args))})"
    assert found.index == at
    leader = group.elect()
    leader.name_culprit(str(found))
    assert f"{method}(" in str(leader.status().divergence)


def test_where_replaying_gives_the_same_state_no_command_is_accused() -> None:
    group = Group(digest_entries=1000)
    write(group, Caller(group, group.elect()), 5)
    wrong = group.followers()[0]
    evidence: list[Evidence] = []
    vars(wrong)["_on_divergence"] = evidence.append
    corrupt(group, wrong.raft.id)
    compare(group)
    group.until(lambda: evidence)
    assert first_difference(cloudpickle.dumps((KeyValue, (), {})), evidence[0]) is None
