"""What a forked copy of a node does first, so that its parent goes on undisturbed."""

from __future__ import annotations

import gc
import os

NICENESS = 10  # on top of the parent's: a ninth of its share where both want a processor


def be_quiet() -> None:
    gc.disable()  # a collection writes to every object that it looks at, and so copies pages that are still shared
    os.nice(NICENESS)
