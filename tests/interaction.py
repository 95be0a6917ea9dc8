"""Plays the reference library's interaction scenarios on our core, and compares what is contract.

`play` runs each command on a `Cluster` and compares the `Record` of what happened with the one read from the expected
output. Both grow through the file, so that an element which came too early or too late is found however the reference
and our core group their work within one command.

Compared are, per node, the entries written and applied, snapshots, terms and votes, leaders and roles, commit indexes
and configurations; per channel every message sent, received, dropped, or held back behind a write, with all that it
says; what is handed to the disk and to the machine where these are slow; and every printed line.

What is never compared, whatever the file:

- the wording of the log, but for configurations and the state at the start; ``MustSync``; how many Readys there were;
- the hint in a refusal: ours names the conflicting term and its first index instead (§5.3);
- in ``status`` the word ``inactive``, since ours judges activity by the time of the last answer, and ``next`` while a
  snapshot is under way, since nothing is sent by it.

Where ours does another thing at another moment, the runner stands in, so that what follows can be compared:

- ours sends entries once for all that a turn has brought: it is asked to after every proposal and every message;
- ours tells of a commit with the next append, or by a heartbeat to those known to hold the entry. The runner takes such
  heartbeats back and sends the reference's empty appends, with the index and the commit of our leader;
- a lone voter of ours leads at once, in one write; told in the three steps of the reference;
- ours writes once at a time. With ``async-storage-writes`` the core is called again before a write has ended, and its
  vote requests and heartbeat answers do not wait for the write, which ours makes them;
- a leader of ours that removes itself hands over; the reference goes on, and its file calls that a fault. The order to
  campaign is lost on its way; with ``step-down-on-removal`` the time to wait for it is over at once;
- ``forget-leader`` clears the field (ours has `report_down`, which also campaigns soon), but not where reads rely on
  leases; a proposal at a follower goes to its leader, as a client would send it; where ours refuses a change of
  membership, an empty entry is proposed, as the reference logs one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests import scenarios
from tests.interaction_cluster import Cluster, Member, comparable_line, configuration_text
from tests.reference_output import Aspect, Key, OutputReader, Record, without_repeats
from tests.scenarios import ScenarioError, Stanza


class Mismatch(AssertionError):
    """The core did not do what the scenario expects."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How our core answers one stanza otherwise, on purpose. It must be exactly this, and all else is compared as ever.

    ``diff`` has what differs up to here in the notation of `diff_of`: headings, what only the reference has after ``-``
    and what only ours has after ``+``.
    """

    reason: str
    diff: str = ""
    apart: bool = False  # what differs is left behind; else it is told again at every stanza, until both agree
    before: tuple[str, ...] = ()  # commands that our core needs before it


@dataclass(slots=True)
class Comparison:
    compared: int = 0
    used: set[str] = field(default_factory=set)  # the stanzas whose listed difference showed


def play(
    stanzas: Sequence[Stanza], differences: Mapping[str, Difference] | None = None, cluster: Cluster | None = None
) -> Comparison:
    """Run a scenario and compare it; raises Mismatch at the first value that is not as expected."""
    return _Player(differences or {}, cluster or Cluster()).play(stanzas)


def play_settled(stanzas: Sequence[Stanza]) -> int:
    """Run a scenario and compare only where all has come to rest: after each ``stabilize`` of the whole cluster.

    Compared are term, vote, commit index, leader, role and configuration of every node as the reference last told them,
    and what raft-state, raft-log and status print while nothing else has happened. Returns how many values.
    """
    cluster, told = Cluster(), Record()
    compared, settled = 0, True
    for stanza in stanzas:
        _, printed = cluster.run(stanza)
        if stanza.command not in (*PRINTING, "log-level"):
            settled = stanza.command == "stabilize" and len(stanza.positional) in (0, len(cluster.members))
        if cluster.quiet or stanza.option("log-level") == "none":
            told = Record()
        elif stanza.command not in PRINTING:
            told.extend(output_of(stanza))
            compared += _equal(stanza, *_told_and_found(told, cluster)) if settled else 0
        elif settled:
            compared += _equal(stanza, [comparable_line(line.strip()) for line in stanza.expected], printed)
    return compared


def output_of(stanza: Stanza) -> Record:
    node = stanza.positional[0] if stanza.positional else ""
    return OutputReader(stanza.expected, stanza.where, stanza.command, node).read()


def _told_and_found(told: Record, cluster: Cluster) -> tuple[list[str], list[str]]:
    theirs = [(key.of, key.aspect, value) for key, value in told.latest.items()]
    theirs += [
        (key.of, key.aspect, str(items[-1])) for key, items in told.streams.items() if key.aspect is Aspect.VOTES
    ]
    found: dict[Aspect, Callable[[Member], str]] = {
        Aspect.VOTES: lambda member: str(member.vote),
        Aspect.COMMIT: lambda member: str(member.commit),
        Aspect.ROLE: lambda member: str(member.role),
        Aspect.CONFIGURATION: lambda member: configuration_text(member.configuration),
    }
    theirs = [item for item in theirs if item[1] in found]
    ours = [(node, aspect, found[aspect](cluster.members[int(node)])) for node, aspect, _ in theirs]
    return [f"{a.value} of {n}: {v}" for n, a, v in theirs], [f"{a.value} of {n}: {v}" for n, a, v in ours]


def _equal(stanza: Stanza, theirs: list[str], ours: list[str]) -> int:
    if theirs != ours:
        raise Mismatch(f"{stanza.where}: {stanza.command}: expected {theirs}, not {ours}")
    return len(theirs)


PRINTING = {"raft-state", "raft-log", "status", "compact"}


class _Player:
    def __init__(self, differences: Mapping[str, Difference], cluster: Cluster) -> None:
        self._differences = differences
        self._cluster = cluster
        self._expected = Record()
        self._actual = Record()
        self._result = Comparison()

    def play(self, stanzas: Sequence[Stanza]) -> Comparison:
        for stanza in stanzas:
            self._step(stanza)
        return self._result

    def _step(self, stanza: Stanza) -> None:
        difference = self._differences.get(stanza.where, Difference(""))
        actual = self._insert(difference.before)
        done, printed = self._cluster.run(stanza)
        actual.extend(done)
        if difference.before:
            self._result.used.add(stanza.where)
        if self._cluster.quiet or stanza.option("log-level") == "none":
            if stanza.expected != ("ok",):
                raise ScenarioError(f"{stanza.where}: output while there is to be none")
            self._actual.extend(actual)
            self._forget_unseen()
        elif stanza.command in PRINTING:
            self._compare_printed(stanza, printed, difference)
        else:
            expected = output_of(stanza)
            self._result.compared += expected.size
            self._expected.extend(expected)
            self._actual.extend(actual)
            self._compare(stanza, difference)

    def _insert(self, commands: Sequence[str]) -> Record:
        record = Record()
        for text in commands:
            for stanza in scenarios.parse(f"{text}\n----\n", text):
                record.extend(self._cluster.run(stanza)[0])
        return record

    def _forget_unseen(self) -> None:
        """Nothing is known of what the reference did, but for what it will not say again: see `Item`."""
        held = {
            key: [item]
            for key, items in self._actual.streams.items()
            if (item := next((item for item in reversed(items) if item.is_state), None))
        }
        for side in (self._expected, self._actual):
            side.streams.clear()
            side.latest.clear()
            side.refused = 0
            side.streams.update({key: list(items) for key, items in held.items()})

    def _compare_printed(self, stanza: Stanza, printed: list[str], difference: Difference) -> None:
        expected = [comparable_line(line.strip()) for line in stanza.expected]
        self._result.compared += len(expected)
        self._require(stanza, difference, diff_of({"printed": (expected, printed)}))

    def _compare(self, stanza: Stanza, difference: Difference) -> None:
        mismatches = {key: (theirs, ours) for key, theirs, ours in self._mismatches()}
        self._require(stanza, difference, diff_of({str(key): both for key, both in mismatches.items()}))
        if difference.apart:
            for key in mismatches:
                self._expected.forget(key)
                self._actual.forget(key)

    def _require(self, stanza: Stanza, difference: Difference, found: list[str]) -> None:
        """What differs is what is listed, no more and no less."""
        listed = [line.strip() for line in difference.diff.strip().splitlines()]
        if found != listed:
            raise Mismatch(
                "\n".join([f"{stanza.where}: {stanza.command}: what differs (- the reference, + ours):", *found])
            )
        if found:
            self._result.used.add(stanza.where)

    def _mismatches(self) -> Iterator[tuple[Key, list[str], list[str]]]:
        expected, actual = self._expected, self._actual
        for key in sorted(expected.streams.keys() | actual.streams.keys(), key=str):
            theirs, ours = (list(map(str, without_repeats(side.streams.get(key, [])))) for side in (expected, actual))
            if theirs != ours:
                yield key, theirs, ours
        for key in sorted(expected.latest.keys() | actual.latest.keys(), key=str):
            if expected.latest.get(key) != actual.latest.get(key):
                yield key, [str(expected.latest.get(key))], [str(actual.latest.get(key))]
        if expected.refused != actual.refused:
            yield Key(Aspect.REFUSED, "all nodes"), [str(expected.refused)], [str(actual.refused)]


def diff_of(pairs: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> list[str]:
    """What differs, in order, without what both have; where the same differs in several places, it is said once."""
    places: dict[tuple[str, ...], list[str]] = {}
    for place, (theirs, ours) in pairs.items():
        if theirs != ours:
            lines = difflib.ndiff(theirs, ours)
            places.setdefault(tuple(line.strip() for line in lines if line[0] in "-+"), []).append(place)
    return [line for lines, where in places.items() for line in ("; ".join(where) + ":", *lines)]
