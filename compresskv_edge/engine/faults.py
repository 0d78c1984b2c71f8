"""For tests: allocations and graphs of the library that fail when they are told to."""

from __future__ import annotations

from . import library


def fail_at(nth: int, *, throws: bool = False) -> int:
    """The nth allocation or graph of this thread from now on fails, once; 0: none does.

    throws: by an exception inside the library. Returns how many there were since the last call.
    """
    _, lib = library.load()
    return int(lib.llama_ckv_fail_at(nth, throws))
