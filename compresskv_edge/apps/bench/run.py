"""Stock and compressed cache, measured side by side in one run.

Three contexts of the same model take turns, chunk by chunk in the prefill and block by block while decoding, so that
whatever else the machine does hits all of them alike and ratios are taken between neighbours in time:

    stock       the whole prompt in llama.cpp's own cache
    compressed  the same prompt, evicted to the budget
    limit       llama.cpp's own cache with a prompt no longer than the budget: as fast as any eviction can get

and, if asked, llama.cpp's own cache of other types (`Plan.against`) with the whole prompt.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import gguf
import numpy as np

from ...engine import devices, native
from ...engine.machine import align_large_blocks_alike, machine_facts, resident_bytes
from ...errors import BudgetError, CompressKVError, EngineError, UnsupportedModelError
from ...model import random_gguf
from ...model.profile import Profile, Settings
from .result import BLOCK, CHUNK, Eviction, KVBytes, Peaks, Plan, Result, Rival, Samples

if TYPE_CHECKING:
    from ...runtime.llama import Llama

KV_TYPES = ("f16", "bf16", "f32", "q8_0", "q4_0")

_WARM_UP = 2  # tokens that build the graph of decoding

_UNCALIBRATED = (
    f"uncalibrated, the first {Settings().n_heads} heads of each layer, equal budgets (times do not depend on which)"
)

Step = Callable[[str], None]


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


def run(model_path: Path, plan: Plan, profile: Profile | None = None, step: Step = lambda phase: None) -> Result:
    """Measure; `step(phase)` is called `plan.n_steps` times.

    profile: None: `uniform_profile`. Raises CompressKVError.
    """
    return run_all(model_path, [plan], profile, step)[0]


def run_all(
    model_path: Path, plans: Sequence[Plan], profile: Profile | None = None, step: Step = lambda phase: None
) -> list[Result]:
    """Measure each plan with contexts of its own; all are checked before the first begins. See `run`."""
    align_large_blocks_alike()
    used = profile or uniform_profile(model_path)
    for plan in plans:
        _check(plan, used.settings.window)
    how = _UNCALIBRATED if profile is None else _describe(profile)
    return [_run(model_path, plan, used, how, step) for plan in plans]


def _run(model_path: Path, plan: Plan, profile: Profile, how: str, step: Step) -> Result:
    with contextlib.ExitStack() as stack:
        return _measure(model_path, plan, how, _open(model_path, plan, profile, stack), step)


def _check(plan: Plan, window: int) -> None:
    if plan.budget_tokens >= plan.prompt_tokens:
        raise BudgetError(
            f"the budget is {plan.budget_tokens} tokens and the prompt has {plan.prompt_tokens}: "
            "nothing to evict, use a smaller budget or a longer prompt"
        )
    if plan.decode_tokens + window > plan.tail_tokens:
        raise BudgetError(
            f"{plan.decode_tokens} decoded tokens and the window of {window} do not fit the tail of {plan.tail_tokens} "
            "tokens: decode fewer tokens a repeat or use a longer tail"
        )


def _describe(profile: Profile) -> str:
    return f"{profile.model.name}, {profile.provenance.how}"


@dataclass(frozen=True)
class _Contexts:
    stock: Llama
    compressed: Llama
    limit: Llama
    against: dict[str, Llama]  # by type of K and V

    @property
    def full(self) -> list[Llama]:
        """Those that hold the whole prompt."""
        return [self.stock, self.compressed, *self.against.values()]


def _open(path: Path, plan: Plan, profile: Profile, stack: contextlib.ExitStack) -> _Contexts:
    n_ctx = plan.prompt_tokens + plan.decode_tokens + _WARM_UP
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
    return _Contexts(**loaded, against=against)


def _load(path: Path, plan: Plan, kv_types: tuple[str, str], options: dict[str, Any]) -> Llama:
    from ...runtime.llama import Llama

    if not path.is_file():
        raise UnsupportedModelError(f"no model file {str(path)!r}: give the path of a .gguf file")
    try:
        return Llama(
            str(path),
            n_batch=CHUNK,
            n_threads=plan.threads,
            n_threads_batch=plan.threads,
            type_k=int(_ggml_type(kv_types[0])),
            type_v=int(_ggml_type(kv_types[1])),
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


def _measure(path: Path, plan: Plan, profile: str, contexts: _Contexts, step: Step) -> Result:
    machine = {**machine_facts(), "devices": _devices()}  # now: the load is that of others
    stock, compressed, limit = contexts.stock, contexts.compressed, contexts.limit
    # any tokens do: how long the arithmetic takes does not depend on them
    tokens = np.random.default_rng(0).integers(0, stock.n_vocab(), plan.prompt_tokens).tolist()

    prefills, evictions = [], []
    for _ in range(plan.prefill_repeats):
        prefills.append(_prefill(contexts.full, tokens, step))
        full = compressed.kv_stats()
        allocated = _allocated(compressed)
        evictions.append(_evict(compressed))
    prefill_limit = _prefill([limit], tokens[: plan.budget_tokens], step)[0]
    stats = compressed.kv_stats()
    decode = _decode([stock, compressed, limit, *contexts.against.values()], tokens, plan, step)
    against = {
        name: Rival(Samples(tuple(row[2 + i] for row in prefills), decode[3 + i]), llm.kv_stats().kv_bytes)
        for i, (name, llm) in enumerate(contexts.against.items())
    }
    return Result(
        plan=plan,
        model=_model_facts(path, stock),
        profile=profile,
        machine=machine,
        tokens_kept=stats.n_tokens_kept,
        kv=KVBytes(
            stock=stock.kv_stats().kv_bytes,
            limit=limit.kv_stats().kv_bytes,
            before=full.kv_bytes,
            after=compressed.kv_stats().kv_bytes,
            peak=stats.kv_bytes_peak,
            expected=_expected_kv_bytes(contexts, plan),
        ),
        evictions=tuple(evictions),
        stock=Samples(tuple(pair[0] for pair in prefills), decode[0]),
        compressed=Samples(tuple(pair[1] for pair in prefills), decode[1]),
        limit=Samples((prefill_limit,), decode[2]),
        peaks=Peaks(
            stock=_allocated(stock),
            compressed=allocated + stats.kv_bytes_peak - full.kv_bytes,  # both caches are there while rows move
            limit=_allocated(limit),
            against={name: _allocated(llm) for name, llm in contexts.against.items()},
        ),
        against=against,
    )


def _allocated(llm: Llama) -> int:
    """Bytes of K, V and compute buffers as they are now, on all devices."""
    memory = native.memory(llm._ctx.ctx)
    return memory.context_bytes + memory.compute_bytes


def _devices() -> list[str]:
    """Names of what computes beside the CPU."""
    return [f"{each.description or each.name} ({each.kind})" for each in devices.found() if each.kind != devices.CPU]


def _prefill(contexts: Sequence[Llama], tokens: Sequence[int], step: Step) -> list[tuple[float, ...]]:
    """Milliseconds of each chunk, per context: (n_contexts, n_chunks). Contexts swap their order with each chunk."""
    times: list[list[float]] = [[] for _ in contexts]
    for start in range(0, len(tokens), CHUNK):
        for i in _turns(len(contexts), start // CHUNK):
            began = time.perf_counter()
            if start == 0:
                _begin(contexts[i], len(tokens))
            _eval(contexts[i], tokens[start : start + CHUNK])
            times[i].append((time.perf_counter() - began) * 1e3)
            step("prefill")
    return [tuple(row) for row in times]


def _begin(llm: Llama, n_tokens: int) -> None:
    """Empty the cache and announce the prompt, as an eval of all of it would."""
    llm.reset()
    llm._ctx.kv_cache_seq_rm(-1, 0, -1)
    if llm._compression is not None:
        native.prompt_begin(llm._ctx.ctx, n_tokens)


def _eval(llm: Llama, tokens: Sequence[int]) -> None:
    from llama_cpp import llama_synchronize

    llm.eval(tokens)
    llama_synchronize(llm._ctx.ctx)  # devices compute behind our back


def _evict(llm: Llama) -> Eviction:
    ms_before, resident_before = llm.kv_stats().eviction_ms, resident_bytes()
    began = time.perf_counter()
    llm.compress()
    wall_ms = (time.perf_counter() - began) * 1e3
    return Eviction(llm.kv_stats().eviction_ms - ms_before, wall_ms, resident_before, resident_bytes())


def _decode(contexts: Sequence[Llama], tokens: Sequence[int], plan: Plan, step: Step) -> list[tuple[float, ...]]:
    """Milliseconds a token of each block, (n_contexts, n_blocks). Each repeat starts at the prompt's end."""
    ends = [llm.n_tokens for llm in contexts]
    for llm in contexts:
        _decode_block(llm, tokens[:_WARM_UP])
    times: list[list[float]] = [[] for _ in contexts]
    for _ in range(plan.repeats):
        for llm, end in zip(contexts, ends):
            llm.n_tokens = end  # the next eval removes what comes after
        for start in range(0, plan.decode_tokens, BLOCK):
            n_tokens = min(BLOCK, plan.decode_tokens - start)
            for i in _turns(len(contexts), start // BLOCK):
                times[i].append(_decode_block(contexts[i], tokens[:n_tokens]))
                step("decode")
    return [tuple(row) for row in times]


def _decode_block(llm: Llama, tokens: Sequence[int]) -> float:
    began = time.perf_counter()
    for token in tokens:
        _eval(llm, [token])
    return (time.perf_counter() - began) * 1e3 / len(tokens)


def _turns(n: int, i: int) -> Iterable[int]:
    return range(n) if i % 2 == 0 else reversed(range(n))


def row_bytes(n_values: int, kv_type: str) -> int:
    """Size of one row of a K or V tensor."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[_ggml_type(kv_type)]
    return n_values // int(block) * int(block_bytes)


def layer_row_bytes(layer: native.LayerShape, type_k: str, type_v: str) -> int:
    """What one token takes in one layer, K and V."""
    k, v = layer.n_head_kv * layer.head_dim_k, layer.n_head_kv * layer.head_dim_v
    return row_bytes(k, type_k) + row_bytes(v, type_v)


def _expected_kv_bytes(contexts: _Contexts, plan: Plan) -> int:
    """sum over the layers of (budget + tail) x row size; sliding-window layers count as they are in the stock cache."""
    compression = contexts.compressed._require("bench")
    budgets = compression.budgets(plan.prompt_tokens)
    sizes = [layer_row_bytes(layer, plan.type_k, plan.type_v) * layer.evictable for layer in compression.layers]
    windows = contexts.stock.kv_stats().kv_bytes - int(contexts.stock.n_ctx()) * sum(sizes)
    return windows + sum((budget + plan.tail_tokens) * size for budget, size in zip(budgets, sizes))


def _ggml_type(kv_type: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[kv_type.upper()]


def _model_facts(path: Path, llm: Llama) -> dict[str, Any]:
    return {
        "name": llm.metadata.get("general.name") or path.stem,
        "file": path.name,
        "file_bytes": path.stat().st_size,
        "architecture": llm.metadata.get("general.architecture", ""),
        "n_layer": len(llm.kv_stats().n_tokens_kept),
    }
