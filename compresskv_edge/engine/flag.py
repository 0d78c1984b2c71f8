"""The library's flag that one thread sets while others look at it."""

from __future__ import annotations

from . import library


class Flag:
    """Not set at first. `callback` and `data` are addresses for llama_set_abort_callback.

    No context may ask it once this object is gone.
    """

    def __init__(self) -> None:
        ffi, lib = library.load()
        flag = lib.llama_ckv_stop_new()
        if flag == ffi.NULL:
            raise MemoryError
        self._flag = ffi.gc(flag, lib.llama_ckv_stop_free)
        self.callback = int(ffi.cast("uintptr_t", lib.llama_ckv_stop_wanted))
        self.data = int(ffi.cast("uintptr_t", flag))

    @property
    def is_set(self) -> bool:
        """What it was set to last."""
        _, lib = library.load()
        return bool(lib.llama_ckv_stop_wanted(self._flag))

    def set(self, value: bool) -> None:
        """Any thread may."""
        _, lib = library.load()
        lib.llama_ckv_stop_set(self._flag, value)
