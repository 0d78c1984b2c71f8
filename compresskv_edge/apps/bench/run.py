"""Stock and compressed cache, measured side by side in one run.

Three contexts of the same model take turns, chunk by chunk in the prefill and block by block while decoding, so that
whatever else the machine does hits all of them alike and ratios are taken between neighbours in time:

    stock       the whole prompt in llama.cpp's own cache
    compressed  the same prompt, evicted to the budget
    limit       llama.cpp's own cache with a prompt no longer than the budget: as fast as any eviction can get

and, if asked, llama.cpp's own cache of other types (`BenchPlan.against`) with the whole prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...engine import devices, native
from ...engine.machine import align_large_blocks_alike, machine_facts
from ...errors import BudgetError
from ...model.kv_types import row_bytes
from ...model.profile import Profile, Settings
from ...runtime.llama import Llama, llama_cpp
from .contexts import Contexts, model_facts, open_contexts, uniform_profile
from .result import BenchPlan, BenchResult, KVBytes, Peaks, Rival, Samples
from .timing import Step, decode, evict, prefill

_UNCALIBRATED = (
    f"uncalibrated, the first {Settings().n_heads} heads of each layer, equal budgets (times do not depend on which)"
)


def run(
    model_path: Path, plan: BenchPlan, profile: Profile | None = None, step: Step = lambda phase: None
) -> BenchResult:
    """Measure; `step(phase)` is called `plan.n_steps` times.

    profile: None: `uniform_profile`. Raises CompressKVError.
    """
    return run_all(model_path, [plan], profile, step)[0]


def run_all(
    model_path: Path, plans: Sequence[BenchPlan], profile: Profile | None = None, step: Step = lambda phase: None
) -> list[BenchResult]:
    """Measure each plan with contexts of its own; all are checked before the first begins. See `run`."""
    align_large_blocks_alike()
    used = profile or uniform_profile(model_path)
    for plan in plans:
        _check(plan, used.settings.window)
    how = _UNCALIBRATED if profile is None else _describe(profile)
    return [_run(model_path, plan, used, how, step) for plan in plans]


def _run(model_path: Path, plan: BenchPlan, profile: Profile, how: str, step: Step) -> BenchResult:
    with contextlib.ExitStack() as stack:
        return _measure(model_path, plan, how, open_contexts(model_path, plan, profile, stack), step)


def _check(plan: BenchPlan, window: int) -> None:
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


def _measure(path: Path, plan: BenchPlan, profile: str, contexts: Contexts, step: Step) -> BenchResult:
    machine = {**machine_facts(), "devices": _devices()}  # now: the load is that of others
    stock, compressed, limit = contexts.stock, contexts.compressed, contexts.limit
    # any tokens do: how long the arithmetic takes does not depend on them
    tokens = np.random.default_rng(0).integers(0, stock.n_vocab(), plan.prompt_tokens).tolist()

    prefills, evictions = [], []
    for _ in range(plan.prefill_repeats):
        prefills.append(prefill(contexts.full, tokens, step))
        full = compressed.kv_stats()
        allocated = _allocated(compressed)
        evictions.append(evict(compressed))
    prefill_limit = prefill([limit], tokens[: plan.budget_tokens], step)[0]
    stats = compressed.kv_stats()
    decoded = decode([stock, compressed, limit, *contexts.against.values()], tokens, plan, step)
    against = {
        name: Rival(Samples(tuple(row[2 + i] for row in prefills), decoded[3 + i]), llm.kv_stats().kv_bytes)
        for i, (name, llm) in enumerate(contexts.against.items())
    }
    return BenchResult(
        plan=plan,
        model=model_facts(path, stock),
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
        stock=Samples(tuple(pair[0] for pair in prefills), decoded[0]),
        compressed=Samples(tuple(pair[1] for pair in prefills), decoded[1]),
        limit=Samples((prefill_limit,), decoded[2]),
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
    memory = native.memory(llm.ctx)
    return memory.context_bytes + memory.compute_bytes


def _devices() -> list[str]:
    """Names of what computes beside the CPU."""
    return [f"{each.description or each.name} ({each.kind})" for each in devices.found() if each.kind != devices.CPU]


def _layer_row_bytes(layer: native.LayerShape, type_k: str, type_v: str) -> int:
    """What one token takes in one layer, K and V."""
    k, v = layer.n_head_kv * layer.head_dim_k, layer.n_head_kv * layer.head_dim_v
    return row_bytes(k, type_k) + row_bytes(v, type_v)


def _expected_kv_bytes(contexts: Contexts, plan: BenchPlan) -> int:
    """sum over the layers of (budget + tail) x row size; sliding-window layers count as they are in the stock cache."""
    compressed = contexts.compressed
    budgets = compressed.kv_budgets(plan.prompt_tokens)
    layers = native.model_layers(compressed.model, len(budgets))
    sizes = [_layer_row_bytes(layer, plan.type_k, plan.type_v) * layer.evictable for layer in layers]
    n_rows = int(llama_cpp.llama_n_ctx(contexts.stock.ctx))  # llama.cpp's own number, which it pads
    windows = contexts.stock.kv_stats().kv_bytes - n_rows * sum(sizes)
    return windows + sum((budget + plan.tail_tokens) * size for budget, size in zip(budgets, sizes))
