"""Plays the reference library's interaction scenarios on our core, and compares what is contract.

`play` runs each command on a `Cluster` and compares the `Record` of what happened with the one read from the expected
output. Both grow through the file, so that an element which came too early or too late is found however the reference
and our core group their work within one command.

What is never compared, whatever the file:

- the wording of the log, ``MustSync``, and how many Readys a command took;
- how many entries travel in one append: appends are compared entry by entry, and of a run of acknowledgements the last;
- notices of a commit. The reference sends an empty append to everybody as soon as it commits; ours lets the news ride
  on the next append, or sends a heartbeat to those known to hold the entry. The commit index and the entries applied
  that these bring about are compared;
- the hint in a refused append: ours names the conflicting term and its first index instead (§5.3);
- in ``status`` the word ``inactive``, since ours judges activity by the time of the last answer, and ``next`` while a
  snapshot is under way, since nothing is sent by it;
- the data of a membership entry: ours holds the resulting configuration, which is compared when it is applied.

Where a command has no counterpart, the runner stands in, so that what follows can be compared: ``forget-leader`` clears
the field (ours has `report_down`, which also campaigns soon); a proposal at a follower goes to its leader, as a client
would send it; where ours refuses a change of membership, an empty entry is proposed, as the reference logs one;
``process-apply-thread`` does nothing, since a turn of ours ends when it has applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rayraft.raft.types import NodeId
from tests import scenarios
from tests.interaction_cluster import Cluster, Member, comparable_line, configuration_text
from tests.reference_output import STREAMS, Aspect, Key, OutputReader, Record, merged
from tests.scenarios import ScenarioError, Stanza


class Mismatch(AssertionError):
    """The core did not do what the scenario expects."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How our core answers one stanza otherwise, on purpose. All that is not named here is compared as ever."""

    reason: str
    skip: frozenset[Key] = frozenset()  # not compared at this stanza
    lags: bool = False  # streams may be ahead or behind, and must agree again at the next stanza that does not lag
    lines: Mapping[str, str] = field(default_factory=dict)  # printed line of the reference -> ours
    before: tuple[str, ...] = ()  # commands that our core needs before it
    after: tuple[str, ...] = ()  # commands that our core needs after it


@dataclass(slots=True)
class Comparison:
    compared: int = 0
    used: set[str] = field(default_factory=set)  # the stanzas whose listed difference showed


def play(
    stanzas: Sequence[Stanza], differences: Mapping[str, Difference] | None = None, cluster: Cluster | None = None
) -> Comparison:
    """Run a scenario and compare it; raises Mismatch at the first value that is not as expected."""
    return _Player(differences or {}, cluster or Cluster()).play(stanzas)


def joining(node: NodeId, leader: NodeId = 1) -> frozenset[Key]:
    """All that a new node goes through on its way, but not what it has and is at the end."""
    own = (Aspect.WRITTEN, Aspect.COMMITTED, Aspect.INSTALLED, Aspect.CONFIGURATIONS)
    return between(leader, node) | {Key(aspect, str(node)) for aspect in own}


def between(one: NodeId, other: NodeId) -> frozenset[Key]:
    """The messages of two nodes."""
    channels, aspects = (f"{one}->{other}", f"{other}->{one}"), (Aspect.SENT, Aspect.RECEIVED, Aspect.TOLD)
    return frozenset(Key(aspect, channel) for aspect in aspects for channel in channels)


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
        actual.extend(self._insert(difference.after))
        if difference.before or difference.after:
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
            if (item := next((item for item in reversed(items) if item.acknowledges or item.is_state), None))
        }
        for side in (self._expected, self._actual):
            side.streams.clear()
            side.latest.clear()
            side.refused = 0
            side.streams.update({key: list(items) for key, items in held.items()})

    def _compare_printed(self, stanza: Stanza, printed: list[str], difference: Difference) -> None:
        expected = [comparable_line(line.strip()) for line in stanza.expected]
        unknown = difference.lines.keys() - set(expected)
        if unknown:
            raise ScenarioError(f"{stanza.where}: a difference is listed for a line that is not there: {unknown}")
        self._result.compared += len(expected)
        theirs = [difference.lines.get(line, line) for line in expected]
        if difference.lines:
            self._result.used.add(stanza.where)
        if theirs != printed:
            raise Mismatch(f"{stanza.where}: {stanza.command}: expected {theirs}, not {printed}")

    def _compare(self, stanza: Stanza, difference: Difference) -> None:
        for key, theirs, ours in self._mismatches():
            behind = difference.lags and (key.aspect not in STREAMS or _is_prefix(theirs, ours))
            if not behind and key not in difference.skip:
                raise Mismatch(f"{stanza.where}: {stanza.command}: {key}: expected\n  {theirs}\nnot\n  {ours}")
            self._result.used.add(stanza.where)
        for key in difference.skip:
            self._expected.forget(key)
            self._actual.forget(key)

    def _mismatches(self) -> Iterator[tuple[Key, list[str], list[str]]]:
        expected, actual = self._expected, self._actual
        for key in sorted(expected.streams.keys() | actual.streams.keys(), key=str):
            theirs, ours = (list(map(str, merged(side.streams.get(key, [])))) for side in (expected, actual))
            if theirs != ours:
                yield key, theirs, ours
        for key in sorted(expected.latest.keys() | actual.latest.keys(), key=str):
            if expected.latest.get(key) != actual.latest.get(key):
                yield key, [str(expected.latest.get(key))], [str(actual.latest.get(key))]
        if expected.refused != actual.refused:
            yield Key(Aspect.PRINTED, "refused"), [str(expected.refused)], [str(actual.refused)]


def _is_prefix(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one of the two continues the other; how far each has acknowledged is left open."""
    one, other = ([text for text in side if " up to " not in text] for side in (one, other))
    return all(a == b for a, b in zip(one, other, strict=False))
