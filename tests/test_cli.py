"""The command line: what it prints, how it fails, and one small demo and bench from end to end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import rayraft
from rayraft import cli
from rayraft.bench.sections import Failover, Plan
from rayraft.bench.suite import Report
from rayraft.bench.witness import Verification
from rayraft.errors import DamagedLog, NoQuorum, NoSuchGroup
from rayraft.raft.types import Configuration
from rayraft.ray.placement import Place
from rayraft.ray.spec import NodeReport, NodeState
from rayraft.ray.supervision import Rules, Supervision
from rayraft.replica import Counters, ReplicaStatus


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


# --- help, version, options -------------------------------------------------------------------------------------------


def test_version() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output == f"rayraft {rayraft.__version__}\n"


def test_recover_says_that_all_disks_have_to_be_named_at_once() -> None:
    text = " ".join(invoke("recover", "--help").stdout.split())
    assert "All disks that are left have to be named in one call" in text


def test_help_names_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in ("demo", "bench", "check-history", "list", "status", "snapshot", "shutdown"):
        assert command in result.output


@pytest.mark.parametrize("command", ["demo", "bench", "list", "status", "snapshot", "shutdown"])
def test_every_command_takes_an_address(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "--address" in result.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["demo", "--nodes", "4"], "an even number adds no fault tolerance"),
        (["demo", "--workload", "E"], "'E' is not one of"),
        (["demo", "--seconds", "0"], "greater than or equal to"),
        (["bench", "--value-size", "8"], "greater than or equal to"),
        (["bench", "--only", "packed,speed"], "no section speed: there are sequential, packed"),
        (["bench", "--only", ""], "no section"),
        (["bench", "--workload", "A,E"], "no workload 'e': there are A, B, C, D, F, W, put"),
        (["bench", "--no-such-option"], "No such option"),
        (["status"], "Missing argument"),
        (["nonsense"], "No such command"),
    ],
)
def test_bad_options_exit_with_2(no_ray: None, arguments: list[str], problem: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert problem in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands believe to be connected."""

    @contextlib.contextmanager
    def session(address: str | None = None, *, local: bool = True) -> Iterator[None]:
        yield

    monkeypatch.setattr(cli.groups, "ray_session", session)


# --- groups -----------------------------------------------------------------------------------------------------------


def replica(role: str, commit: int, applied: int) -> ReplicaStatus:
    return ReplicaStatus(
        role=role,
        term=7,
        leader=1,
        serves=role == "leader",
        first_index=1,
        last_index=commit,
        commit=commit,
        applied=applied,
        snapshot=0,
        match={},
        sessions=1,
        counters=Counters(),
        configuration=Configuration(voters=(1, 2), learners=(3,)),
        configuration_committed=True,
        removed=False,
    )


def report(node: int, state: NodeState, error: rayraft.RayraftError | None, status: ReplicaStatus | None) -> NodeReport:
    return NodeReport(
        node_id=node,
        state=state,
        error=error,
        identity=None,
        pid=100 + node,
        directory=f"data/node-{node}",
        methods={},
        host="somewhere",
        rss_bytes=64 << 20,
        disk_bytes=1 << 20,
        replica=status,
        home=Place("", f"machine-{node}"),
        places={4: Place("", "machine-4")},
        niceness=-5,
    )


class FakeCluster:
    nodes = (1, 2, 3, 4)
    failed: Mapping[int, str] = MappingProxyType({})

    def __init__(self, name: str) -> None:
        if name != "ledger":
            raise NoSuchGroup(f"no group {name!r} runs in this Ray cluster\n(running: ledger)")

    def status(self) -> dict[int, NodeReport | Exception]:
        damaged = DamagedLog("entry 5 fails its checksum", directory="data/node-3", index=5)
        return {
            1: report(1, NodeState.RUNNING, None, replica("leader", 90, 90)),
            2: report(2, NodeState.RUNNING, None, replica("follower", 80, 75)),
            3: report(3, NodeState.FAILED, damaged, None),
            4: TimeoutError("no answer within 5.0 s"),
        }

    def supervision(self) -> Supervision:
        return Supervision(Rules(), 7, ("node 3 is damaged, and is replaced in 9 s",), (), None)

    def take_snapshot(self) -> Mapping[int, str]:
        return self.failed


@pytest.fixture
def ledger(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.groups, "find_cluster", FakeCluster)
    monkeypatch.setattr(cli.groups, "shut_down", FakeCluster)
    monkeypatch.setattr(cli.groups, "list_groups", lambda: {"ledger": [1, 2, 3]})


@pytest.mark.usefixtures("ledger")
def test_status_as_a_table() -> None:
    result = invoke("status", "ledger")
    assert result.exit_code == 0
    for word in ("leader", "follower", "failed", "no answer", "data/node-2", "64.0 MiB", "somewhere"):
        assert word in result.output
    assert "node 3: entry 5 fails its checksum" in result.output
    assert "machine-4" in result.output  # as the others say, for it does not answer
    assert "supervisor: node 3 is damaged, and is replaced in 9 s" in result.output


@pytest.mark.usefixtures("ledger")
def test_status_as_json() -> None:
    result = invoke("status", "ledger", "--json")
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["group"] == "ledger"
    assert [node["state"] for node in found["nodes"]] == ["running", "running", "failed", "no answer"]
    assert [node["lag"] for node in found["nodes"]] == [0, 15, None, None]
    assert found["nodes"][0] | {"role": "leader", "term": 7, "commit": 90, "pid": 101, "nice": -5} == found["nodes"][0]
    assert found["nodes"][2]["error"] == "entry 5 fails its checksum"
    assert [node["machine"] for node in found["nodes"]] == ["machine-1", "machine-2", "machine-3", "machine-4"]
    assert found["supervisor"]["notes"] == ["node 3 is damaged, and is replaced in 9 s"]


@pytest.mark.usefixtures("ledger")
def test_list() -> None:
    assert json.loads(invoke("list", "--json").output) == {"ledger": [1, 2, 3]}
    assert "ledger" in invoke("list").output


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("command", ["snapshot", "shutdown"])
def test_commands_on_a_group(command: str) -> None:
    result = invoke(command, "ledger")
    assert result.exit_code == 0
    assert "ledger" in result.output


@pytest.mark.usefixtures("ledger")
def test_a_snapshot_says_who_did_not_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCluster, "failed", {2: "no answer", 4: "it is still at it"})
    result = invoke("snapshot", "ledger")
    assert result.exit_code == 0
    assert "node 2 did not: no answer" in result.output
    assert "nodes 1, 3 of ledger have saved their state" in result.output
    monkeypatch.setattr(FakeCluster, "failed", dict.fromkeys(FakeCluster.nodes, "no answer"))
    result = invoke("snapshot", "ledger")
    assert result.exit_code == 1
    assert "have saved" not in result.output


@pytest.mark.usefixtures("ledger")
def test_status_shows_members_without_an_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {1: report(1, NodeState.RUNNING, None, replica("leader", 9, 9))}
    monkeypatch.setattr(FakeCluster, "status", lambda self: found)
    rows = json.loads(invoke("status", "ledger", "--json").output)["nodes"]
    assert [(row["node"], row["state"]) for row in rows] == [(1, "running"), (2, "no actor"), (3, "no actor")]
    assert "node 2: a member without an actor" in invoke("status", "ledger").output


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("command", ["status", "snapshot", "shutdown"])
def test_an_unknown_group_is_one_line_on_stderr(command: str) -> None:
    result = invoke(command, "nobody")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "error: no group 'nobody' runs in this Ray cluster (running: ledger)\n"


def test_a_command_that_is_terminated_leaves_in_order() -> None:
    program = (
        "import time, rayraft.cli.common as common\n"
        "@common.app.command()\n"
        "def linger():\n"
        "    try:\n"
        "        print('begun', flush=True); time.sleep(600)\n"
        "    finally:\n"
        "        print('tidied away', flush=True)\n"
        "common.app(['linger'])\n"
    )
    command = [sys.executable, "-c", "import rayraft.cli\n" + program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        assert process.stdout.read() == "tidied away\n"
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad_syntax:Shop", "SyntaxError"),
        ("bad_import:Shop", "ZeroDivisionError"),
        ("..bad_import:Shop", "TypeError"),
        ("nowhere:Shop", "ModuleNotFoundError"),
    ],
)
def test_a_module_that_can_not_be_imported_is_one_line(
    name: str, reason: str, no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_syntax.py").write_text("def :\n")
    (tmp_path / "bad_import.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(cli.operations, "ray_session", cli.groups.ray_session)
    result = invoke("upgrade", "ledger", name)
    assert result.exit_code == 2
    assert f"error: '{name}' gives no class ({reason}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# --- from end to end --------------------------------------------------------------------------------------------------


def rayraft_command(*arguments: str) -> str:
    """Runs it as a user does, with a Ray cluster of its own; returns what it printed."""
    command = [sys.executable, "-m", "rayraft.cli", *arguments, "--address", "local"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.cluster
def test_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = [
        "--seconds",
        "4",
        "--records",
        "200",
        "--out",
        str(tmp_path / "out"),
        "--data-dir",
        str(tmp_path / "data"),
    ]
    printed = rayraft_command("demo", *options)
    for words in ("SIGKILL to process", "leads", "acknowledged commands lost", "all equal", "write-only W"):
        assert words in printed
    assert "A worker died" not in printed  # Ray's own page about the kill
    assert "nothing that was acknowledged was lost" in printed
    for workload in ("A", "W"):
        assert (tmp_path / "out" / f"throughput-{workload}.png").read_bytes().startswith(b"\x89PNG")

    outcomes = json.loads((tmp_path / "out" / "demo.json").read_text())["outcomes"]
    assert [outcome["workload"] for outcome in outcomes] == ["A", "W"]
    for outcome in outcomes:
        assert outcome["hashes_agree"]
        found = outcome["verification"]
        assert (found["keys"], found["lost"], found["damaged"], found["examples"]) == (200, 0, 0, [])
        assert found["history"]["operations"] > 0
        assert not found["history"]["violations"]
        assert outcome["new_leader"] != outcome["killed_node"]
        assert outcome["commands"] > 0
        assert outcome["back_after"] > 0
    assert not list((tmp_path / "data").iterdir())  # tidied away


def test_what_a_report_needs_is_looked_for_first(tmp_path: Path, no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After twenty minutes of measuring it is too late."""
    (tmp_path / "file").write_text("")
    result = invoke("bench", "--json", str(tmp_path / "file" / "a.json"))
    assert result.exit_code == 2
    assert "no report can be written to" in " ".join(result.output.split())
    result = invoke("bench", "--only", "callers", "--records", "10")
    assert result.exit_code == 2
    assert "section callers: 64 writers need as many records, not 10" in " ".join(result.output.split())
    monkeypatch.setattr("rayraft.cli.bench.find_spec", lambda name: None)
    result = invoke("bench", "--html", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "'rayraft[plot]'" in " ".join(result.output.split())


def test_a_report_of_a_run_that_ended_early(tmp_path: Path, no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(plan: Plan, names: list[str], console: object, repeats: int, report: Report) -> None:
        report.add(0, "kills", Failover([0.1], [1.0], 5, Verification()))
        report.ended_early = "in section memory: NoQuorum: nobody leads"
        raise NoQuorum("nobody leads")

    monkeypatch.setattr("rayraft.cli.bench.run", run)
    monkeypatch.setattr("rayraft.cli.bench.bench_session", lambda address: contextlib.nullcontext(Console()))
    file = tmp_path / "new" / "bench.json"
    result = invoke("bench", "--only", "kills,memory", "--json", str(file))
    assert result.exit_code != 0
    assert "nobody leads" in result.output
    assert json.loads(file.read_text())["figures"]["kills.without_service.p50"]["median"] == 0.1

    monkeypatch.setattr(Report, "write_json", lambda self, path: (_ for _ in ()).throw(OSError("no room")))
    result = invoke("bench", "--only", "kills,memory", "--json", str(file))
    assert "nor could the report be written: no room" in " ".join(result.output.split())
    assert "nobody leads" in result.output


@pytest.mark.cluster
@pytest.mark.slow
def test_the_bench(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    sections = ["sequential", "packed", "workload", "kills"]
    sizes = ["--records", "100", "--seconds", "1", "--commands", "40", "--kills", "1"]
    widths = ["--batch", "50", "--in-flight", "4", "--clients", "2", "--workload", "f,put", "--no-fsync"]
    printed = rayraft_command("bench", "--only", ",".join(sections), *sizes, *widths, "--json", str(file))
    for words in ("bare relay", "time without service", "fsync OFF"):
        assert words in printed

    found = json.loads(file.read_text())
    one = found["repeats"][0]
    assert list(one) == sections
    assert found["settings"]["settings"]["fsync"] is False
    assert found["surroundings"]["rayraft"] == rayraft.__version__
    assert "--no-fsync" in found["surroundings"]["command"]
    assert one["sequential"]["commit"]["count"] == 40
    assert found["figures"]["sequential.of_relay.p50"]["values"] == [
        pytest.approx(one["sequential"]["commit"]["p50"] / one["sequential"]["relay"]["p50"])
    ]
    assert found["figures"]["packed.pipe"]["median"] > 0
    assert one["packed"]["batch"] == 50
    rows = one["workload"]["rows"]
    assert {name: set(row["latency"]) for name, row in rows.items()} == {
        "F": {"read", "read-modify-write"},
        "put": {"update"},
    }
    for measured in (one["packed"], *rows.values(), one["kills"]):
        assert measured["verification"]["lost"] == 0
        assert measured["commands"] > 0
    assert len(one["kills"]["without_service"]) == 1


# --- histories --------------------------------------------------------------------------------------------------------

JEPSEN = """INFO  jepsen.util - 0 :invoke :write 1
INFO  jepsen.util - 0 :ok :write 1
INFO  jepsen.util - 1 :invoke :read nil
INFO  jepsen.util - 1 :ok :read 1
"""
STRINGS = """{:process 0, :type :invoke, :f :append, :key "[a]", :value "x"}
{:process 0, :type :ok, :f :append, :key "[a]", :value "x"}
{:process 0, :type :invoke, :f :get, :key "[a]", :value nil}
{:process 0, :type :ok, :f :get, :key "[a]", :value "xx"}
"""


@pytest.fixture
def histories(tmp_path: Path) -> dict[str, str]:
    """A file of each kind, by name. In `crowd`, where two write the same, every order has to be tried."""
    crowd = [f"INFO  jepsen.util - {client} :invoke :write {client // 2}" for client in range(20)]
    crowd += [f"INFO  jepsen.util - {client} :ok :write {client // 2}" for client in range(20)]
    crowd += ["INFO  jepsen.util - 0 :invoke :read nil", "INFO  jepsen.util - 0 :ok :read 99"]
    texts = {"good": JEPSEN, "bad": STRINGS, "crowd": "\n".join(crowd), "broken": JEPSEN + "and so on"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in texts}


def test_a_good_history(histories: dict[str, str]) -> None:
    result = invoke("check-history", histories["good"])
    assert result.exit_code == 0
    assert f"{histories['good']}: linearizable: yes (register, 2 operations, 1 keys, " in result.output


def test_a_bad_history_is_explained(histories: dict[str, str]) -> None:
    result = invoke("check-history", histories["good"], histories["bad"])
    assert result.exit_code == 1
    assert "linearizable: yes (register" in result.output
    assert "linearizable: no (text, 2 operations, 1 keys, " in result.output
    assert "key '[a]': client 0: read => 'xx'  [3 .. 4]\n  can not be placed; expected was 'x'\n" in result.output


def test_an_undecided_history(histories: dict[str, str]) -> None:
    result = invoke("check-history", histories["crowd"], "--steps", "1000")
    assert result.exit_code == 2
    assert "linearizable: undecided (register, 21 operations, 1 keys, " in result.output
    assert "the search was given up" in result.output


def test_a_history_that_can_not_be_read(histories: dict[str, str], tmp_path: Path) -> None:
    result = invoke("check-history", histories["broken"], histories["good"])
    assert result.exit_code == 2
    assert "error: broken, line 5: no line of Jepsen's log: 'and so on'" in result.output
    assert "linearizable: yes" in result.output  # the others are checked all the same
    assert invoke("check-history", histories["broken"], histories["bad"]).exit_code == 1
    assert invoke("check-history", str(tmp_path / "absent")).exit_code == 2
    assert invoke("check-history").exit_code == 2
