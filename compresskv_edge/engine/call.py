"""One call of the native library's C API (csrc/ckv.h): pointers in, exceptions out."""

from __future__ import annotations

from typing import Any, Optional

from ..errors import CompressKVError, EngineError, UnsupportedModelError
from . import library

POOLING = {"avg": 0, "max": 1}

# enum llama_ckv_status
_ERR_ARGUMENT, _ERR_UNSUPPORTED, _ERR_STATE, _ERR_MEMORY, _ERR_COMPUTE = -1, -2, -3, -4, -5
_ERRORS: dict[int, type[CompressKVError]] = {
    _ERR_ARGUMENT: EngineError,
    _ERR_UNSUPPORTED: UnsupportedModelError,
    _ERR_STATE: EngineError,
    _ERR_MEMORY: EngineError,
    _ERR_COMPUTE: EngineError,
}


def last_error() -> str:
    """The sentence of this thread's last failed call, "" if none failed."""
    ffi, lib = library.load()
    return str(ffi.string(lib.llama_ckv_last_error()).decode())


def call(name: str, *args: Any) -> int:
    """Call llama_ckv_<name>; a negative status becomes the exception that belongs to it."""
    _, lib = library.load()
    status = int(getattr(lib, f"llama_ckv_{name}")(*args))
    if status < 0:
        raise _ERRORS.get(status, EngineError)(last_error())
    return status


def context(ctx: int) -> Any:
    return pointer("struct llama_context *", ctx)


def pointer(kind: str, address: Any) -> Any:
    """A pointer of llama_cpp (int or ctypes.c_void_p) as cffi has it."""
    ffi, _ = library.load()
    value: Optional[int] = getattr(address, "value", address)
    return ffi.cast(kind, value or 0)
