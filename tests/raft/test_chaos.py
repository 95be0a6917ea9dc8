"""The core under a random adversary: loss, repetition, reordering, cut links, crashes, pauses, false alarms,
compaction, clocks that differ within the bound, members that come and go, transfers, reads of every kind.

Safety is `Laws`, checked after every turn; when everything heals, the group must agree within bounded time.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest

from rayraft.raft.membership import Change, ChangeKind
from rayraft.raft.raft import Raft
from rayraft.raft.ready import Joint, ProposalRefused
from rayraft.raft.types import Configuration
from tests.harness import Clock, Group


@pytest.mark.parametrize("seed", range(60))
def test_safe_in_chaos_and_live_after_it(seed: int) -> None:
    agree_after_chaos(seed)


def test_one_seed_is_one_run() -> None:
    first, second = agree_after_chaos(7), agree_after_chaos(7)
    assert first.sent == second.sent


def agree_after_chaos(seed: int, steps: int = 300) -> Group:
    group = chaos(seed, steps)
    group.heal()
    for id, node in group.nodes.items():
        group.resume(id) if node.paused else None
        group.release_disk(id)
        if node.raft is None:
            group.restart(id)
    group.run(12.0)
    assert group.leader, "no leader, long after everything healed"
    assert not group[group.leader].transferring, "a transfer without end"
    group.commit(b"at last")
    group.run(1.0)
    configuration = group[group.leader].configuration
    assert not (configuration.is_joint and configuration.auto_leave), "a joint phase without end"
    members = set(configuration.members())
    assert group.leader in members, "a leader that was removed leads on"
    ends = {(group[id].log.last_index(), group[id].log.last_term()) for id in members}
    assert len(ends) == 1, "the logs differ, long after everything healed"
    full = members - set(configuration.witnesses)
    assert all(group.data(id) == group.data(group.leader) for id in full), "the states differ"
    return group


def chaos(seed: int, steps: int) -> Group:
    rng = random.Random(seed)
    voters = tuple(range(1, rng.choice((1, 3, 3, 3, 5, 5)) + 1))
    witnesses = voters[-1:] if len(voters) > 1 and rng.random() < 0.3 else ()
    settings = random_settings(rng)
    clocks = {id: Clock(rng.uniform(0.95, 1.05), rng.uniform(0, 9)) for id in voters}
    group = Group(
        configuration=Configuration(voters, witnesses=witnesses),
        seed=seed,
        clocks=clocks if settings["max_clock_drift"] else {},
        **settings,
    )
    group.elect(1)
    acts = [act for act in ACTS for _ in range(rng.choice((0, ACTS[act], 2 * ACTS[act])))]
    acts += [deliver_all, deliver_one, propose, pass_time]
    for _ in range(steps):
        rng.choice(acts)(group, rng)
    return group


def random_settings(rng: random.Random) -> dict[str, Any]:
    check_quorum = rng.random() < 0.8
    return {
        "check_quorum": check_quorum,
        "max_clock_drift": rng.choice((None, 0.1)) if check_quorum else None,
        "max_promotion_lag": rng.choice((0, 1000)),
        "pre_vote": rng.random() < 0.8,
        "max_append_bytes": rng.choice((1, 40, 1 << 20)),
        "max_inflight_messages": rng.choice((1, 2, 8)),
        "max_inflight_bytes": rng.choice((1, 100, 1 << 20)),
        "max_uncommitted_bytes": rng.choice((1, 1 << 20)),
        "cache_bytes": rng.choice((0, 60, 1 << 20)),
        "max_apply_bytes": rng.choice((1, 1 << 20)),
        "commit_notice_delay": rng.choice((0.0, 0.01)),
    }


def some_node(group: Group, rng: random.Random) -> int:
    return rng.choice([id for id, _ in group.up() if not group.nodes[id].paused] or [0])


def some_leader(group: Group, rng: random.Random) -> int:
    return rng.choice([id for id, raft in group.up() if raft.is_leader and not group.nodes[id].paused] or [0])


def deliver_one(group: Group, rng: random.Random) -> None:
    if group.wire:
        group.receive(group.wire.pop(rng.randrange(len(group.wire))))


def deliver_all(group: Group, rng: random.Random) -> None:
    group.deliver()


def repeat_one(group: Group, rng: random.Random) -> None:
    """Any message of the past may come again, however old."""
    if group.sent:
        group.receive(rng.choice(group.sent[-rng.choice((5, 1000)) :]))


def lose_one(group: Group, rng: random.Random) -> None:
    if group.wire:
        group._report(group.wire.pop(rng.randrange(len(group.wire))), delivered=False)


def step_many_in_one_turn(group: Group, rng: random.Random) -> None:
    """A busy node takes in all that waits for it before it writes or answers."""
    if id := some_node(group, rng):
        messages = [m for m in group._take(object, {"dst": id}) if (m.src, id) not in group.severed]
        rng.shuffle(messages)
        for message in messages:
            group.step(message)
        group.turn(id)


def pass_time(group: Group, rng: random.Random) -> None:
    group.tick(rng.choice((0.01, 0.1, 0.5, 1.0)))


def propose(group: Group, rng: random.Random) -> None:
    if id := some_leader(group, rng):
        with suppress(ProposalRefused):
            group.propose(*(b"%d" % rng.randrange(1000) for _ in range(rng.choice((1, 3)))), at=id)


def read(group: Group, rng: random.Random) -> None:
    if id := some_leader(group, rng):
        group.read(len(group.laws._read_floors), id, rng.choice((Raft.read_index, Raft.lease_read)))


def follower_read(group: Group, rng: random.Random) -> None:
    if id := some_node(group, rng):
        with suppress(ProposalRefused):
            group.read(len(group.laws._read_floors), id, Raft.follower_read)


def transfer(group: Group, rng: random.Random) -> None:
    if id := some_leader(group, rng):
        with suppress(ProposalRefused):
            group.transfer(rng.choice(list(group.nodes)), at=id)


def prefer(group: Group, rng: random.Random) -> None:
    if id := some_leader(group, rng):
        with suppress(ProposalRefused):
            group[id].propose_preferred([rng.choice(list(group.nodes))])
            group.turn(id)


def change_members(group: Group, rng: random.Random) -> None:
    if id := some_leader(group, rng):
        changes = [random_change(group, id, rng) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
        how = rng.choice(list(Joint)) if changes else Joint.AUTO
        with suppress(ProposalRefused):
            group.change(*changes, at=id, joint=how, careful=rng.random() < 0.7)


def random_change(group: Group, id: int, rng: random.Random) -> Change:
    """Of a member, or a new node, which comes up at once."""
    members = list(group[id].configuration.members())
    if rng.random() < 0.4 and len(group.nodes) < 9:
        new = max(group.nodes) + 1
        group.join(new)
        return Change(rng.choice((ChangeKind.ADD_LEARNER, ChangeKind.ADD_VOTER, ChangeKind.ADD_WITNESS)), new)
    kinds = (ChangeKind.ADD_LEARNER, ChangeKind.ADD_VOTER, ChangeKind.ADD_VOTER, ChangeKind.REMOVE)
    return Change(rng.choice(kinds), rng.choice(members))


def pause(group: Group, rng: random.Random) -> None:
    if id := some_node(group, rng):
        group.pause(id)


def resume(group: Group, rng: random.Random) -> None:
    for id, node in group.nodes.items():
        if node.paused:
            group.resume(id)


def crash(group: Group, rng: random.Random) -> None:
    if id := some_node(group, rng):
        group.crash(id)


def restart(group: Group, rng: random.Random) -> None:
    if down := [id for id, node in group.nodes.items() if node.raft is None]:
        group.restart(rng.choice(down))


def hold_disk(group: Group, rng: random.Random) -> None:
    if id := some_node(group, rng):
        group.hold_disk(id)


def release_disk(group: Group, rng: random.Random) -> None:
    for id in group.nodes:
        group.release_disk(id)


def cut(group: Group, rng: random.Random) -> None:
    group.severed.add((rng.choice(list(group.nodes)), rng.choice(list(group.nodes))))


def isolate(group: Group, rng: random.Random) -> None:
    group.isolate(*rng.sample(list(group.nodes), rng.randrange(len(group.nodes))))


def heal(group: Group, rng: random.Random) -> None:
    group.heal()


def compact(group: Group, rng: random.Random) -> None:
    id = some_node(group, rng)
    if id and group[id].log.applied > group.nodes[id].store.snapshot().index and not group.nodes[id].unfinished:
        group.compact(id, keep=rng.choice((0, 2)))


def alarm(group: Group, rng: random.Random) -> None:
    if id := some_node(group, rng):
        group.report_down(id, rng.choice((group.leader, rng.choice(list(group.nodes)))))


def report_lost(group: Group, rng: random.Random) -> None:
    if id := some_node(group, rng):
        group[id].report_unreachable(rng.choice(list(group.nodes)))


ACTS = {
    deliver_all: 2,
    repeat_one: 2,
    lose_one: 2,
    step_many_in_one_turn: 2,
    propose: 3,
    read: 2,
    crash: 1,
    restart: 2,
    hold_disk: 1,
    release_disk: 2,
    cut: 1,
    isolate: 1,
    heal: 1,
    compact: 1,
    follower_read: 2,
    transfer: 1,
    prefer: 1,
    change_members: 2,
    pause: 1,
    resume: 2,
    alarm: 1,
    report_lost: 1,
}
