"""The C library's allocator, told to give memory back: a server runs for months, and each slot has a thread.

glibc keeps what is freed in arenas, one or more a thread, and takes ever larger blocks from them: each time a cache
grows or shrinks, its blocks come to lie in another place, and the resident memory creeps although nothing leaks.
"""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h
LARGE_BYTES = 1 << 20  # from here on a block is a mapping of its own, which goes when it is freed
_ARENAS = 2


def give_memory_back() -> bool:
    """For this process, before its threads start. False where the C library has no such settings."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and needs none
    return mallopt is not None and all([mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES), mallopt(_M_ARENA_MAX, _ARENAS)])
