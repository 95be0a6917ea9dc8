"""Who goes first on a machine: a node, before what only computes there, for each step of an election waits for it.

Ray runs its workers at a niceness of 15, behind its own processes, and so would run a node: beside tasks that keep
every processor busy it would wait as long as they do before each answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from typing import Final

NICENESS: Final = -5  # a little before Ray's own processes
PR_SET_TIMERSLACK = 29
TIMER_SLACK_NS = 1_000


def sleep_exactly() -> None:
    """Linux makes each sleep 50 µs longer, to wake several threads at once; this thread's no more."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0)


def take_niceness(niceness: int) -> bool:
    """Give it to every thread of this process, and so to those that they start.

    False, with nothing changed, where the system does not allow it: that takes root, CAP_SYS_NICE or RLIMIT_NICE.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    except OSError:
        return False
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
    return True
