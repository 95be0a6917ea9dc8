"""Every test here makes machines of its own, which takes root and the tools of the network."""

from __future__ import annotations

import pytest

from rayraft.chaos.machines import why_not


@pytest.fixture(autouse=True)
def _needs_machines() -> None:
    if reason := why_not():
        pytest.skip(f"machines can not be made here: {reason}")
