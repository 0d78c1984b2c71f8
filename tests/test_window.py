"""The observation window after a removal: its queries are computed again, or a compression says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List

import llama_cpp
import numpy as np
import pytest
from sequences import Context

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError
from compresskv_edge.runtime import binding

N_PROMPT, WINDOW, BUDGET = 600, 8, 49
TOKENS = np.random.default_rng(3).integers(32, 127, N_PROMPT + 40).tolist()
PROMPT, MORE = TOKENS[:N_PROMPT], TOKENS[N_PROMPT:]


@pytest.fixture
def loaded(tiny_gguf: Callable[..., Path]) -> Callable[..., Llama]:
    def make(arch: str = "llama", **options: Any) -> Llama:
        path = tiny_gguf(arch)
        kv = {"kv_profile": Profile.uniform(path), "kv_budget": BUDGET, "kv_tail": 64, "kv_protect": False}
        sizes = {"n_ctx": 1024, "n_batch": 256, "n_threads": 1, "n_threads_batch": 1, "flash_attn": True}
        return Llama(str(path), **{**kv, **sizes, "verbose": False, **options})

    return make


def held(llm: Any, ctx: Any = None, seq_id: int = 0) -> List[List[int]]:
    n_layer = len(llm._compression.layers)
    return [native.positions(ctx or llm.ctx, il, seq_id).tolist() for il in range(n_layer)]


def whole_then_window(llm: Llama, tokens: List[int]) -> List[List[int]]:
    """What is kept of these tokens where nothing was removed; the window in a batch of its own, as it is run again."""
    llm.reset()
    llm.eval(tokens[:-WINDOW])
    llm.eval(tokens[-WINDOW:])
    llm.compress()
    kept = held(llm)
    llm.reset()
    return kept


def budgets(llm: Any) -> List[int]:
    return [BUDGET] * len(llm._compression.layers)


REMOVALS = [20, 8, 3, 1]


@pytest.mark.parametrize("n_removed", REMOVALS)
def test_a_compression_after_a_removal_is_as_if_the_tokens_had_never_been_there(
    n_removed: int, loaded: Callable[..., Llama]
) -> None:
    llm = loaded()
    want = whole_then_window(llm, PROMPT)

    llm.eval(PROMPT)
    llm.eval(MORE[:n_removed])
    llm.n_tokens = N_PROMPT
    llm.compress()

    assert held(llm) == want
    assert llm.n_tokens == N_PROMPT


@pytest.mark.parametrize("n_removed", REMOVALS)
def test_the_engine_says_what_to_do(n_removed: int, loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    want = whole_then_window(llm, PROMPT)

    llm.eval(PROMPT + MORE[:n_removed])
    llm.n_tokens = N_PROMPT
    assert llm._ctx.kv_cache_seq_rm(-1, N_PROMPT, -1)
    assert native.seq_stats(llm.ctx).n_queries == max(WINDOW - n_removed, 0)
    before = held(llm)
    for call in (
        lambda: native.compress(llm.ctx, budgets(llm)),
        lambda: native.prompt_end(llm.ctx, budgets(llm)),
        lambda: native.choose(llm.ctx, budgets(llm)),
        lambda: native.scores(llm.ctx, 0),
    ):
        with pytest.raises(EngineError, match=r"queries of .*again"):
            call()
    assert held(llm) == before

    llm.n_tokens -= WINDOW
    llm.eval(PROMPT[-WINDOW:])
    assert native.seq_stats(llm.ctx).n_queries == WINDOW
    native.compress(llm.ctx, budgets(llm))
    assert held(llm) == want


def test_within_its_budgets_a_compression_needs_no_queries(loaded: Callable[..., Llama]) -> None:
    llm = loaded(kv_budget=900)
    llm.eval(PROMPT + MORE[:20])
    llm.n_tokens = N_PROMPT
    assert llm._ctx.kv_cache_seq_rm(-1, N_PROMPT, -1)
    native.compress(llm.ctx, [N_PROMPT] * len(llm._compression.layers))
    assert held(llm)[0] == list(range(N_PROMPT))


def test_an_answer_is_generated_again(loaded: Callable[..., Llama]) -> None:
    """Another prompt with the same beginning: the cache is cut back to it, and a few tokens are decoded."""
    llm = loaded(kv_budget=700)  # nothing is frozen
    list(zip(range(30), llm.generate(PROMPT, temp=0.0)))
    other = [*PROMPT, 40, 41, 42]
    llm.set_kv_budget(BUDGET)
    next(iter(llm.generate(other, temp=0.0)))

    fresh = loaded()
    assert held(llm)[0] == whole_then_window(fresh, other)[0]


@pytest.mark.parametrize("n_guide", [3, 20])
def test_a_guide_takes_queries_along(n_guide: int, loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    llm.eval(PROMPT)
    binding.stock_eval(llm, MORE[:n_guide])
    llm.n_tokens = N_PROMPT
    native.compress_guided(llm.ctx, [200] * len(llm._compression.layers), n_guide)
    assert native.seq_stats(llm.ctx).n_queries == max(WINDOW - n_guide, 0)
    before = held(llm)
    with pytest.raises(EngineError, match="again"):
        native.compress(llm.ctx, budgets(llm))
    assert held(llm) == before

    llm.compress()
    assert [len(layer) for layer in held(llm)] == budgets(llm)
    assert native.seq_stats(llm.ctx).n_queries == WINDOW


def test_a_copy_of_a_part_has_no_queries_of_its_own(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 2, unified=True)
    context.read(0, PROMPT)
    llama_cpp.llama_memory_seq_cp(context.memory, 0, 1, 0, N_PROMPT - 20)
    assert native.seq_stats(context.ctx, 1).n_queries == 0
    with pytest.raises(EngineError, match="of sequence 1 are known"):
        native.compress(context.ctx, budgets(llm), 1)
    assert native.seq_stats(context.ctx, 0).n_queries == WINDOW
    native.compress(context.ctx, budgets(llm), 0)


def test_stale_queries_of_a_dropped_end_are_not_those_of_a_copied_one(loaded: Callable[..., Llama]) -> None:
    """Sequence 1 decodes its own end, drops it, and gets sequence 0's: at the same positions."""
    llm = loaded()
    context = Context(llm, 2, unified=True)
    context.read(0, PROMPT)
    context.read(1, PROMPT[:-20] + MORE[:20])
    assert llama_cpp.llama_memory_seq_rm(context.memory, 1, N_PROMPT - 20, -1)
    llama_cpp.llama_memory_seq_cp(context.memory, 0, 1, N_PROMPT - 20, N_PROMPT)
    assert native.seq_stats(context.ctx, 1).n_queries == 0
    with pytest.raises(EngineError, match="again"):
        native.compress(context.ctx, budgets(llm), 1)


def test_shifted_positions_have_no_queries(loaded: Callable[..., Llama]) -> None:
    """llama.cpp's context shift turns the keys; the queries are those of the old positions."""
    llm = loaded()
    llm.eval(PROMPT)
    memory = llama_cpp.llama_get_memory(llm.ctx)
    assert llama_cpp.llama_memory_seq_rm(memory, 0, 10, 26)
    llama_cpp.llama_memory_seq_add(memory, 0, 26, -1, -16)
    with pytest.raises(EngineError, match="again"):
        native.compress(llm.ctx, budgets(llm))
