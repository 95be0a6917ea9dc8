"""A group on the bed, and what its clients may have seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rayraft.chaos.group import Group, digests
from rayraft.chaos.machines import Machines, RayOptions
from rayraft.chaos.station import ClientPlan
from rayraft.ray.settings import Settings

CLIENT_SECONDS = 4.0  # after which a client is told that it had no answer
# These tests are about rayraft, on computers that may be slow: Ray goes on without its head, and cuts no machine off.
STEADY = {"RAY_gcs_rpc_server_reconnect_timeout_s": "900", "RAY_health_check_failure_threshold": "100"}
# A machine that is back starts its node only when Ray has taken its former life for dead.
QUICK = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "900",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "6",
}


@contextmanager
def group_on(
    homes: list[int],
    machines: int,
    *,
    ray: Mapping[str, str] = STEADY,
    durable_head: bool = True,
    disk_bytes: Mapping[int, int] | None = None,
) -> Iterator[Group]:
    """Nodes on ``homes``, clients on every machine; Ray's head is on machine 1."""
    options = RayOptions(durable_head=durable_head, environment=ray)
    settings = Settings(election_timeout=2.0, snapshot_entries=2_000, snapshot_trailing=200, digest_entries=500)
    with Machines(machines, ray=options, disk_bytes=disk_bytes) as bed:
        group = Group(bed, homes, settings=settings)
        group.start()
        group.start_stations(plan=ClientPlan(timeout_s=CLIENT_SECONDS))
        group.wait_until_whole()
        yield group


def assert_nothing_lost(group: Group) -> None:
    """One order explains every answer that a client had so far, and everything acknowledged is there, once."""
    verdict = group.verdict()
    assert verdict.good, f"{verdict.history.explain()}\nlost: {verdict.lost[:5]}\ntwice: {verdict.repeated[:5]}"
    assert verdict.commands > 0


def assert_equal_states(group: Group) -> None:
    """At the end: the replicas agree."""
    group.stop_stations()
    found = group.machines.call(1, digests)
    assert len(found) == len(group.homes)
    assert len(set(found.values())) == 1, found
