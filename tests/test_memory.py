"""kv_stats(), llama_memory_breakdown and the allocators say the same; no buffer grows with n_ctx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from logits import TYPES, Case, prompt
from sequences import Context

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.runtime.prompt import Prompt

BUDGET, TAIL = 100, 64
SMALL = 32  # bytes of padding that an allocator may add to a tensor


@pytest.fixture
def loaded(tiny_gguf: Callable[..., Path]) -> Callable[..., Llama]:
    def make(arch: str = "llama", type_kv: str = "f16", **options: Any) -> Llama:
        path = tiny_gguf(arch)
        kv = TYPES[type_kv]
        compressed = {"kv_profile": Profile.uniform(path), "kv_budget": BUDGET, "kv_tail": TAIL}
        sizes = {"n_ctx": 2048, "n_batch": 256, "n_ubatch": 256, "n_threads": 1, "n_threads_batch": 1}
        options = {**compressed, **sizes, "type_k": kv, "type_v": kv, "flash_attn": True, "verbose": False, **options}
        return Llama(str(path), **options)

    return make


def agrees(ctx: int) -> native.Stats:
    """The sum of what the stats tell is what the breakdown tells."""
    stats = native.stats(ctx)
    assert stats.kv_bytes + stats.window_bytes == native.memory(ctx).context_bytes
    assert stats.kv_bytes <= stats.kv_bytes_peak
    return stats


def row_bytes(llm: Any, type_kv: str) -> int:
    """K and V of one token in one layer."""
    layer = llm._compression.layers[0]
    values = layer.n_head_kv * (layer.head_dim_k + layer.head_dim_v)
    return values * {"f32": 128, "f16": 64, "q8_0": 34, "q4_0": 18}[type_kv] // 32


@pytest.mark.parametrize("type_kv", ["f32", "f16", "q8_0", "q4_0"])
def test_before_and_after_a_compression(type_kv: str, loaded: Callable[..., Llama]) -> None:
    llm = loaded("llama", type_kv)
    n_layer, row = len(llm._compression.layers), row_bytes(llm, type_kv)
    empty = agrees(llm.ctx)
    assert empty.kv_bytes - n_layer * TAIL * row in range(2 * n_layer * SMALL)
    llm.eval(prompt(Case("", 600)))
    full = agrees(llm.ctx)
    assert full.kv_bytes >= n_layer * 600 * row
    llm.compress()
    after = agrees(llm.ctx)
    assert after.kv_bytes - n_layer * (BUDGET - 8 + TAIL) * row in range(2 * n_layer * SMALL)
    assert after.kv_bytes_peak - full.kv_bytes <= (BUDGET - 8 + TAIL) * row + 4 * SMALL, "one layer is there twice"


def test_sliding_windows_and_stock_count_as_well(loaded: Callable[..., Llama]) -> None:
    llm = loaded("gemma3")
    llm.eval(prompt(Case("", 600)))
    agrees(llm.ctx)
    llm.compress()
    agrees(llm.ctx)
    stock = loaded(kv_profile=None, kv_budget=None)
    assert agrees(stock.ctx).kv_bytes == native.memory(stock.ctx).context_bytes


def test_several_sequences(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    n_layer, row = len(llm._compression.layers), row_bytes(llm, "f16")
    context = Context(llm, 3)
    for seq_id in range(3):
        context.read(seq_id, prompt(Case("", 300 + seq_id)))
        agrees(context.ctx)
        native.compress(context.ctx, [BUDGET] * n_layer, seq_id)
    stats = agrees(context.ctx)
    n_rows = 3 * (BUDGET - 8 + TAIL)
    assert stats.kv_bytes - n_layer * n_rows * row in range(n_layer * (n_rows * 4 + 3 * SMALL)), "and 4 bytes a row"


def test_no_buffer_is_larger_than_that_of_stock_with_a_context_of_the_budget(loaded: Callable[..., Llama]) -> None:
    stock = loaded(kv_profile=None, kv_budget=None, n_ctx=256)
    stock.eval(prompt(Case("", 200)))
    limit = native.memory(stock.ctx).compute_bytes
    for mode in ("chunked", "guided"):
        llm = loaded(n_ctx=65536, kv_prefill=mode)
        llm._reader.positions.trained = 65536
        largest = 0
        with llm._reader.generating(Prompt(())):
            for _ in range(20):
                llm.eval(prompt(Case("", 100)))
                largest = max(largest, native.memory(llm.ctx).compute_bytes)
        assert largest <= limit, mode
        stats = agrees(llm.ctx)
        n_layer, row = len(llm._compression.layers), row_bytes(llm, "f16")
        assert stats.kv_bytes_peak <= n_layer * (BUDGET + TAIL) * row * 1.02 + 2 * n_layer * SMALL


def test_logits_that_nobody_reads_have_no_buffer(loaded: Callable[..., Llama]) -> None:
    one, all_of_them = loaded(), loaded(logits_all=True)
    n_logits = 255 * one.n_vocab() * 4
    difference = native.memory(all_of_them.ctx).compute_bytes - native.memory(one.ctx).compute_bytes
    assert 0 < difference <= n_logits * 2


def test_memory_of_the_prompt_is_returned_to_the_system(tmp_path: Path) -> None:
    """96 MiB of KV cache for the prompt, 12 after it, seen from outside: resident memory of a process of its own."""
    script = Path(__file__).parent / "resident_memory.py"
    out = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True)
    resident, kv_bytes = (float(line) for line in out.stdout.split())
    assert kv_bytes > 80e6
    assert resident > 0.8 * kv_bytes
