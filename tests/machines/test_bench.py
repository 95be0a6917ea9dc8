"""`rayraft bench --address` on several machines: leaders are killed where they are, and nothing is left behind."""

from __future__ import annotations

import json
import sys

import pytest

from rayraft.chaos.machines import Machines

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_a_bench_over_machines() -> None:
    with Machines(3) as machines:
        report = machines.shared / "report.json"
        sections = "packed,processes,kills,memory"
        sizes = ("--seconds", "1", "--processes", "2", "--kills", "3", "--memory-commands", "16000")
        where = ("--address", machines.head, "--data-dir", str(machines.data), "--json", str(report))
        said = machines.run(
            1, [sys.executable, "-m", "rayraft.cli", "bench", "--only", sections, *sizes, *where], timeout_s=400.0
        )
        found = json.loads(report.read_text())
        assert (found["broken"], found["ended_early"]) == ([], ""), said
        assert set(found["repeats"][0]) == set(sections.split(","))
        assert len(found["surroundings"]["machines"]) == 3
        for i in machines.machines:
            kept = "gcs\n" if i == 1 else ""  # by Ray's head
            assert machines.run(i, ["ls", str(machines.data)]) == kept, f"data was left on m{i}"
