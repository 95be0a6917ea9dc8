"""Founding, resuming, finding and ending groups; what is refused, and how."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import ray

import rayraft
from rayraft.ray.spec import NodeReport, NodeState
from rayraft.ray.survey import look
from rayraft.storage.identity import create_identity, seal
from rayraft.storage.rocks import RocksLogStore
from tests.ray.recorded import Recorded
from tests.ray.support import Ledger, assert_equal_states, running_nodes, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]


class Other:
    @rayraft.command
    def change(self) -> None: ...


def test_a_group_serves_and_its_replicas_agree(start_group: Start) -> None:
    ledger = start_group(Ledger, "serves")
    assert ledger.deposit("ann", 10) == 10
    assert ledger.deposit.remote("ann", 5).result(timeout_s=30) == 15
    assert ledger.balance_of("ann") == 15
    assert_equal_states(ledger)


@pytest.mark.slow
def test_a_group_of_one_and_of_five(start_group: Start) -> None:
    for nodes in (1, 5):
        ledger = start_group(Ledger, f"of-{nodes}", nodes=nodes)
        assert ledger.deposit("ann", nodes) == nodes
        assert_equal_states(ledger)
        ledger.cluster.shutdown()


def test_connect_finds_the_group_from_a_name(start_group: Start) -> None:
    ledger = start_group(Ledger, "found", nodes=1)
    ledger.deposit("ann", 1)
    again = rayraft.connect("found")
    assert again.balance_of("ann") == 1
    assert dir(again) == dir(ledger)


def test_a_shut_down_group_resumes_from_its_directory(start_group: Start) -> None:
    ledger = start_group(Ledger, "resumes")
    bank = Recorded(ledger)
    for amount in range(1, 21):
        bank.deposit("ann", amount)
    ledger.cluster.shutdown()
    with pytest.raises(rayraft.NoSuchGroup, match="resumes"):
        rayraft.connect("resumes")
    bank = bank.through(start_group(Ledger, "resumes"))
    assert bank.balance_of("ann") == 210
    bank.assert_linearizable(at_least=21)


def test_after_a_shutdown_every_disk_has_every_command(start_group: Start, tmp_path: Path) -> None:
    """The last one too, though two of three were enough for its answer: any one disk is then worth them all."""
    ledger = start_group(Ledger, "even")
    identities = {node: found.identity for node, found in ledger.cluster.reports().items()}
    assert ledger.deposit("ann", 7) == 7
    ledger.cluster.shutdown()
    ends = {}
    for node, identity in identities.items():
        path = tmp_path / "even" / f"node-{node}" / "log"
        store = RocksLogStore(path, identity.configuration, owner=identity.disk_id, create=False)
        ends[node] = store.last_index()
        store.close()
    assert len(set(ends.values())) == 1, ends


def test_shutdown_ends_open_calls_and_leaves_no_actor_thread_or_lock(start_group: Start, tmp_path: Path) -> None:
    new_threads = threads_since(threading.enumerate())
    ledger = start_group(Ledger, "ends", nodes=1, supervise=True)
    assert "ends:supervisor" in names_of("ends")
    (found,) = ledger.cluster.reports().values()
    ledger.cluster.shutdown()
    with pytest.raises(rayraft.ClientClosed):
        ledger.deposit("ann", 1)
    assert names_of("ends") == []
    wait_until(lambda: not Path(f"/proc/{found.pid}").exists(), what="the end of the process")
    identity = found.identity
    RocksLogStore(tmp_path / "ends" / "node-1" / "log", identity.configuration, owner=identity.disk_id).close()
    wait_until(lambda: not new_threads(), what="the end of every thread")


def test_a_dropped_handle_of_a_group_that_another_one_shut_down_leaves_no_thread(start_group: Start) -> None:
    new_threads = threads_since(threading.enumerate())
    ledger = start_group(Ledger, "gone", nodes=1)
    other = rayraft.connect("gone", timeout_s=1)
    assert other.deposit("ann", 1) == 1
    ledger.cluster.shutdown()
    with pytest.raises(rayraft.CommandTimeout):
        other.deposit("ann", 1)
    del other
    gc.collect()
    wait_until(lambda: not new_threads(), what="the end of every thread")


def threads_since(before: Iterable[threading.Thread]) -> Callable[[], list[str]]:
    """Those of rayraft that were not there ``before``: a handle of an earlier test may still look for its nodes."""
    known = set(before)
    return lambda: [each.name for each in set(threading.enumerate()) - known if "rayraft" in each.name]


def names_of(group: str) -> list[str]:
    actors = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["name"].startswith(f"{group}:")]


RIVAL = """
    import sys, ray, rayraft
    from tests.ray.support import Ledger
    ray.init(address=sys.argv[1], log_to_driver=False)
    print("ready", flush=True)
    sys.stdin.readline()
    ledger = rayraft.start(Ledger, name="rivals", data_dir=sys.argv[2], allow_colocated=True)
    print(ledger.mark(sys.argv[3]), ledger.cluster.found.origin.name, flush=True)
"""


@pytest.mark.slow
def test_two_processes_that_start_at_once_share_one_group(start_group: Start, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", textwrap.dedent(RIVAL), address, str(tmp_path / "rivals")]
    rivals = [
        subprocess.Popen([*command, token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for token in "ab"
    ]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.flush()
    said = [rival.communicate(timeout=240)[0].split() for rival in rivals]
    assert sorted(count for count, _ in said) == ["1", "2"]
    assert sorted(origin for _, origin in said) == ["NEW", "RUNNING"]
    again = start_group(Ledger, "rivals")
    assert set(again.seen()) == {"a", "b"}


class Needs:
    def __init__(self, what: str) -> None: ...

    @rayraft.command
    def change(self) -> None: ...


def test_a_constructor_that_raises_is_told_and_the_next_attempt_founds_the_group(start_group: Start) -> None:
    with pytest.raises(rayraft.BadConfiguration, match=r"no Needs can be made .*missing 1 required .*'what'"):
        start_group(Needs, "needs", nodes=1)
    assert names_of("needs") == []
    start_group(Needs, "needs", nodes=1, args=("this",)).change()


class Rolled:
    def __init__(self) -> None:
        self.id = uuid.uuid4().hex

    @rayraft.command
    def change(self) -> None: ...


def test_nodes_whose_first_objects_differ_do_not_found_a_group(start_group: Start, tmp_path: Path) -> None:
    with pytest.raises(rayraft.BadConfiguration, match=r"Rolled\.__init__ is not deterministic"):
        start_group(Rolled, "rolled")
    sealed = [found.identity.sealed for found in look(str(tmp_path / "rolled")) if found.identity is not None]
    assert sealed == [False] * 3
    start_group(Rolled, "rolled-unasked", settings=rayraft.Settings(digest_entries=0)).change()


def purse(edited: bool = False) -> type:
    """A class as it is before or after its file was edited."""

    class Purse:
        total = 0

        @rayraft.command
        def add(self) -> int:
            self.total += 1
            return self.total

    before = Purse

    class Purse:  # type: ignore[no-redef]
        total = 0

        @rayraft.command
        def add(self) -> int:
            self.total += 10
            return self.total

    return Purse if edited else before


def test_a_group_resumes_with_the_class_it_was_founded_with(
    start_group: Start, caplog: pytest.LogCaptureFixture
) -> None:
    start_group(purse(), "founded", nodes=1).add()
    rayraft.connect("founded").cluster.shutdown()
    with pytest.raises(rayraft.BadConfiguration, match=r"founded with the class .*Purse .*not with Other"):
        start_group(Other, "founded", nodes=1)
    start_group(purse(), "founded", nodes=1).cluster.shutdown()
    assert "was edited" not in caplog.text
    assert start_group(purse(edited=True), "founded", nodes=1).add() == 20
    assert "was edited" in caplog.text


def test_a_second_start_under_the_name_connects(start_group: Start) -> None:
    start_group(Ledger, "twice", nodes=1).deposit("ann", 3)
    assert start_group(Ledger, "twice", nodes=1).balance_of("ann") == 3


def test_two_starts_at_once_give_one_group(start_group: Start) -> None:
    handles: list[rayraft.Handle] = []
    errors: list[BaseException] = []

    def begin() -> None:
        try:
            handles.append(start_group(Ledger, "race"))
        except rayraft.RayraftError as error:
            errors.append(error)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert handles, errors
    handles[0].deposit("ann", 1)
    assert all(handle.balance_of("ann") == 1 for handle in handles)
    assert all(isinstance(error, rayraft.GroupExists) for error in errors)


@pytest.mark.parametrize(("machine", "options"), [(Other, {}), (Ledger, {"nodes": 3})])
def test_another_group_under_the_name_is_refused(start_group: Start, machine: type, options: dict[str, Any]) -> None:
    start_group(Ledger, "taken", nodes=1)
    with pytest.raises(rayraft.GroupExists, match="runs already"):
        start_group(machine, "taken", **{"nodes": 1, **options})


def test_another_directory_under_the_name_is_refused(start_group: Start, tmp_path: Path) -> None:
    start_group(Ledger, "moved", nodes=1)
    with pytest.raises(rayraft.GroupExists, match="another data directory"):
        start_group(Ledger, "moved", nodes=1, data_dir=tmp_path / "elsewhere")


class NoCommand:
    @rayraft.query
    def look(self) -> int:
        return 1


class Reserved:
    @rayraft.command
    def batch(self) -> None: ...


class Waits:
    @rayraft.command
    async def wait(self) -> None: ...


class Mapping(dict):  # type: ignore[type-arg]
    @rayraft.command
    def change(self) -> None: ...


@pytest.mark.parametrize("name", ["replace_after", "rebuild_after", "restart_after"])
def test_a_supervisor_s_patience_is_a_span_or_none(name: str) -> None:
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(rayraft.BadConfiguration, match=name):
            rayraft.Settings(**{name: wrong})
    assert getattr(rayraft.Settings(**{name: None}), name) is None


@pytest.mark.parametrize(
    ("machine", "options", "words"),
    [
        (Ledger, {"nodes": 2}, "nodes must be"),
        (Ledger, {"nodes": 0}, "nodes must be"),
        (Ledger, {"nodes": "3"}, "nodes must be"),
        (Ledger, {"nodes": 3.0}, r"nodes must be .*not 3\.0$"),
        (Ledger, {"nodes": 11}, r"nodes must be .*not 11$"),
        (Ledger, {"data_dir": "s3://bucket/bank"}, "data_dir must be a directory on the disks"),
        (Ledger, {"data_dir": Path("gs://bucket/bank")}, "data_dir must be a directory on the disks"),
        (Ledger, {"data_dir": None}, "data_dir must be a directory on the disks"),
        (Ledger, {"settings": {"election_timeout": 1.0}}, r"rayraft\.Settings"),
        (Ledger, {"name": "a/b"}, "name"),
        (Ledger, {"name": ""}, "name"),
        (Ledger, {"timeout_s": 0}, "timeout_s"),
        (Ledger, {"timeout_s": "3"}, "timeout_s must be a number of seconds above 0, not '3'"),
        (Ledger, {"settings": rayraft.Settings(heartbeat_interval=2.0)}, "heartbeat_interval"),
        (Ledger, {"settings": rayraft.Settings(snapshot_entries=0)}, "snapshot_entries"),
        (Ledger, {"args": 3}, r"args must be a list or tuple .*args=\(value,\)"),
        (Ledger, {"args": "ab"}, "args must be a list or tuple"),
        (Ledger, {"kwargs": [1]}, "kwargs a dictionary"),
        (Ledger, {"args": (threading.Lock(),)}, "args can not be pickled"),
        (Ledger, {"kwargs": {"lock": threading.Lock()}}, "kwargs can not be pickled"),
        (Ledger(), {}, "a class is needed"),
        (NoCommand, {}, "no method marked"),
        (Reserved, {}, "batch"),
        (Waits, {}, "plain method"),
        (Mapping, {}, "keep containers in attributes"),
    ],
)
def test_bad_arguments_are_named_before_anything_starts(
    tmp_path: Path, machine: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(rayraft.BadConfiguration, match=words):
        rayraft.start(machine, **{"name": "bad", "data_dir": tmp_path, **options})
    assert not list(tmp_path.iterdir())


def test_an_unknown_group_is_named(ray_cluster: None) -> None:
    with pytest.raises(rayraft.NoSuchGroup, match="nobody"):
        rayraft.connect("nobody")


def test_the_directory_of_another_group_is_refused(start_group: Start, tmp_path: Path) -> None:
    start_group(Ledger, "mine", nodes=1).cluster.shutdown()
    with pytest.raises(rayraft.WrongDirectory, match="mine"):
        start_group(Ledger, "yours", nodes=1, data_dir=tmp_path / "mine")
    with pytest.raises(rayraft.NoSuchGroup):
        rayraft.connect("yours")


def test_a_nodes_own_directory_is_not_taken_for_the_groups(start_group: Start, tmp_path: Path) -> None:
    start_group(Ledger, "nested", nodes=1).cluster.shutdown()
    with pytest.raises(rayraft.BadConfiguration, match="directory of one node"):
        start_group(Ledger, "nested", nodes=1, data_dir=tmp_path / "nested" / "node-1")


def test_a_founding_that_was_interrupted_between_two_seals_is_completed(start_group: Start, tmp_path: Path) -> None:
    for node in (1, 2, 3):
        directory = tmp_path / "halfway" / f"node-{node}"
        identity = create_identity(directory, group="halfway", cluster_id="c0ffee", node_id=node, voters=(1, 2, 3))
        if node == 1:
            RocksLogStore(directory / "log", identity.configuration, owner=identity.disk_id).close()
            seal(directory)
    ledger = start_group(Ledger, "halfway")
    assert ledger.deposit("ann", 1) == 1
    assert running_nodes(ledger) == [1, 2, 3]


@pytest.mark.slow
def test_swapped_directories_are_refused(start_group: Start, tmp_path: Path) -> None:
    start_group(Ledger, "swapped").cluster.shutdown()
    root = tmp_path / "swapped"
    (root / "node-1").rename(root / "aside")
    (root / "node-2").rename(root / "node-1")
    (root / "aside").rename(root / "node-2")
    with pytest.raises(rayraft.WrongDirectory, match="node_id"):
        start_group(Ledger, "swapped")


def test_a_directory_with_other_data_is_refused(start_group: Start, tmp_path: Path) -> None:
    (tmp_path / "photos" / "node-1").mkdir(parents=True)
    (tmp_path / "photos" / "node-1" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(rayraft.WrongDirectory, match=r"cat\.jpg"):
        start_group(Ledger, "photos", nodes=1)


def test_another_number_of_nodes_is_refused(start_group: Start) -> None:
    start_group(Ledger, "grown", nodes=1).cluster.shutdown()
    with pytest.raises(rayraft.BadConfiguration, match="nodes=1"):
        start_group(Ledger, "grown", nodes=3)


def test_one_lost_disk_never_votes_and_the_others_go_on(start_group: Start, tmp_path: Path) -> None:
    ledger = start_group(Ledger, "one-lost")
    bank = Recorded(ledger)
    bank.deposit("ann", 7)
    ledger.cluster.shutdown()
    shutil.rmtree(tmp_path / "one-lost" / "node-2")
    ledger = start_group(Ledger, "one-lost")
    bank = bank.through(ledger)
    assert bank.balance_of("ann") == 7
    assert running_nodes(ledger) == [1, 3]

    def refused() -> NodeReport | None:
        found = ledger.cluster.reports()[2]
        return found if isinstance(found, NodeReport) and found.state is NodeState.FAILED else None

    bank.deposit("ann", 1)
    bank.assert_linearizable(at_least=3)
    lost = wait_until(refused, what="the refusal of the lost disk")
    assert isinstance(lost.error, rayraft.LostDisk)
    assert "node-2" in str(lost.error)


def test_a_majority_of_lost_disks_is_refused(start_group: Start, tmp_path: Path) -> None:
    start_group(Ledger, "two-lost").cluster.shutdown()
    for node in (1, 2):
        shutil.rmtree(tmp_path / "two-lost" / f"node-{node}")
    with pytest.raises(rayraft.LostDisk, match="node-1"):
        start_group(Ledger, "two-lost")


def test_a_damaged_log_is_refused_by_name_and_the_others_go_on(start_group: Start, tmp_path: Path) -> None:
    ledger = start_group(Ledger, "damaged")
    bank = Recorded(ledger)
    for _ in range(50):
        bank.deposit("ann", 1)
    ledger.cluster.shutdown()
    files = sorted((tmp_path / "damaged" / "node-3").rglob("*.sst")) or sorted(
        (tmp_path / "damaged" / "node-3").rglob("*.log")
    )
    data = bytearray(files[-1].read_bytes())
    data[len(data) // 3] ^= 0x40
    files[-1].write_bytes(data)
    ledger = start_group(Ledger, "damaged")
    bank = bank.through(ledger)
    assert bank.balance_of("ann") == 50
    bank.assert_linearizable(at_least=51)
    found = ledger.cluster.reports()[3]
    assert isinstance(found.error, rayraft.DamagedLog)
    assert "node-3" in str(found.error)
