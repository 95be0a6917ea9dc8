"""One local Ray cluster for the whole session, and groups that are shut down after the test that started them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def start_group(ray_cluster: None, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts groups in the test's own directory; what still runs at the end is shut down."""
    import rayraft
    from rayraft.ray.cluster import find_cluster

    names: list[str] = []

    def start(machine: type, name: str, **options: Any) -> rayraft.Handle:
        names.append(name)
        options.setdefault("data_dir", tmp_path / name)
        options.setdefault("allow_colocated", True)
        options.setdefault("supervise", False)
        return rayraft.start(machine, name=name, **options)

    yield start
    for name in dict.fromkeys(names):
        try:
            cluster = find_cluster(name)
        except rayraft.NoSuchGroup:
            continue
        cluster.shutdown()
