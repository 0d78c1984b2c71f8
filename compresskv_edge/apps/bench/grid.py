"""Several benchmark runs, one for each length of the prompt and each budget, and what they say side by side. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from .result import BenchPlan, BenchResult, checks, mib, summary

if TYPE_CHECKING:
    from rich.table import Table


def plans(common: BenchPlan, prompt_tokens: Sequence[int], budgets: Sequence[int]) -> list[BenchPlan]:
    """`common` with each prompt and each budget, prompts outermost."""
    return [replace(common, prompt_tokens=n, budget_tokens=budget) for n in prompt_tokens for budget in budgets]


def to_dict(results: Sequence[BenchResult]) -> dict[str, Any]:
    """For JSON: one run as it is, several as a list under "runs"."""
    return results[0].to_dict() if len(results) == 1 else {"runs": [result.to_dict() for result in results]}


def table(results: Sequence[BenchResult]) -> Table:
    """A line a run. All runs have the same model, device and types."""
    from rich.table import Table

    first = results[0]
    out = Table(title=_title(first), caption=_caption(first), caption_justify="left")
    for name in columns(first):
        out.add_column(name, justify="right")
    for result in results:
        out.add_row(*row(result))
    return out


def columns(result: BenchResult) -> list[str]:
    """Names of the cells of `row`."""
    full = [_kv_type(result.plan), *result.plan.against]
    return [
        "prompt\nbudget",
        *(f"stock {name}\nms/token\nKV, peak MiB" for name in full),
        "compressed\nms/token\nKV, peak MiB",
        "stock at the budget\nms/token\ncompressed / it",
        "eviction, ms\nof prefill",
        "prefill, ms\n/ stock",
        "targets",
    ]


def row(result: BenchResult) -> list[str]:
    """One run: decoding, memory of the cache and the most beside the weights, eviction, prefill, targets met."""
    figures, peaks, kv = summary(result), result.peaks, result.kv
    rivals = result.against.items()
    return [
        f"{result.plan.prompt_tokens}\n{result.plan.budget_tokens}",
        _cell(figures["decode_ms_stock"], kv.stock, peaks.stock),
        *(_cell(median(r.samples.decode_ms), r.kv_bytes, peaks.against[name]) for name, r in rivals),
        _cell(figures["decode_ms_compressed"], kv.after, peaks.compressed),
        f"{figures['decode_ms_limit']:.2f}\n{figures['decode_ratio_limit']:.3f}",
        f"{figures['eviction_ms']:.1f}\n{figures['eviction_ratio']:.2%}",
        f"{figures['prefill_ms_compressed']:.0f}\n{figures['prefill_ratio']:.3f}",
        ", ".join(check.name.split(",")[0] for check in checks(result) if not check.met) or "met",
    ]


def _cell(decode_ms: float, kv_bytes: int, peak_bytes: int) -> str:
    return f"{decode_ms:.2f}\n{mib(kv_bytes)}, {mib(peak_bytes)}"


def _kv_type(plan: BenchPlan) -> str:
    return plan.type_k if plan.type_k == plan.type_v else f"{plan.type_k}/{plan.type_v}"


def _title(result: BenchResult) -> str:
    plan = result.plan
    where = f"{plan.n_gpu_layers} GPU layers" if plan.n_gpu_layers >= 0 else "all layers on the GPU"
    return f"{result.model['name']}, {where}, {plan.threads} threads"


def _caption(result: BenchResult) -> str:
    machine = result.machine
    return (
        "Decode: medians of blocks; all contexts of a line took turns. Peak: most bytes of K, V and compute buffers.\n"
        f"Profile: {result.profile}. Machine: {', '.join([machine['cpu'], *machine.get('devices', [])])}."
    )
