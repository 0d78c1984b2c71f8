"""The KV cache never exceeds budget and tail: bytes as allocated, 24 layers, long prompts, 500 tokens decoded."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Callable

import pytest
from logits import Case, prompt

from compresskv_edge import Llama, Profile
from compresskv_edge.model.random_gguf import TINY_SHAPES, write_random_gguf

BUDGET, TAIL = 200, 128


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many layers as a small model of today has: while rows move, one layer is there twice."""
    shape = dataclasses.replace(TINY_SHAPES["llama"], name="deep", n_layer=24)
    return write_random_gguf(tmp_path_factory.mktemp("gguf") / "deep.gguf", shape)


def bound(llm: Llama) -> int:
    """sum_l (B_l + tail) x row size of f16 rows."""
    compression = llm._compression
    rows = [2 * layer.n_head_kv * (layer.head_dim_k + layer.head_dim_v) for layer in compression.layers]
    return sum((budget + TAIL) * row for budget, row in zip(compression.current, rows))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["chunked", "guided"])
def test_peak(mode: str, deep: Path) -> None:
    options = {"kv_budget": BUDGET, "kv_tail": TAIL, "kv_prefill": mode, "n_ctx": 4096, "verbose": False}
    llm = Llama(str(deep), kv_profile=Profile.uniform(deep), n_threads=1, n_threads_batch=1, **options)
    generator = llm.generate(prompt(Case("", 1500)), temp=0)
    next(generator)
    after_prompt = llm.kv_stats()
    for _ in itertools.islice(generator, 500):
        pass
    stats = llm.kv_stats()
    assert stats.n_tokens_seen >= 2000
    assert stats.kv_bytes == after_prompt.kv_bytes <= bound(llm)
    assert stats.kv_bytes_peak == after_prompt.kv_bytes_peak <= 1.02 * bound(llm)
    assert stats.kv_bytes_peak < 0.3 * stats.kv_bytes_stock


def test_full_prefill_holds_the_prompt(load: Callable[..., Llama]) -> None:
    """What the bound is worth: the paper's way peaks at the prompt."""
    llm = load(kv_prefill="full", kv_tail=TAIL)
    next(llm.generate(prompt(Case("", 1900)), temp=0))
    stats = llm.kv_stats()
    assert stats.kv_bytes_peak > 0.9 * stats.kv_bytes_stock
    assert stats.kv_bytes < 0.15 * stats.kv_bytes_stock
