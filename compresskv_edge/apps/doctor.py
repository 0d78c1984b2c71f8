"""What this machine and this build can do, and what of a model fits into the memory that is free now."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Optional

from .. import __version__
from ..engine import devices, library, logs, machine, memory
from ..errors import LibraryError
from ..model import known
from ..model.facts import ModelFacts
from ..model.gguf_file import GGUF
from ..model.sizes import ModelSizes
from . import plan

BUDGET = 1024

_LITTLE_MEMORY = 1 << 30


@dataclass(frozen=True)
class Build:
    """The library as loaded."""

    version: str
    folder: str
    cpu_features: tuple[str, ...]
    devices: tuple[devices.Device, ...]


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
    memory_free: int
    memory_total: int
    build: Optional[Build]
    model: Optional[ModelReport]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine(model_path: str | os.PathLike[str] | None = None, budget: int = BUDGET) -> Report:
    """Look at this machine, and at a model's header. Raises UnsupportedModelError or BudgetError for the model."""
    build, problem = _build()
    free = memory.free_bytes()
    model = None if model_path is None else _model(model_path, budget, free)
    return Report(
        compresskv_edge=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=machine.cpu_name(),
        cores=os.cpu_count() or 1,
        memory_free=free,
        memory_total=memory.total_bytes(),
        build=build,
        model=model,
        problems=tuple(_problems(build, problem, free, model)),
    )


def _build() -> tuple[Build | None, str]:
    try:
        folder = library.folder()  # says best what is wrong
        logs.route_llama_cpp()
        version = library.version()
        return Build(version, str(folder), _cpu_features(), devices.found()), ""
    except (LibraryError, ImportError, OSError, RuntimeError) as error:
        return None, f"the library cannot be used: {error}"


def _cpu_features() -> tuple[str, ...]:
    """What ggml's CPU code was compiled for and found, by its own account: "AVX2", "NEON", "OPENMP", ..."""
    import llama_cpp

    _, _, listed = llama_cpp.llama_print_system_info().decode().partition("CPU : ")
    pairs = (item.partition(" = ") for item in listed.split(" | "))
    return tuple(name.strip() for name, _, value in pairs if value.strip() not in ("", "0"))


def _model(path: str | os.PathLike[str], budget: int, free: int) -> ModelReport:
    sizes = ModelSizes.from_gguf(path)
    made = plan.make(sizes, free, budgets=(budget,), kv_types=("f16",))
    stock, ours = made.rows
    return ModelReport(
        sizes.name, sizes.weights_bytes, sizes.n_ctx_train, budget,
        stock.largest_context, ours.largest_context, ours.full_prefill, _profile(path),
    )  # fmt: skip


def _profile(path: str | os.PathLike[str]) -> str:
    model_hash = GGUF.open(path).hash()
    if known.shipped(ModelFacts.from_gguf(path), model_hash):
        return "shipped"
    return "calibrated" if known.cached(model_hash) else "none"


def _problems(build: Build | None, problem: str, free: int, model: ModelReport | None) -> Iterator[str]:
    if build is None:
        yield problem
    if free < _LITTLE_MEMORY:
        yield f"{free >> 20} MB of memory are free: close other programs, or use a smaller model"
    if model is not None and not model.context_compressed:
        yield f"{model.name} does not fit the memory that is free: use a smaller quantisation or a smaller model"
