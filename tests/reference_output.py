"""What the reference library prints in an interaction scenario, and what our core does, in one and the same form.

A `Record` holds what both sides can say: per node what it wrote, applied and became, per channel what was sent,
received and dropped. The parser below makes one of the expected output; `tests.interaction` makes one of the core.
"""

from __future__ import annotations

import enum
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.scenarios import ScenarioError


class Aspect(enum.Enum):
    """What is compared. The first group are streams, of which the order counts; of the others the last value does."""

    WRITTEN = "entries written"
    COMMITTED = "entries applied"
    INSTALLED = "snapshots installed"
    CONFIGURATIONS = "configurations in the order applied"
    SENT = "messages sent"
    RECEIVED = "messages received"
    DROPPED = "messages dropped"
    VOTES = "terms and votes"
    ROLES = "leaders and roles"

    COMMIT = "commit index"
    ROLE = "leader and role now"
    TOLD = "commit index told"
    CONFIGURATION = "configuration applied"
    START = "state at the start"

    PRINTED = "lines of raft-state, raft-log, status and compact"


STREAMS = frozenset(list(Aspect)[:9])


@dataclass(frozen=True, slots=True)
class Key:
    aspect: Aspect
    of: str  # a node, or a channel such as 1->2

    def __str__(self) -> str:
        return f"{self.aspect.value} of {self.of}"


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a stream; only successes of a follower, which acknowledge an index, may merge."""

    text: str
    acknowledges: int = 0
    is_state: bool = False  # so that a repetition says nothing

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Record:
    streams: dict[Key, list[Item]] = field(default_factory=lambda: defaultdict(list))
    latest: dict[Key, str] = field(default_factory=dict)
    refused: int = 0  # proposals that were dropped

    def add(self, aspect: Aspect, of: object, item: Item | str) -> None:
        self.streams[Key(aspect, str(of))].append(item if isinstance(item, Item) else Item(item))

    def set(self, aspect: Aspect, of: object, value: str) -> None:
        self.latest[Key(aspect, str(of))] = value

    @property
    def size(self) -> int:
        return sum(map(len, self.streams.values())) + len(self.latest) + self.refused

    def extend(self, more: Record) -> None:
        for key, items in more.streams.items():
            self.streams[key] += items
        self.latest.update(more.latest)
        self.refused += more.refused

    def forget(self, key: Key) -> None:
        self.streams.pop(key, None)
        self.latest.pop(key, None)


def merged(items: Sequence[Item]) -> list[Item]:
    """Only the last of a run of rising acknowledgements: it says all that the others did."""
    kept: list[Item] = []
    for item in items:
        if kept and item.is_state and kept[-1] == item:
            continue
        if kept and 0 < kept[-1].acknowledges <= item.acknowledges:
            kept.pop()
        kept.append(item)
    return kept


# --- one notation for both sides --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogEntry:
    term: int
    index: int
    text: str  # "conf" for a change of membership, otherwise the data in quotes

    def __str__(self) -> str:
        return f"{self.term}/{self.index} {self.text}"


def append_items(term: int, prev_term: int, prev_index: int, entries: Sequence[LogEntry]) -> Iterator[Item]:
    """An append, entry by entry: how many travel together is no contract. An empty one is a notice or a probe."""
    for entry in entries:
        yield Item(f"MsgApp {term} after {prev_term}/{prev_index}: {entry}")
        prev_term, prev_index = entry.term, entry.index


def response_item(term: int, index: int, *, rejected: bool) -> Item:
    if index == 0:
        return Item(f"MsgAppResp {term} to a stale leader")
    if rejected:
        return Item(f"MsgAppResp {term} rejects {index}")
    return Item(f"MsgAppResp {term} up to {index}", acknowledges=index)


def vote_request_item(kind: str, term: int, last_term: int, last_index: int) -> Item:
    return Item(f"{kind} {term} log {last_term}/{last_index}")


def vote_response_item(kind: str, term: int, *, rejected: bool) -> Item:
    return Item(f"{kind} {term} {'rejected' if rejected else 'granted'}")


def heartbeat_item(term: int, commit: int) -> Item:
    return Item(f"MsgHeartbeat {term} commit {commit}")


def plain_item(kind: str, term: int) -> Item:
    return Item(f"{kind} {term}")


def snapshot_text(index: int, term: int, configuration: str) -> str:
    return f"snapshot {term}/{index} {configuration}"


def configuration_text(
    voters: Sequence[object],
    outgoing: Sequence[object],
    learners: Sequence[object],
    learners_next: Sequence[object],
    auto_leave: bool,
) -> str:
    def listed(nodes: Sequence[object]) -> str:
        return f"({' '.join(map(str, nodes))})"

    text = f"voters={listed(voters)}"
    text += f"&&{listed(outgoing)}" if outgoing else ""
    text += f" learners={listed(learners)}" if learners else ""
    text += f" learners_next={listed(learners_next)}" if learners_next else ""
    return text + (" autoleave" if auto_leave else "")


def vote_item(term: int, vote: int) -> Item:
    return Item(f"term {term}, vote {vote}", is_state=True)


def role_item(leader: int, state: str) -> Item:
    return Item(f"{state} of {leader}", is_state=True)


# --- reading what the reference printed -------------------------------------------------------------------------------

_NODE = re.compile(r"> (?P<node>\d+) (?P<doing>handling Ready|receiving messages|processing (?:append|apply) thread)$")
_LOG = re.compile(r"(?:DEBUG|INFO|WARN|ERROR) (?P<text>.*)$")
_SWITCHED = re.compile(r"(?P<node>\d+) switched to configuration (?P<configuration>.*)$")
_STARTED = re.compile(r"newRaft (?P<node>\d+) \[peers: \[.*?\], (?P<state>term: (?P<term>\d+), .*)\]$")
_ROLE = re.compile(r"Lead:(?P<leader>\d+) State:(?P<state>State\w+)$")
_HARD_STATE = re.compile(r"HardState Term:(?P<term>\d+)(?: Vote:(?P<vote>\d+))?(?: Commit:(?P<commit>\d+))?$")
_ENTRY = re.compile(r"(?P<term>\d+)/(?P<index>\d+) (?P<kind>Entry\w+)(?: (?P<data>.*))?$")
_MESSAGE = re.compile(
    r"(?P<src>\w+)->(?P<dst>\w+) (?P<kind>Msg\w+) Term:(?P<term>\d+) Log:(?P<log_term>\d+)/(?P<index>\d+)"
    r"(?P<rejected> Rejected \(Hint: \d+\))?(?: Commit:(?P<commit>\d+))?(?: Vote:\d+)?"
    r"(?P<entries> Entries:\[.*?\]?)?(?P<responses> Responses:\[)?$"
)
_SNAPSHOT = re.compile(
    r"Snapshot:? Index:(?P<index>\d+) Term:(?P<term>\d+) ConfState:Voters:\[(?P<voters>[\d ]*)\] "
    r"VotersOutgoing:\[(?P<outgoing>[\d ]*)\] Learners:\[(?P<learners>[\d ]*)\] "
    r"LearnersNext:\[(?P<learners_next>[\d ]*)\] AutoLeave:(?P<auto_leave>true|false)$"
)
_HEADINGS = {"Entries:", "CommittedEntries:", "Messages:", "Processing:", "Responses:"}
_SILENT = ("Ready MustSync=", "<empty Ready>", "ok", "raft: cannot step as peer not found")


def read_entry(text: str) -> LogEntry | None:
    found = _ENTRY.match(text)
    if found is None:
        return None
    changes_members = found["kind"].startswith("EntryConfChange")
    return LogEntry(int(found["term"]), int(found["index"]), "conf" if changes_members else found["data"])


class OutputReader:
    """Reads the output of one command; a line that it does not know is an error that names it."""

    def __init__(self, lines: Sequence[str], where: str, command: str, node: str) -> None:
        self._lines = [line.strip() for line in lines]
        self._where = where
        self._node = node
        self._at = 0
        self._section = "receiving messages" if command == "deliver-msgs" else "Messages:"
        self.record = Record()

    def read(self) -> Record:
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if not self._read_line(line):
                raise ScenarioError(f"{self._where}: no meaning is known for the output {line!r}")
        return self.record

    def _read_line(self, line: str) -> bool:
        if line.startswith(_SILENT):
            return True
        if line in _HEADINGS:
            self._section = line
        elif line == "raft proposal dropped":
            self.record.refused += 1
        elif found := _NODE.match(line):
            self._node, self._section = found["node"], found["doing"]
        elif found := _LOG.match(line):
            self._read_log(found["text"])
        elif found := _ROLE.match(line):
            role = role_item(int(found["leader"]), found["state"])
            self.record.add(Aspect.ROLES, self._node, role)
            self.record.set(Aspect.ROLE, self._node, str(role))
        elif found := _HARD_STATE.match(line):
            self.record.add(Aspect.VOTES, self._node, vote_item(int(found["term"]), int(found["vote"] or 0)))
            self.record.set(Aspect.COMMIT, self._node, found["commit"] or "0")
        elif entry := read_entry(line):
            aspect = {"Entries:": Aspect.WRITTEN, "CommittedEntries:": Aspect.COMMITTED}[self._section]
            self.record.add(aspect, self._node, str(entry))
        elif found := _SNAPSHOT.match(line):
            self.record.add(Aspect.INSTALLED, self._node, self._snapshot(found))
        else:
            return self._read_message(line.removeprefix("dropped: "), dropped=line.startswith("dropped: "))
        return True

    def _read_log(self, text: str) -> None:
        """The wording of the log is no contract, but for what it says of configurations and of a start."""
        if found := _SWITCHED.match(text):
            self.record.set(Aspect.CONFIGURATION, found["node"], found["configuration"])
            self.record.add(Aspect.CONFIGURATIONS, found["node"], found["configuration"])
        elif found := _STARTED.match(text):
            self.record.set(Aspect.START, found["node"], found["state"])
            self.record.add(Aspect.VOTES, found["node"], vote_item(int(found["term"]), 0))
            self.record.add(Aspect.ROLES, found["node"], role_item(0, "StateFollower"))

    def _read_message(self, line: str, *, dropped: bool) -> bool:
        found = _MESSAGE.match(line)
        if found is None:
            return False
        entries = self._rest_of(found)
        snapshot = self._snapshot_of_message()
        if self._section == "Processing:" or not found["src"].isdigit() or not found["dst"].isdigit():
            return True  # between a node and its own storage threads
        if found["src"] == found["dst"]:
            return True
        sent = self._section in ("Messages:", "Responses:")
        aspect = Aspect.DROPPED if dropped else Aspect.SENT if sent else Aspect.RECEIVED
        channel = f"{found['src']}->{found['dst']}"
        for item in self._items(found, entries, snapshot):
            self.record.add(aspect, channel, item)
        if sent and found["kind"] in ("MsgApp", "MsgHeartbeat"):
            self.record.set(Aspect.TOLD, channel, found["commit"] or "0")
        return True

    def _rest_of(self, message: re.Match[str]) -> list[LogEntry]:
        """The entries of a message, on its line or on lines of their own; what it will cause later is passed over."""
        text = (message["entries"] or "]").removeprefix(" Entries:[")
        lines, has_responses = [text.removesuffix("]")], bool(message["responses"])
        if not text.endswith("]"):
            *lines, closing = self._block()
            has_responses = closing.endswith("Responses:[")
        if has_responses:
            self._block()
        return [entry for line in lines if (entry := read_entry(line))]

    def _block(self) -> list[str]:
        """The lines up to the bracket that closes the one last opened, and with it."""
        start, depth = self._at, 1
        while depth:
            if self._at == len(self._lines):
                raise ScenarioError(f"{self._where}: a bracket is not closed")
            line = self._lines[self._at]
            self._at += 1
            depth -= line.startswith("]")
            depth += line.endswith("[") and depth > 0
        return self._lines[start : self._at]

    def _snapshot_of_message(self) -> str:
        line = self._lines[self._at] if self._at < len(self._lines) else ""
        found = _SNAPSHOT.match(line) if line.startswith("Snapshot:") else None
        self._at += found is not None
        return self._snapshot(found) if found else ""

    def _items(self, message: re.Match[str], entries: Sequence[LogEntry], snapshot: str) -> Iterator[Item]:
        kind, term = message["kind"], int(message["term"])
        log_term, index, rejected = int(message["log_term"]), int(message["index"]), bool(message["rejected"])
        if kind == "MsgApp":
            yield from append_items(term, log_term, index, entries)
        elif kind == "MsgAppResp":
            yield response_item(term, index, rejected=rejected)
        elif kind in ("MsgVote", "MsgPreVote"):
            yield vote_request_item(kind, term, log_term, index)
        elif kind in ("MsgVoteResp", "MsgPreVoteResp"):
            yield vote_response_item(kind, term, rejected=rejected)
        elif kind == "MsgHeartbeat":
            yield heartbeat_item(term, int(message["commit"] or 0))
        elif kind == "MsgSnap":
            yield Item(f"MsgSnap {term} {snapshot}")
        else:
            yield plain_item(kind, term)

    @staticmethod
    def _snapshot(found: re.Match[str]) -> str:
        halves = (found[name].split() for name in ("voters", "outgoing", "learners", "learners_next"))
        configuration = configuration_text(*halves, auto_leave=found["auto_leave"] == "true")
        return snapshot_text(int(found["index"]), int(found["term"]), configuration)
