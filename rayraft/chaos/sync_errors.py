"""Syncs that fail, in a process of our choice: by libfiu, which stands between it and the C library.

The process is started with `environment`. It reads orders from a named pipe, and answers through another one.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from pathlib import Path
from typing import Final

LIBRARIES: Final = (Path("/usr/lib/fiu/fiu_run_preload.so"), Path("/usr/lib/fiu/fiu_posix_preload.so"))
_EARLY: Final = Path(__file__).with_name("early")
ANSWER_SECONDS: Final = 20.0
_ORDER: Final = b"enable name=posix/io/sync/fdatasync,onetime,failinfo=5\n"  # 5: EIO
_DONE: Final = b"0\n"


def why_not() -> str | None:
    """Why syncs can not be made to fail here; None when they can."""
    missing = [path for path in LIBRARIES if not path.exists()]
    return f"libfiu is not installed: no {missing[0]}" if missing else None


def preload() -> dict[str, str]:
    """For a process whose syncs can be made to fail."""
    search = [str(_EARLY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"LD_PRELOAD": " ".join(map(str, LIBRARIES)), "PYTHONPATH": os.pathsep.join(search)}


def environment(pipes: Path) -> Mapping[str, str]:
    """For a process that takes orders; the names of its two pipes begin with ``pipes``."""
    return {**preload(), "FIU_CTRL_FIFO": str(pipes)}


def fail_next_sync(pipes: Path, pid: int) -> None:
    """Exactly one fdatasync of the process fails. ``pid`` is its own number for itself.

    Raises OSError when it takes no orders: it was not started with `environment`, or is gone.
    """
    answers = os.open(f"{pipes}-{pid}.out", os.O_RDONLY | os.O_NONBLOCK)
    try:
        orders = os.open(f"{pipes}-{pid}.in", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(orders, _ORDER)
            ready, _, _ = select.select([answers], [], [], ANSWER_SECONDS)
            if not ready or os.read(answers, len(_DONE)) != _DONE:
                raise TimeoutError(f"process {pid} did not carry the order out")
        finally:
            os.close(orders)
    finally:
        os.close(answers)
