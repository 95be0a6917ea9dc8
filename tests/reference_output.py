"""What the reference library prints in an interaction scenario, and what our core does, in one and the same form.

A `Record` holds what both sides can say: per node what it wrote, applied and became, per channel what was sent,
received and dropped. The parser below makes one of the expected output; `tests.interaction` makes one of the core.
"""

from __future__ import annotations

import enum
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.scenarios import ScenarioError


class Aspect(enum.Enum):
    """What is compared. The first group are streams, of which the order counts; of the others the last value does."""

    WRITTEN = "entries written"
    COMMITTED = "entries applied"
    INSTALLED = "snapshots installed"
    CONFIGURATIONS = "configurations"
    SENT = "messages sent"
    RECEIVED = "messages received"
    DROPPED = "messages dropped"
    HANDED = "work handed to the threads"
    DONE = "work done by the threads"
    PROMISED = "messages to be sent after a write"
    VOTES = "terms and votes"
    ROLES = "leaders and roles"

    COMMIT = "commit index"
    ROLE = "leader and role now"
    CONFIGURATION = "configuration applied"
    START = "state at the start"

    REFUSED = "proposals refused"


@dataclass(frozen=True, slots=True)
class Key:
    aspect: Aspect
    of: str  # a node, or a channel such as 1->2

    def __str__(self) -> str:
        return f"{self.aspect.value} of {self.of}"


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a stream."""

    text: str
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

    def taken(self, *aspects: Aspect) -> Record:
        """All of these aspects; they are not here any longer."""
        streams = {key: self.streams.pop(key) for key in list(self.streams) if key.aspect in aspects}
        latest = {key: self.latest.pop(key) for key in list(self.latest) if key.aspect in aspects}
        return Record(defaultdict(list, streams), latest)

    def forget(self, key: Key) -> None:
        self.streams.pop(key, None)
        self.latest.pop(key, None)


def without_repeats(items: Sequence[Item]) -> list[Item]:
    """A state that is told again says nothing new."""
    return [item for item, last in zip(items, [None, *items], strict=False) if not item.is_state or item != last]


# --- one notation for both sides --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogEntry:
    term: int
    index: int
    text: str  # the data in quotes, or the kind and the words of a change of membership

    def __str__(self) -> str:
        return f"{self.term}/{self.index} {self.text}"


def append_item(term: int, prev_term: int, prev_index: int, commit: int, entries: Sequence[LogEntry]) -> Item:
    return Item(f"MsgApp {term} after {prev_term}/{prev_index} commit {commit}: {', '.join(map(str, entries))}")


def response_item(term: int, index: int, *, rejected: bool) -> Item:
    if index == 0:
        return Item(f"MsgAppResp {term} to a stale leader")
    if rejected:
        return Item(f"MsgAppResp {term} rejects {index}")
    return Item(f"MsgAppResp {term} up to {index}")


def stored_item(term: int, last_term: int, last_index: int) -> Item:
    return Item(f"stored {last_term}/{last_index} in {term}")


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
    r"(?P<rejected> Rejected \(Hint: \d+\))?(?: Commit:(?P<commit>\d+))?(?: Vote:(?P<vote>\d+))?"
    r"(?P<entries> Entries:\[.*?\]?)?(?P<responses> Responses:\[)?$"
)
_SNAPSHOT = re.compile(
    r"Snapshot:? Index:(?P<index>\d+) Term:(?P<term>\d+) ConfState:Voters:\[(?P<voters>[\d ]*)\] "
    r"VotersOutgoing:\[(?P<outgoing>[\d ]*)\] Learners:\[(?P<learners>[\d ]*)\] "
    r"LearnersNext:\[(?P<learners_next>[\d ]*)\] AutoLeave:(?P<auto_leave>true|false)$"
)
_THREADS = {"AppendThread": "append", "ApplyThread": "apply"}
_WITHOUT_INDEX = {
    *("MsgVoteResp", "MsgPreVoteResp", "MsgHeartbeat", "MsgHeartbeatResp", "MsgSnap", "MsgTimeoutNow"),
    *("MsgStorageAppend", "MsgStorageApply", "MsgStorageApplyResp"),
}
_WITHOUT_TERM = _WITHOUT_INDEX | {"MsgAppResp"}
_CAUSED = "caused"  # the section of what a message to a thread will cause
_HEADINGS = {"Entries:", "CommittedEntries:", "Messages:", "Processing:", "Responses:"}
_SILENT = ("Ready MustSync=", "<empty Ready>", "ok", "raft: cannot step as peer not found")


def read_entry(text: str) -> LogEntry | None:
    found = _ENTRY.match(text)
    if found is None:
        return None
    data = found["data"] or ""
    said = data if found["kind"] == "EntryNormal" else f"{found['kind']} {data}".rstrip()
    return LogEntry(int(found["term"]), int(found["index"]), said)


class OutputReader:
    """Reads the output of one command; a line that it does not know is an error that names it."""

    def __init__(self, lines: Sequence[str], where: str, command: str, node: str) -> None:
        self._lines = [line.strip() for line in lines]
        self._where = where
        self._node = node
        self._at = 0
        self._headed = ""  # what the node of the heading does
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
            self._node, self._section, self._headed = found["node"], found["doing"], found["doing"]
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
        if found["kind"] == "MsgProp":  # the runner hands a proposal to the leader itself
            return True
        doer = found["dst"] if self._headed == "receiving messages" else found["src"]
        if self._headed and self._section != "Responses:" and doer not in (self._node, *_THREADS):
            raise ScenarioError(f"{self._where}: under the heading of {self._node} is a message of {doer}: {line!r}")
        entries, caused = self._rest_of(found)
        snapshot = self._snapshot_of_message()
        log_term, index, refusal = (
            int(found["log_term"]),
            int(found["index"]),
            found["kind"] == "MsgAppResp" and found["rejected"],
        )
        if (log_term and found["kind"] in _WITHOUT_TERM and not refusal) or (index and found["kind"] in _WITHOUT_INDEX):
            raise ScenarioError(f"{self._where}: a {found['kind']} with a place in the log: {log_term}/{index}")
        if found["dst"] in _THREADS:
            self._read_work(found, entries, caused)
            return True
        sent = self._section in ("Messages:", "Responses:")
        aspect = Aspect.DROPPED if dropped else Aspect.SENT if sent else Aspect.RECEIVED
        if self._section == _CAUSED:
            aspect = Aspect.PROMISED
        channel = f"{found['src']}->{found['dst']}"
        self.record.add(aspect, channel, self._item(found, entries, snapshot))
        return True

    def _read_work(self, found: re.Match[str], entries: Sequence[LogEntry], caused: Sequence[str]) -> None:
        """Work for a node's own disk or machine: when it is handed over, and again when it is done."""
        aspect = Aspect.DONE if self._section == "Processing:" else Aspect.HANDED
        state = f"(term {found['term']}, vote {found['vote'] or 0}, commit {found['commit'] or 0})"
        said = [*map(str, entries), *([state] if found["term"] != "0" else [])]
        if said:
            self.record.add(aspect, f"{_THREADS[found['dst']]} of {found['src']}", " ".join(said))
        inner = OutputReader(caused, self._where, "", found["src"])
        inner._section = _CAUSED
        self.record.extend(inner.read())

    def _rest_of(self, message: re.Match[str]) -> tuple[list[LogEntry], list[str]]:
        """The entries of a message, on its line or on lines of their own, and the lines of what it will cause."""
        text = (message["entries"] or "]").removeprefix(" Entries:[")
        lines, has_responses = [text.removesuffix("]")], bool(message["responses"])
        if not text.endswith("]"):
            *lines, closing = self._block()
            has_responses = closing.endswith("Responses:[")
        caused = self._block()[:-1] if has_responses else []
        return [entry for line in lines if (entry := read_entry(line))], caused

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

    def _item(self, message: re.Match[str], entries: Sequence[LogEntry], snapshot: str) -> Item:
        kind, term, commit = message["kind"], int(message["term"]), int(message["commit"] or 0)
        log_term, index, rejected = int(message["log_term"]), int(message["index"]), bool(message["rejected"])
        match kind:
            case "MsgApp":
                return append_item(term, log_term, index, commit, entries)
            case "MsgAppResp":
                return response_item(term, index, rejected=rejected)
            case "MsgVote" | "MsgPreVote":
                return vote_request_item(kind, term, log_term, index)
            case "MsgVoteResp" | "MsgPreVoteResp":
                return vote_response_item(kind, term, rejected=rejected)
            case "MsgHeartbeat":
                return heartbeat_item(term, commit)
            case "MsgStorageAppendResp":
                return stored_item(term, log_term, index)
            case "MsgStorageApplyResp":
                return Item(f"applied {' '.join(map(str, entries))}")
            case "MsgSnap":
                return Item(f"MsgSnap {term} {snapshot}")
            case _:
                return plain_item(kind, term)

    @staticmethod
    def _snapshot(found: re.Match[str]) -> str:
        halves = (found[name].split() for name in ("voters", "outgoing", "learners", "learners_next"))
        configuration = configuration_text(*halves, auto_leave=found["auto_leave"] == "true")
        return snapshot_text(int(found["index"]), int(found["term"]), configuration)
