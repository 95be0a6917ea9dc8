"""Has libfiu look up `strdup` now.

It does so at its first use, with its own lock held. If another thread loads a library at that moment, and so holds the
loader's lock and allocates, both wait for ever: seen once in some three hundred starts of a node.
"""

import ctypes

ctypes.CDLL(None).strdup(b"")
