"""Calls through a real group: results, errors, batches, awaiting, other processes, sizes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

import rayraft
from rayraft.ray import sharing
from rayraft.ray.spec import NodeReport
from tests.ray.support import assert_equal_states, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]
PATIENCE = 30.0


class Refused(Exception):
    """An exception with arguments of its own."""

    def __init__(self, who: str, reason: str) -> None:
        super().__init__(who, reason)
        self.who = who


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no")


class Ring:
    def __init__(self) -> None:
        self.next = self


class Box:
    def __init__(self, first: str = "start", *, size: int = 3) -> None:
        self.items: list[Any] = [first] * size

    @rayraft.command
    def add(self, item: Any) -> int:
        self.items.append(item)
        return len(self.items)

    @rayraft.command
    def add_then_raise(self, item: Any) -> None:
        self.items.append(item)
        raise Refused("box", "too late")

    @rayraft.command(atomic=True)
    def add_or_nothing(self, item: Any) -> None:
        self.items.append(item)
        raise Refused("box", "rolled back")

    @rayraft.command
    def raise_strange(self) -> None:
        raise Unpicklable("strange")

    @rayraft.command
    def leave(self) -> None:
        raise SystemExit(3)

    @rayraft.command
    def bad_result(self) -> Any:
        return threading.Lock()

    @rayraft.query
    def all(self) -> list[Any]:
        return self.items

    @rayraft.query
    def size(self) -> int:
        return len(self.items)

    @rayraft.query
    def rings_left(self, made: int) -> tuple[int, int]:
        rings: weakref.WeakSet[Ring] = weakref.WeakSet()
        for _ in range(made):
            rings.add(Ring())
        return len(rings), gc.get_freeze_count()

    @rayraft.query
    def raise_in_query(self) -> None:
        raise KeyError("not here")


@pytest.fixture(scope="module")
def box(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rayraft.Handle]:
    handle = rayraft.start(
        Box,
        name="box",
        data_dir=tmp_path_factory.mktemp("box"),
        args=("first",),
        kwargs={"size": 1},
        allow_colocated=True,
        supervise=False,
        timeout_s=60,
    )
    assert handle.all() == ["first"]
    yield handle
    assert_equal_states(handle)  # whatever the tests raised, the replicas still agree
    handle.cluster.shutdown()


def test_a_command_that_raises_gives_its_exception_and_the_node_goes_on(box: rayraft.Handle) -> None:
    before = box.size()
    with pytest.raises(Refused) as caught:
        box.add_then_raise(1)
    assert caught.value.who == "box"
    assert box.size() == before + 1  # as with any Python object, what was done before the raise stays


def test_an_atomic_command_that_raises_changes_nothing(box: rayraft.Handle) -> None:
    before = box.all()
    with pytest.raises(Refused, match="rolled back"):
        box.add_or_nothing(1)
    assert box.all() == before


def test_strange_errors_and_results_are_the_callers_alone(box: rayraft.Handle) -> None:
    with pytest.raises(rayraft.CommandFailed, match="strange"):
        box.raise_strange()
    with pytest.raises(SystemExit):
        box.leave()
    with pytest.raises(TypeError):
        box.bad_result()
    with pytest.raises(TypeError):
        box.add("too", "many")
    with pytest.raises(KeyError):
        box.raise_in_query()
    assert box.add("fine") == box.size()


def test_a_node_collects_what_its_object_leaves_behind_and_never_looks_at_ray(box: rayraft.Handle) -> None:
    left, frozen = box.rings_left(50_000)
    assert left < 25_000
    assert frozen > 10_000  # objects of Python and Ray


def test_bad_calls_are_refused_on_this_side(box: rayraft.Handle) -> None:
    with pytest.raises(rayraft.BadCall, match="serialised"):
        box.add(threading.Lock())
    with pytest.raises(AttributeError, match="no command or query 'remove'"):
        box.remove(1)
    with pytest.raises(rayraft.BadConfiguration):
        box.options(timeout_s=0)


def test_functions_of_the_caller_travel_by_value_and_objects_of_classes_that_only_it_has_do_not(
    box: rayraft.Handle,
) -> None:
    class Local:
        value = 7

    box.add(lambda number: Refused("box", str(number)))
    assert box.all()[-1](7).args == ("box", "7")
    before = box.size()
    with pytest.raises(rayraft.BadCall, match=r"tests\.ray\.test_calls\.Local"):
        box.add(Local())
    assert box.size() == before


def test_a_batch_is_one_record_with_results_in_order(box: rayraft.Handle) -> None:
    entries = {node: found.replica.last_index for node, found in box.cluster.reports().items()}
    start = box.size()
    with box.batch() as batch:
        calls = [batch.add(number) for number in range(100)]
    assert batch.results == list(range(start + 1, start + 101))
    assert calls[3].result() == start + 4
    leader = box.cluster.leader()
    assert box.cluster.reports()[leader].replica.last_index == entries[leader] + 1


def test_a_batch_that_raises_inside_sends_nothing(box: rayraft.Handle) -> None:
    before = box.size()
    with pytest.raises(ValueError, match="nonsense"), box.batch() as batch:
        batch.add(int("nonsense"))
    assert box.size() == before
    with pytest.raises(rayraft.BadCall, match="query"), box.batch() as batch:
        batch.size()


def test_an_error_in_a_batch_is_one_commands_own(box: rayraft.Handle) -> None:
    with box.batch() as batch:
        good, bad, after = batch.add(1), batch.raise_strange(), batch.add(2)
    assert after.result() == good.result() + 1
    with pytest.raises(rayraft.CommandFailed):
        bad.result()
    with pytest.raises(rayraft.CommandFailed):
        _ = batch.results


def test_calls_of_one_thread_are_applied_in_order(box: rayraft.Handle) -> None:
    start = box.size()
    results = [box.add.remote(number) for number in range(5_000)]
    assert [result.result() for result in results] == list(range(start + 1, start + 5_001))


def test_many_threads_share_a_handle(box: rayraft.Handle) -> None:
    start, lengths = box.size(), []

    def add_some() -> None:
        lengths.extend([box.add(0) for _ in range(25)])

    threads = [threading.Thread(target=add_some) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lengths) == list(range(start + 1, start + 401))


def test_results_can_be_awaited(box: rayraft.Handle) -> None:
    async def main() -> tuple[list[int], int]:
        added = await asyncio.gather(*(box.add.remote(number) for number in range(50)))
        return added, await box.size.remote()

    added, size = asyncio.run(main())
    assert added[-1] == size


def test_blocking_calls_work_inside_a_running_event_loop(box: rayraft.Handle) -> None:
    async def cell() -> int:
        return box.add("from a notebook")  # type: ignore[no-any-return]

    assert asyncio.run(cell()) == box.size()


def test_a_handle_travels_into_tasks_and_actors(box: rayraft.Handle) -> None:
    @ray.remote(num_cpus=0)
    def from_a_task(handle: rayraft.Handle, item: str) -> int:
        return handle.add(item)  # type: ignore[no-any-return]

    lengths = ray.get([from_a_task.remote(box, "from a task") for _ in range(3)])
    assert sorted(lengths) == list(range(box.size() - 2, box.size() + 1))


def sessions_of(handle: rayraft.Handle) -> int:
    reports = [report for report in handle.cluster.status().values() if isinstance(report, NodeReport)]
    return max(report.replica.sessions for report in reports if report.replica)


def test_a_process_that_runs_many_tasks_is_one_client(box: rayraft.Handle) -> None:
    """With one session, however often its handles come and go."""

    @ray.remote(num_cpus=0.5)
    def from_a_task(handle: rayraft.Handle, item: int) -> tuple[int, int]:
        return os.getpid(), handle.add(item)

    before, tasks = sessions_of(box), 60
    came = ray.get([from_a_task.remote(box, item) for item in range(tasks)])
    assert len({length for _, length in came}) == tasks, "each was applied once"
    assert sessions_of(box) - before <= len({pid for pid, _ in came})


def test_a_handle_that_is_dropped_ends_its_session(box: rayraft.Handle) -> None:
    before = sessions_of(box)
    handle = rayraft.connect("box")
    handle.add("brief")
    assert sessions_of(box) == before + 1
    del handle
    gc.collect()
    wait_until(lambda: sessions_of(box) == before)


def check_to_unpickle_a_handle_asks_nobody(box: rayraft.Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray holds a lock while it unpickles what a task is given, and what brings its answers needs that lock."""
    data = pickle.dumps(box.options(timeout_s=7))

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was asked")

    with monkeypatch.context() as patch:
        for module, names in ((ray, ("get", "wait", "get_actor")), (ray.util, ("list_named_actors",))):
            for name in names:
                patch.setattr(module, name, asked)
        handle = pickle.loads(data)
        assert (handle.name, "add" in dir(handle)) == ("box", True)
        assert pickle.loads(pickle.dumps(handle)).name == "box"
        with pytest.raises(AttributeError, match="no command or query"):
            handle.subtract(1)
    assert handle.size() == box.size()
    assert handle.add("from a copy") == box.size()
    assert set(handle.cluster.status()) == set(box.cluster.status())


def test_to_unpickle_a_handle_asks_nobody(box: rayraft.Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    check_to_unpickle_a_handle_asks_nobody(box, monkeypatch)


def test_to_connect_where_a_handle_is_unpickled_is_caught(box: rayraft.Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayraft.Handle, "__reduce__", lambda handle: (rayraft.connect, (handle.name,)))
    with pytest.raises(AssertionError, match="Ray was asked"):
        check_to_unpickle_a_handle_asks_nobody(box, monkeypatch)


def test_handles_that_were_passed_here_are_closed_one_by_one(box: rayraft.Handle) -> None:
    one, other = (pickle.loads(pickle.dumps(box)) for _ in range(2))
    assert one.size() == other.size() == box.size()
    assert one._access.client(1.0)[0] is other._access.client(1.0)[0]
    patient, add = one.options(timeout_s=60), one.add
    assert patient.size() == box.size()
    under_way, batch = one.add.remote("under way"), one.batch()
    batch.add("too late")
    one.close()
    for call in (one.size, patient.size, lambda: add(1), one.batch, lambda: batch.__exit__(None, None, None)):
        with pytest.raises(rayraft.ClientClosed):
            call()
    assert under_way.result() == other.size()


def test_clients_of_groups_that_are_gone_are_forgotten(start_group: Start) -> None:
    for name in ("one", "two"):
        group = start_group(Box, name, nodes=1)
        assert pickle.loads(pickle.dumps(group)).add(1) > 0
        group.cluster.shutdown()
    assert "one" not in {name for name, _ in sharing._all_shared}


def test_a_handle_that_was_passed_on_outlives_its_group(start_group: Start) -> None:
    """Gone is what it says, and once the group was started again it goes on, as does what is asked of its cluster."""
    group = start_group(Box, "brief", nodes=1)
    passed, used = (pickle.loads(pickle.dumps(group)) for _ in range(2))
    length = used.add(2)
    assert set(used.cluster.status()) == {1}
    group.cluster.shutdown()
    for handle in (used, passed):
        with pytest.raises(rayraft.NoSuchGroup):
            handle.add(3)
    start_group(Box, "brief", nodes=1)
    assert (used.add(4), passed.add(5)) == (length + 1, length + 2)
    for cluster in (used.cluster, group.cluster):
        assert isinstance(cluster.status()[1], NodeReport)
        assert set(cluster.digests()) == {1}


def check_a_forked_child_is_told_at_once(box: rayraft.Handle) -> None:
    """Ray's connections are its parent's: whatever would ask Ray there would wait for ever, and confuse the parent."""
    unused, used = (pickle.loads(pickle.dumps(box)) for _ in range(2))
    used.add("in the parent")
    told, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        for ask in (lambda: unused.add(1), lambda: used.add(1), lambda: rayraft.connect("box")):
            with contextlib.suppress(rayraft.ClientClosed):
                ask()
                os.write(tells, b"answered ")
            os.write(tells, b"told ")
        os._exit(0)
    os.close(tells)
    timer = threading.Timer(PATIENCE, os.kill, (pid, signal.SIGKILL))
    timer.start()
    os.waitpid(pid, 0)
    timer.cancel()
    with os.fdopen(told) as said:
        assert said.read() == "told told told "
    assert unused.add("in the parent") == used.size()


def test_a_forked_child_is_told_at_once(box: rayraft.Handle) -> None:
    check_a_forked_child_is_told_at_once(box)


@pytest.mark.parametrize("size", [100 << 10, 1 << 20, 8 << 20])
def test_large_values_go_both_ways(box: rayraft.Handle, size: int) -> None:
    value = bytes(range(256)) * (size // 256)
    box.add(value)
    assert box.all()[-1] == value


def test_a_call_above_the_limit_is_refused(start_group: Start) -> None:
    settings = rayraft.Settings(client=rayraft.ClientConfig(max_call_bytes=1000))
    small = start_group(Box, "small", nodes=1, settings=settings)
    with pytest.raises(rayraft.BadCall, match="limit of 1000"):
        small.add(b"x" * 2000)


def test_a_closed_handle_says_so(box: rayraft.Handle) -> None:
    again = rayraft.connect("box")
    assert again.size() == box.size()
    again.close()
    with pytest.raises(rayraft.ClientClosed):
        again.size()
    assert box.size()
