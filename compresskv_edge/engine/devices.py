"""What ggml can compute on: this machine's CPU and GPUs, and those of RPC servers that this process knows."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, Iterator, Tuple

from . import library, rpc

# ggml/include/ggml-backend.h: its C API is not in the binding
_GGML = """
typedef struct ggml_backend_device * ggml_backend_dev_t;
size_t             ggml_backend_dev_count(void);
ggml_backend_dev_t ggml_backend_dev_get(size_t index);
const char *       ggml_backend_dev_name(ggml_backend_dev_t device);
const char *       ggml_backend_dev_description(ggml_backend_dev_t device);
void               ggml_backend_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total);
int                ggml_backend_dev_type(ggml_backend_dev_t device);
"""
CPU, GPU, INTEGRATED = "CPU", "GPU", "integrated GPU"
_KINDS = (CPU, GPU, INTEGRATED, "accelerator", "several devices")  # enum ggml_backend_dev_type
_SPLIT_NONE = 0  # LLAMA_SPLIT_MODE_NONE


@dataclass(frozen=True)
class Device:
    """One device that ggml can compute on. Memory in bytes, 0 where it does not tell."""

    name: str
    description: str
    kind: str
    memory_free: int
    memory_total: int


def found() -> Tuple[Device, ...]:
    """All devices, in ggml's order. Raises LibraryError."""
    _, lib = _ggml()
    return tuple(_device(lib.ggml_backend_dev_get(i)) for i in range(lib.ggml_backend_dev_count()))


def for_layers(params: Any) -> Tuple[Device, ...]:
    """Where llama.cpp lays a model's layers beside the CPU. params: llama_model_params of the binding."""
    devices = tuple(map(_device, _named(params.devices))) if params.devices else _usual()
    if params.split_mode == _SPLIT_NONE:
        return devices[params.main_gpu : params.main_gpu + 1]
    return devices


def _usual() -> Tuple[Device, ...]:
    """As llama.cpp chooses where no device is named: integrated GPUs only where there are no others."""
    devices = found()
    return tuple(d for d in devices if d.kind == GPU) or tuple(d for d in devices if d.kind == INTEGRATED)[:1]


def _named(address: Any) -> Iterator[Any]:
    """The devices of an array that ends with NULL."""
    ffi, _ = _ggml()
    handles = ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))
    i = 0
    while handles[i]:
        yield ffi.cast("ggml_backend_dev_t", handles[i])
        i += 1


def _device(handle: Any) -> Device:
    ffi, lib = _ggml()
    name, description = (
        ffi.string(get(handle)).decode(errors="replace")
        for get in (lib.ggml_backend_dev_name, lib.ggml_backend_dev_description)
    )
    kind = lib.ggml_backend_dev_type(handle)
    kind = _KINDS[kind] if 0 <= kind < len(_KINDS) else f"type {kind}"
    return Device(name, description.strip(), kind, *_memory(handle, description.strip()))


def _memory(handle: Any, description: str) -> Tuple[int, int]:
    """(free, total). llama.cpp ends the process if an RPC server that has gone is asked."""
    ffi, lib = _ggml()
    free, total = ffi.new("size_t *"), ffi.new("size_t *")
    if rpc.is_gone(description):
        return 0, 0
    lib.ggml_backend_dev_memory(handle, free, total)
    return int(free[0]), int(total[0])


@functools.lru_cache(maxsize=1)
def _ggml() -> Tuple[Any, Any]:
    library.load()
    return library.ggml(_GGML)
