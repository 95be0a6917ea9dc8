"""The load generators of the peers say what they can not do, before they connect to anything."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from rayraft.bench.aims import aims, quick
from rayraft.bench.figures import Latency
from rayraft.bench.peers import Etcd, NotInstalled, Shape, build_client, leader_of
from rayraft.bench.progress import Stage
from rayraft.bench.sections import Plan, Rivals
from rayraft.bench.sections.rivals import Contest, Entrant, peers
from rayraft.bench.suite import Report
from rayraft.errors import RayraftError
from rayraft.ray.settings import Settings
from tests.bench.test_sections import text


@pytest.fixture
def client() -> Path:
    try:
        return build_client()
    except NotInstalled as why:
        pytest.skip(str(why))


@pytest.mark.slow  # the client may have to be built
@pytest.mark.timeout(900)
def test_a_transaction_larger_than_the_keys_is_refused(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It puts a key once only, so there is no such transaction: to look for free keys would never end."""
    monkeypatch.setattr("rayraft.bench.peers._first_line", lambda *_: "none runs")
    monkeypatch.setattr("rayraft.bench.peers.leader_of", min)
    nobody = Etcd(["http://127.0.0.1:9"], client, [])
    with pytest.raises(RayraftError, match="120 puts need as many keys, not 64"):
        nobody.put(Shape(8, 120), 256, 64, 0.01)


@pytest.mark.parametrize("alone", [True, False])
def test_contests(alone: bool) -> None:
    """The quick bench does without the one that no aim speaks of."""
    names = [contest.name for contest in Contest.all(Plan(peers_alone=alone))]
    assert names == ["sequential"] * alone + ["batches of 120", "best batch", "1000 singly", "best singly", "callers"]
    assert not quick(Plan()).peers_alone


class Members(BaseHTTPRequestHandler):
    """Three members by their ports, of which `leads` leads."""

    leads = 0

    def do_POST(self) -> None:
        own = self.server.server_address[1]
        status = {"header": {"member_id": str(own)}, "leader": str(self.leads)}
        body = json.dumps(status).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_etcd_is_asked_where_its_leader_is() -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Members)) for _ in range(3)]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        ports = [server.server_address[1] for server in servers]
        endpoints = [f"http://127.0.0.1:{port}" for port in ports]
        Members.leads = ports[1]
        assert leader_of(endpoints) == endpoints[1]
        Members.leads = 0
        with pytest.raises(ValueError, match="no leader"):
            leader_of(endpoints)


def test_as_many_callers_as_calls_under_way_are_not_taken_for_each_other() -> None:
    shapes = {contest.name: contest.shapes["rayraft"] for contest in Contest.all(Plan(callers=1000, outstanding=1000))}
    assert shapes["callers"].awaited
    assert not shapes["1000 singly"].awaited
    assert not shapes["best singly"].awaited
    assert str(shapes["callers"]) == str(shapes["1000 singly"])


def test_a_peer_that_answers_nothing_is_shown_with_its_errors() -> None:
    """etcd refuses requests above 1.5 MiB: a report was lost to the division by its rate."""
    never = Latency(0, 0.0, *[float("nan")] * 4)
    entrants = [
        Entrant("batches of 120", "rayraft", "8 x 120", [9e4], never, 0),
        Entrant("batches of 120", "etcd", "8 x 120", [0.0], never, 17_160),
    ]
    found = Rivals(16_384, entrants, {"rayraft": "this", "etcd": "3.4"}, [])
    assert {"batches_of_120.etcd.rate"} <= {figure.name for figure in found.figures()}
    assert not [figure.name for figure in found.figures() if "ours" in figure.name or "best_of" in figure.name]
    assert "17160" in text(found.table())
    assert all(aim.measure(Report({}, {}, [{"peers": found}])) is None for aim in aims(Plan()))


def test_what_is_missing_is_named_with_how_to_install_it() -> None:
    why = "PySyncObj is not installed (pip install rayraft[peers])"
    assert "rayraft[peers]" in text(Rivals(256, [], {"rayraft": "this"}, [], {"PySyncObj": why}).table())


def test_the_peers_have_three_members_and_so_has_rayraft(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def shared_group(plan: Plan, *_: object, **__: object) -> None:
        raise Seen(plan.nodes, plan.settings.fsync)

    monkeypatch.setattr(Plan, "shared_group", shared_group)
    with pytest.raises(Seen) as seen:
        peers(Plan(nodes=1, settings=Settings(fsync=False)), Stage(Console(file=io.StringIO())))
    assert seen.value.args == (3, True)
