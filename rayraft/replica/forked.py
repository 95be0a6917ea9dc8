"""What a forked copy of a node does first, so that its parent goes on undisturbed."""

from __future__ import annotations

import gc
import os

NICENESS = 5  # on top of the parent's: a third of its share where both want a processor, so that it ends in time


def be_quiet() -> None:
    gc.disable()  # a collection writes to every object that it looks at, and so copies pages that are still shared
    os.nice(NICENESS)
