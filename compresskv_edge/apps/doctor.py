"""What this machine and this build can do, and what of a model fits into the memory that is free now."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Optional

from .. import __version__
from ..engine import library, logs, machine
from ..errors import LibraryError
from ..model.sizes import ModelSizes
from ..runtime.compression import free_bytes
from . import plan

BUDGET = 1024

_UNKNOWN_MEMORY = 1 << 50  # what free_bytes() gives where the system does not tell
_LITTLE_MEMORY = 1 << 30

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
_DEVICE_KINDS = ("CPU", "GPU", "integrated GPU", "accelerator", "several devices")


@dataclass(frozen=True)
class Device:
    """One device that ggml can compute on. Memory in bytes, 0 where the backend does not tell."""

    name: str
    description: str
    kind: str
    memory_free: int
    memory_total: int


@dataclass(frozen=True)
class Build:
    """The library as loaded."""

    version: str
    folder: str
    cpu_features: tuple[str, ...]
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class ModelReport:
    """A model in the memory that is free now: longest contexts in tokens, f16 K and V, 0 if none fits.

    `profile`: "shipped", "calibrated" (on this machine) or "none".
    """

    name: str
    weights_bytes: int
    n_ctx_train: int
    budget: int
    context_stock: int
    context_compressed: int
    context_full_prefill: int
    profile: str


@dataclass(frozen=True)
class Report:
    """All of it. `build` is None if the library cannot be used; `problems` say why, with the remedy."""

    compresskv_edge: str
    python: str
    system: str
    cpu: str
    cores: int
    memory_free: Optional[int]
    memory_total: Optional[int]
    build: Optional[Build]
    model: Optional[ModelReport]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine(model_path: str | os.PathLike[str] | None = None, budget: int = BUDGET) -> Report:
    """Look at this machine, and at a model's header. Raises UnsupportedModelError or BudgetError for the model."""
    build, problem = _build()
    free = free_bytes()
    known = free if free < _UNKNOWN_MEMORY else None
    model = None if model_path is None else _model(model_path, budget, known if known is not None else _total_bytes())
    return Report(
        compresskv_edge=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=machine.cpu_name(),
        cores=os.cpu_count() or 1,
        memory_free=known,
        memory_total=_total_bytes(),
        build=build,
        model=model,
        problems=tuple(_problems(build, problem, known, model)),
    )


def _build() -> tuple[Build | None, str]:
    try:
        folder = library.folder()  # says best what is wrong
        logs.route_llama_cpp()
        version = library.version()
        return Build(version, str(folder), _cpu_features(), devices()), ""
    except (LibraryError, ImportError, OSError, RuntimeError) as error:
        return None, f"the library cannot be used: {error}"


def devices() -> tuple[Device, ...]:
    """What ggml can compute on, in its order. Raises LibraryError."""
    library.load()
    ffi, lib = library.ggml(_GGML)
    return tuple(_device(ffi, lib, lib.ggml_backend_dev_get(i)) for i in range(lib.ggml_backend_dev_count()))


def _device(ffi: Any, lib: Any, device: Any) -> Device:
    free, total = ffi.new("size_t *"), ffi.new("size_t *")
    lib.ggml_backend_dev_memory(device, free, total)
    name, description = (
        ffi.string(get(device)).decode(errors="replace")
        for get in (lib.ggml_backend_dev_name, lib.ggml_backend_dev_description)
    )
    kind = lib.ggml_backend_dev_type(device)
    kind = _DEVICE_KINDS[kind] if 0 <= kind < len(_DEVICE_KINDS) else f"type {kind}"
    return Device(name, description.strip(), kind, int(free[0]), int(total[0]))


def _cpu_features() -> tuple[str, ...]:
    """What ggml's CPU code was compiled for and found, by its own account: "AVX2", "NEON", "OPENMP", ..."""
    import llama_cpp

    _, _, listed = llama_cpp.llama_print_system_info().decode().partition("CPU : ")
    pairs = (item.partition(" = ") for item in listed.split(" | "))
    return tuple(name.strip() for name, _, value in pairs if value.strip() not in ("", "0"))


def _total_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _model(path: str | os.PathLike[str], budget: int, memory: int | None) -> ModelReport:
    sizes = ModelSizes.from_gguf(path)
    made = plan.make(sizes, memory or 0, budgets=(budget,), kv_types=("f16",))
    stock, ours = made.rows
    return ModelReport(
        sizes.name, sizes.weights_bytes, sizes.n_ctx_train, budget,
        stock.largest_context, ours.largest_context, ours.full_prefill, _profile(path),
    )  # fmt: skip


def _profile(path: str | os.PathLike[str]) -> str:
    from ..calibration import auto
    from ..model.gguf_file import GGUF
    from ..model.profile import ModelFacts

    model_hash = GGUF.open(path).hash()
    if auto.shipped(ModelFacts.from_gguf(path), model_hash):
        return "shipped"
    return "calibrated" if auto.cached(model_hash) else "none"


def _problems(build: Build | None, problem: str, free: int | None, model: ModelReport | None) -> Iterator[str]:
    if build is None:
        yield problem
    if free is not None and free < _LITTLE_MEMORY:
        yield f"{free >> 20} MB of memory are free: close other programs, or use a smaller model"
    if model is not None and not model.context_compressed:
        yield f"{model.name} does not fit the memory that is free: use a smaller quantisation or a smaller model"
