"""The contexts that a benchmark measures side by side, and the model that they are of."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CompressKVError, EngineError, UnsupportedModelError
from ...model import random_gguf
from ...model.kv_types import ggml_type
from ...model.profile import Profile, Settings
from ...runtime.llama import Llama
from .result import CHUNK, WARM_UP, BenchPlan


def write_model(shape: str, quant: random_gguf.Quant, folder: Path) -> Path:
    """A random model of a named shape in `folder`, written unless it is there already."""
    path = folder / f"{shape}-{quant.lower()}.gguf"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.part")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            random_gguf.write_random_gguf(partial, random_gguf.SHAPES[shape], quant=quant)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def uniform_profile(model_path: Path) -> Profile:
    """Profile.uniform with as many scoring heads as a calibrated profile uses, so that the eviction costs the same."""
    return Profile.uniform(model_path).model_copy(update={"settings": Settings()})


@dataclass(frozen=True)
class Contexts:
    stock: Llama
    compressed: Llama
    limit: Llama
    against: dict[str, Llama]  # by type of K and V

    @property
    def full(self) -> list[Llama]:
        """Those that hold the whole prompt."""
        return [self.stock, self.compressed, *self.against.values()]


def open_contexts(path: Path, plan: BenchPlan, profile: Profile, stack: contextlib.ExitStack) -> Contexts:
    n_ctx = plan.prompt_tokens + plan.decode_tokens + WARM_UP
    compression = {
        "kv_profile": profile,
        "kv_budget": plan.budget_tokens,
        "kv_tail": plan.tail_tokens,
        "kv_prefill": "full",
    }
    options: dict[str, dict[str, Any]] = {
        "stock": {"n_ctx": n_ctx},
        "compressed": {"n_ctx": n_ctx, **compression},
        "limit": {"n_ctx": plan.budget_tokens + plan.tail_tokens},
    }
    kinds = dict.fromkeys(options, (plan.type_k, plan.type_v))
    options.update({name: {"n_ctx": n_ctx} for name in plan.against})
    kinds.update({name: (name, name) for name in plan.against})
    loaded = {
        name: stack.enter_context(contextlib.closing(_load(path, plan, kinds[name], more)))
        for name, more in options.items()
    }
    against = {name: loaded.pop(name) for name in plan.against}
    return Contexts(**loaded, against=against)


def _load(path: Path, plan: BenchPlan, kv_types: tuple[str, str], options: dict[str, Any]) -> Llama:
    if not path.is_file():
        raise UnsupportedModelError(f"no model file {str(path)!r}: give the path of a .gguf file")
    try:
        return Llama(
            str(path),
            n_batch=CHUNK,
            n_threads=plan.threads,
            n_threads_batch=plan.threads,
            type_k=int(ggml_type(kv_types[0])),
            type_v=int(ggml_type(kv_types[1])),
            n_gpu_layers=plan.n_gpu_layers,
            rpc_servers=plan.rpc_servers,
            flash_attn=True,
            rope_freq_scale=1.0,  # said aloud, it allows prompts that are longer than those of the model's training
            swa_full=False,  # as a compressed cache has it
            verbose=False,
            **options,
        )
    except ValueError as error:
        if isinstance(error, CompressKVError):
            raise
        raise EngineError(f"llama.cpp cannot load {str(path)!r} ({error}): try a complete .gguf file") from error


def model_facts(path: Path, llm: Llama) -> dict[str, Any]:
    return {
        "name": llm.metadata.get("general.name") or path.stem,
        "file": path.name,
        "file_bytes": path.stat().st_size,
        "architecture": llm.metadata.get("general.architecture", ""),
        "n_layer": len(llm.kv_stats().n_tokens_kept),
    }
