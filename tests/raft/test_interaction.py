"""Whole groups played step by step, against what the reference library did in the same scenario.

`DIFFERENCES` is the one place that says where our core answers otherwise, and why; what holds for every file is said at
the top of `tests.interaction`. A difference that is listed and does not show fails the test, as one that shows and is
not listed does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rayraft.raft import quorum
from rayraft.raft.elections import Elections
from rayraft.raft.leader import Leader
from rayraft.raft.log import RaftLog
from rayraft.raft.progress import Progress
from tests import scenarios
from tests.interaction import Difference, Mismatch, play, play_settled
from tests.raft.interaction_differences import DIFFERENCES
from tests.reference_output import OutputReader
from tests.scenarios import ScenarioError, Stanza

# How many values are compared in each file; a further file needs no entry.
COMPARED: dict[str, int] = {
    "async_storage_writes": 396,
    "campaign": 61,
    "campaign_learner_must_vote": 43,
    "checkquorum": 96,
    "confchange_v1_add_single": 40,
    "confchange_v1_remove_leader": 104,
    "confchange_v2_add_double_auto": 191,
    "confchange_v2_add_double_implicit": 56,
    "confchange_v2_add_single_explicit": 88,
    "forget_leader": 54,
    "prevote": 98,
    "probe_and_replicate": 241,
    "single_node": 13,
    "slow_follower_after_compaction": 12,
    "snapshot_succeed_via_app_resp": 35,
}


FILES = scenarios.scenario_files("interaction")


def listed_for(path: Path) -> dict[str, Difference]:
    return {where: found for where, found in DIFFERENCES.items() if where.startswith(f"{path.name}:")}


@pytest.mark.parametrize("path", FILES)
def test_reference_scenarios(path: Path) -> None:
    stanzas = scenarios.read(path)
    try:
        comparison = play(stanzas, listed_for(path))
    except Mismatch as difference:
        if path.stem in COMPARED:
            raise
        # Nobody has looked at this file yet: it must agree where all has come to rest, and the difference is told.
        if play_settled(stanzas) == 0:
            raise
        warnings.warn(
            f"compared only where it has come to rest, since there is a difference: {difference}", stacklevel=1
        )
        return
    assert comparison.compared == COMPARED.get(path.stem, comparison.compared) > 0
    assert comparison.used == listed_for(path).keys(), "these differences are listed and do not show"


# --- does the comparison see a wrong value? ---------------------------------------------------------------------------

# What is compared, as a pattern with the value in its group; such a line is changed, and must be missed.
VALUES = {
    "start": r"newRaft .* commit: (\d+)",
    "configuration applied": r"switched to configuration voters=\((\d)",
    "leader": r"^ *Lead:(\d+)",
    "role": r"^ *Lead:\d+ State:State(\w+)",
    "term written": r"^ *HardState Term:(\d+)",
    "vote written": r"^ *HardState .*Vote:(\d+)",
    "commit index": r"^ *HardState .*Commit:(\d+)",
    "term of an entry": r"^ *(\d+)/\d+ Entry",
    "index of an entry": r"^ *\d+/(\d+) Entry",
    "data of an entry": r'^ *\d+/\d+ EntryNormal "(\w+)"',
    "sender": r"^ *(\d)->\d Msg",
    "receiver": r"^ *\d->(\d) Msg",
    "kind of message": r"^ *\d->\d Msg(\w+) ",
    "term of a message": r"^ *\d->\d Msg.* Term:(\d+)",
    "index of a vote request": r"Vote Term:\d+ Log:\d+/(\d+)",
    "last term of a vote request": r"Vote Term:\d+ Log:(\d+)/",
    "index before an append": r"MsgApp Term:\d+ Log:\d+/(\d+) ",
    "term before an append": r"MsgApp Term:\d+ Log:(\d+)/\d+ ",
    "entry of an append": r"MsgApp Term:.*Entries:\[\d+/(\d+)",
    "index acknowledged": r"MsgAppResp Term:\d+ Log:0/(\d+)$",
    "index refused": r"MsgAppResp Term:\d+ Log:\d+/(\d+) Rejected",
    "append refused": r"MsgAppResp .*( Rejected .*)",
    "vote refused": r"VoteResp .*( Rejected .*)",
    "commit of an append": r"MsgApp .*Commit:(\d+)",
    "words of a membership change": r"EntryConfChange\w* \w(\d+)",
    "write of a thread": r"AppendThread Msg.*Entries:\[\d+/(\d+)",
    "promised after a write": r"^    \d->\d MsgAppResp .*/(\d+)",
    "place where there is none": r"MsgHeartbeat.* Log:0/(\d)",
    "commit of a heartbeat": r"MsgHeartbeat .*Commit:(\d+)",
    "index of a snapshot": r"Snapshot:? Index:(\d+)",
    "configuration of a snapshot": r"ConfState:Voters:\[(\d)",
    "printed role": r"^\d: State(\w+) \(",
    "printed voter": r"^\d: State\w+ \((Voter)\)",
    "printed term": r"^\d: State.* Term:(\d+)",
    "printed leader": r"^\d: State.* Lead:(\d+)",
    "progress": r"^\d: State(\w+) match=",
    "match": r"^\d: State.* match=(\d+)",
    "next": r"^\d: State(?!Snapshot).* next=(\d+)",
    "pause": r"^\d: State.*( paused)",
    "inflight": r"^\d: State.* inflight=(\d+)",
    "snapshot under way": r"^\d: State.* pendingSnap=(\d+)",
    "message dropped": r"^dropped: .*Entries:\[\d+/(\d+)",
    "proposal refused": r"^raft proposal (dropped)",
}


def changed(value: str) -> str:
    if value.isdigit():
        return str(int(value) + 7)
    return "" if value.startswith(" ") else f"{value}x"


def spoiled(stanzas: Sequence[Stanza], pattern: str) -> Iterator[list[Stanza]]:
    """The scenario with the last such value of it changed, up to that stanza."""
    for position in reversed(range(len(stanzas))):
        stanza = stanzas[position]
        lines = list(stanza.expected)
        for number in reversed(range(len(lines))):
            if found := re.search(pattern, lines[number]):
                lines[number] = lines[number][: found.start(1)] + changed(found[1]) + lines[number][found.end(1) :]
                yield [*stanzas[:position], dataclasses.replace(stanza, expected=tuple(lines))]
                return


def stanzas_of(stem: str) -> list[Stanza]:
    path = scenarios.directory() / "interaction" / f"{stem}.txt"
    if not path.exists():
        pytest.skip(f"no {path}: set RAYRAFT_SCENARIOS")
    return scenarios.read(path)


def all_scenarios() -> Iterator[tuple[list[Stanza], dict[str, Difference]]]:
    paths = sorted((scenarios.directory() / "interaction").glob("*.txt"))
    if not paths:
        pytest.skip(f"no scenario files in {scenarios.directory()}: set RAYRAFT_SCENARIOS to their directory")
    for path in paths:
        yield scenarios.read(path), listed_for(path)


@pytest.mark.parametrize("value", VALUES)
def test_a_wrong_value_is_noticed(value: str) -> None:
    noticed = 0
    for stanzas, listed in [*all_scenarios(), (own_scenario(), {})]:
        for wrong in spoiled(stanzas, VALUES[value]):
            with pytest.raises((Mismatch, ScenarioError)):
                play(wrong, listed)
            noticed += 1
    assert noticed, "no file has such a value"


NUMBER = re.compile(r"\d+")
OF_THE_LOG = ("DEBUG ", "INFO ", "WARN ", "ERROR ")


def each_number_changed(stanzas: Sequence[Stanza], stride: int) -> Iterator[tuple[str, list[Stanza]]]:
    """The scenario with one number of its expected output raised by one: each of them in turn, or every so manieth."""
    places = [
        (position, number, found)
        for position, stanza in enumerate(stanzas)
        for number, line in enumerate(stanza.expected)
        if not line.strip().startswith(OF_THE_LOG)
        for found in NUMBER.finditer(line)
    ]
    for position, number, found in places[::stride]:
        lines = list(stanzas[position].expected)
        lines[number] = f"{found.string[: found.start()]}{int(found[0]) + 1}{found.string[found.end() :]}"
        wrong = dataclasses.replace(stanzas[position], expected=tuple(lines))
        yield f"{wrong.where}: {lines[number]}", [*stanzas[:position], wrong, *stanzas[position + 1 :]]


@pytest.mark.parametrize("stride", [151, pytest.param(7, marks=pytest.mark.slow)])
def test_nearly_every_number_counts(stride: int) -> None:
    """The hint in a refusal is not compared, and little else."""
    missed, tried = [], 0
    for stanzas, listed in all_scenarios():
        for what, wrong in each_number_changed(stanzas, stride):
            tried += 1
            with contextlib.suppress(Mismatch, ScenarioError):
                play(wrong, listed)
                missed.append(what)
    assert len(missed) <= 0.03 * tried, f"{len(missed)} of {tried}: {missed}"


# --- does it see a wrong core? ----------------------------------------------------------------------------------------

MUTATIONS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "half is a majority": (quorum, "majority", lambda n: n // 2, "campaign"),
    "votes for a shorter log": (RaftLog, "is_up_to_date", lambda *_: True, "prevote"),
    "votes while a leader is near": (Elections, "_hears_from_leader", lambda _: False, "checkquorum"),
    "leads on without a quorum": (Leader, "_quorum_active", lambda _: True, "checkquorum"),
    "tells nobody of a commit": (Leader, "_notify_commit", lambda _: None, "campaign"),
    "probes one entry at a time": (RaftLog, "conflict", lambda _, index: (0, index), "probe_and_replicate"),
    "never ends a snapshot": (Progress, "become_replicate", lambda _: None, "snapshot_succeed_via_app_resp"),
    "never leaves the joint phase": (Leader, "_append_leave", lambda *_: None, "confchange_v2_add_double_auto"),
    "leads on when removed": (Leader, "_resign", lambda _: None, "confchange_v1_remove_leader"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_core_is_noticed(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, name, wrong, stem = MUTATIONS[mutation]
    stanzas, listed = stanzas_of(stem), listed_for(Path(f"{stem}.txt"))
    assert play(stanzas, listed).compared
    monkeypatch.setattr(target, name, wrong)
    with pytest.raises(Mismatch):
        play(stanzas, listed)


# Files with listed differences: how many values agree where all has come to rest, without any list.
AT_REST = {
    "confchange_v1_add_single": 8,
    "confchange_v1_remove_leader": 24,
    "confchange_v2_add_double_auto": 24,
    "confchange_v2_add_double_implicit": 8,
    "confchange_v2_add_single_explicit": 24,
}


@pytest.mark.parametrize("stem", AT_REST)
def test_a_file_that_nobody_looked_at_is_compared_where_it_has_come_to_rest(stem: str) -> None:
    stanzas = stanzas_of(stem)
    with pytest.raises(Mismatch):
        play(stanzas)
    assert play_settled(stanzas) == AT_REST[stem]


NEW_FILE = """
add-nodes 1 voters=(1) index=3
----
INFO 1 switched to configuration voters=(1)
INFO newRaft 1 [peers: [1], term: 0, commit: 3, applied: 3, lastindex: 3, lastterm: 1]

campaign 1
----
ok

stabilize
----
> 1 handling Ready
  Lead:0 State:StateCandidate
> 1 handling Ready
  Lead:1 State:StateLeader
  HardState Term:1 Vote:1 Commit:4
  Entries:
  1/4 EntryNormal ""
  CommittedEntries:
  1/4 EntryNormal ""

raft-state
----
1: StateLeader (Voter) Term:1 Lead:1
"""


def test_a_new_file_needs_no_change_here(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_text(NEW_FILE)
    test_reference_scenarios(path)
    path.write_text(NEW_FILE.replace("  Lead:0 State:StateCandidate\n", ""))
    with pytest.warns(
        UserWarning, match=r"(?s)new.txt:11: stabilize: .*leaders and roles of 1:\n\+ StateCandidate of 0"
    ):
        test_reference_scenarios(path)
    path.write_text(NEW_FILE.replace("Commit:4", "Commit:5"))
    with pytest.raises(Mismatch, match="commit index of 1: 5"):
        test_reference_scenarios(path)


@pytest.mark.parametrize("value", ["term written", "commit index", "role", "printed leader", "configuration applied"])
def test_a_wrong_value_is_noticed_where_all_has_come_to_rest(value: str) -> None:
    noticed = 0
    for stanzas, _ in all_scenarios():
        for wrong in spoiled(stanzas, VALUES[value]):
            try:
                play_settled([*wrong, *scenarios.parse("stabilize\n----\n")])
            except Mismatch:
                noticed += 1
    assert noticed >= 2


# --- the runner itself ------------------------------------------------------------------------------------------------

OWN_SCENARIO = """
add-nodes 3 voters=(1,2,3) learners=() index=5 content=abc read-only=lease-based
----
INFO 1 switched to configuration voters=(1 2 3)
INFO newRaft 1 [peers: [1,2,3], term: 0, commit: 5, applied: 5, lastindex: 5, lastterm: 1]
INFO 2 switched to configuration voters=(1 2 3)
INFO newRaft 2 [peers: [1,2,3], term: 0, commit: 5, applied: 5, lastindex: 5, lastterm: 1]
INFO 3 switched to configuration voters=(1 2 3)
INFO newRaft 3 [peers: [1,2,3], term: 0, commit: 5, applied: 5, lastindex: 5, lastterm: 1]

propose 2 nobody_leads
----
raft proposal dropped

set-randomized-election-timeout 1 timeout=3
----
ok

tick-election 1
----
INFO 1 is starting a new election at term 0

stabilize log-level=none
----
ok

raft-log 1
----
1/6 EntryNormal ""

propose 2 asked_elsewhere
----
ok

stabilize log-level=none
----
ok

report-unreachable 1 2
----
ok

status 1
----
1: StateReplicate match=7 next=8
2: StateProbe match=7 next=8
3: StateReplicate match=7 next=8

transfer-leadership from=1 to=3
----
ok

process-ready 1
----
Ready MustSync=false:
Messages:
1->3 MsgTimeoutNow Term:1 Log:0/0

deliver-msgs 3 type=MsgTimeoutNow
----
1->3 MsgTimeoutNow Term:1 Log:0/0

stabilize log-level=none
----
ok

raft-state
----
1: StateFollower (Voter) Term:2 Lead:3
2: StateFollower (Voter) Term:2 Lead:3
3: StateLeader (Voter) Term:2 Lead:3

_breakpoint
----
ok

send-snapshot 3 2
----
3->2 MsgSnap Term:2 Log:0/0
  Snapshot: Index:8 Term:2 ConfState:Voters:[1 2 3] VotersOutgoing:[] Learners:[] LearnersNext:[] AutoLeave:false
"""


def test_a_term_may_change_while_the_disk_writes() -> None:
    text = """
add-nodes 3 voters=(1,2,3) index=5 async-storage-writes=true
----
INFO 1 switched to configuration voters=(1 2 3)
INFO newRaft 1 [peers: [1,2,3], term: 0, commit: 5, applied: 5, lastindex: 5, lastterm: 1]
INFO 2 switched to configuration voters=(1 2 3)
INFO newRaft 2 [peers: [1,2,3], term: 0, commit: 5, applied: 5, lastindex: 5, lastterm: 1]
INFO 3 switched to configuration voters=(1 2 3)
INFO newRaft 3 [peers: [1,2,3], term: 0, commit: 5, applied: 5, lastindex: 5, lastterm: 1]

log-level none
----
ok

campaign 2
----
ok

process-ready 2
----
ok

campaign 2
----
ok

process-append-thread 2
----
ok

stabilize
----
ok

log-level info
----
ok

raft-state
----
1: StateFollower (Voter) Term:2 Lead:2
2: StateLeader (Voter) Term:2 Lead:2
3: StateFollower (Voter) Term:2 Lead:2
"""
    assert play(list(scenarios.parse(text, "own"))).compared == 18


def own_scenario() -> list[Stanza]:
    return list(scenarios.parse(OWN_SCENARIO, "own"))


def test_commands_that_the_files_do_not_use() -> None:
    assert play(own_scenario()).compared == 26


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conquer 1\n----\nok\n", "own:1: no such command: conquer"),
        ("add-nodes 1 voters=(1) colour=red\n----\nok\n", "own:1: add-nodes has no option colour"),
        (
            "log-level info\n----\na new kind of line\n",
            "own:1: no meaning is known for the output 'a new kind of line'",
        ),
        ("log-level none\n----\n1/3 EntryNormal\n", "own:1: output while there is to be none"),
        ("stabilize\n----\n> 1 handling Ready\n2->1 MsgAppResp Term:1 Log:0/1\n", "of 1 is a message of 2"),
        ("stabilize\n----\n1->2 MsgHeartbeat Term:1 Log:0/7\n", "a MsgHeartbeat with a place in the log: 0/7"),
    ],
)
def test_what_is_not_known_is_named(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(message)):
        play(list(scenarios.parse(text, "own")))


def test_a_difference_must_show_as_it_is_listed() -> None:
    stanzas = list(scenarios.parse("raft-state\n----\n1: StateLeader (Voter) Term:1 Lead:1\n", "own"))
    listed = "printed:\n- 1: StateLeader (Voter) Term:1 Lead:1"
    assert play(stanzas, {"own:1": Difference("no reason", listed)}).used == {"own:1"}
    for other in ("", listed.replace("Term:1", "Term:2"), f"{listed}\n+ more"):
        with pytest.raises(Mismatch, match="what differs"):
            play(stanzas, {"own:1": Difference("no reason", other)})


MESSAGES = """Messages:
1->2 MsgApp Term:2 Log:1/3 Commit:4 Entries:[
  1/4 EntryNormal "a"
  2/5 EntryConfChangeV2 v2
]
1->AppendThread MsgStorageAppend Term:2 Log:0/0 Commit:4 Entries:[
  1/4 EntryNormal "a"
  2/5 EntryNormal ""
] Responses:[
  1->1 MsgAppResp Term:1 Log:0/11
  ApplyThread->1 MsgStorageApplyResp Term:0 Log:0/0 Entries:[
    1/4 EntryNormal "a"
  ]
]
1->AppendThread MsgStorageAppend Term:2 Log:0/0
  Snapshot: Index:8 Term:2 ConfState:Voters:[1] VotersOutgoing:[] Learners:[] LearnersNext:[] AutoLeave:false
1->3 MsgHeartbeat Term:2 Log:0/0 Commit:4
"""


def test_messages_over_several_lines_are_read() -> None:
    record = OutputReader(MESSAGES.splitlines(), "own:1", "process-ready", "1").read()
    found = {str(key): [str(item) for item in items] for key, items in record.streams.items()}
    assert found == {
        "messages sent of 1->2": ['MsgApp 2 after 1/3 commit 4: 1/4 "a", 2/5 EntryConfChangeV2 v2'],
        "work handed to the threads of append of 1": [
            '1/4 "a" 2/5 "" (term 2, vote 0, commit 4)',
            "(term 2, vote 0, commit 0)",
        ],
        "messages to be sent after a write of 1->1": ["MsgAppResp 1 up to 11"],
        "messages to be sent after a write of ApplyThread->1": ['applied 1/4 "a"'],
        "messages sent of 1->3": ["MsgHeartbeat 2 commit 4"],
    }


def test_a_bracket_that_is_not_closed_is_named() -> None:
    with pytest.raises(ScenarioError, match="own:1: a bracket is not closed"):
        OutputReader(["1->2 MsgApp Term:2 Log:1/3 Commit:4 Entries:["], "own:1", "stabilize", "1").read()
