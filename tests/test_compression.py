"""Memory that stays at budget and tail: bounded prefill, eviction while decoding, protected tokens."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import pytest
from logits import Case, last_logits, prompt

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import memory, native
from compresskv_edge.errors import BudgetError, UnsupportedModelError
from compresskv_edge.method import scoring
from compresskv_edge.runtime.settings import KVSettings, parse_bytes

pytestmark = pytest.mark.every_device

BUDGET, TAIL, N_PROMPT = 200, 128, 3000


@pytest.fixture
def load(load: Callable[..., Llama]) -> Callable[..., Llama]:
    """As conftest's, with room for long prompts."""
    return functools.partial(load, kv_budget=BUDGET, kv_tail=TAIL, n_ctx=8192)


def bound(llm: Llama) -> float:
    """Bytes of budget and tail in all layers."""
    layers = llm._compression.layers
    row = [2 * layer.n_head_kv * (layer.head_dim_k + layer.head_dim_v) for layer in layers]  # f16
    return sum((BUDGET + TAIL) * size for size in row)


@pytest.mark.parametrize("mode", ["chunked", "guided"])
def test_a_bounded_prefill_never_holds_more_than_budget_and_tail(mode: str, load: Callable[..., Llama]) -> None:
    llm = load(kv_prefill=mode)
    next(llm.generate(prompt(Case("", N_PROMPT)), temp=0))
    stats = llm.kv_stats()
    assert stats.n_tokens_seen == N_PROMPT
    assert set(stats.n_tokens_kept) == {BUDGET}
    assert stats.kv_bytes <= bound(llm)
    assert stats.kv_bytes_peak <= 1.02 * bound(llm)
    assert stats.n_evictions >= (N_PROMPT - BUDGET) // TAIL


@pytest.mark.parametrize("mode", ["full", "chunked", "guided"])
def test_generation_never_grows(mode: str, load: Callable[..., Llama]) -> None:
    llm = load(kv_prefill=mode)
    generator = llm.generate(prompt(Case("", 900)), temp=0)
    next(generator)
    before = llm.kv_stats()
    for _ in itertools.islice(generator, 1000):
        pass
    after = llm.kv_stats()
    assert after.n_tokens_seen >= 1900
    assert max(after.n_tokens_kept) <= BUDGET + TAIL
    assert after.kv_bytes == before.kv_bytes <= bound(llm)
    assert after.kv_bytes_peak == before.kv_bytes_peak
    assert after.n_evictions >= 1000 // TAIL


def test_a_prompt_within_its_budget_is_not_touched_while_decoding_goes_on(load: Callable[..., Llama]) -> None:
    llm = load(kv_prefill="full")
    generator = llm.generate(prompt(Case("", 100)), temp=0)
    for _ in itertools.islice(generator, BUDGET + TAIL - 100):
        pass
    assert llm.kv_stats().n_evictions == 0
    for _ in itertools.islice(generator, 50):
        pass
    assert llm.kv_stats().n_evictions == 1


def test_a_turn_that_fits_the_tail_evicts_nothing(load: Callable[..., Llama]) -> None:
    """Its rows are allocated anyway; one that does not fit is compressed at its end, as the first prompt was."""
    llm = load(kv_prefill="full")
    history = prompt(Case("", 900))
    next(llm.generate(history, temp=0))
    assert llm.kv_stats().n_evictions == 1
    for n_more, n_evictions in ((TAIL - 8, 1), (TAIL, 2)):
        history += prompt(Case("", n_more))
        next(llm.generate(history, temp=0))
        stats = llm.kv_stats()
        assert stats.n_evictions == n_evictions
        assert max(stats.n_tokens_kept) == (BUDGET + TAIL - 8 if n_evictions == 1 else BUDGET)
        assert stats.kv_bytes <= bound(llm)


@pytest.mark.parametrize("n_guide", [8, 30])
def test_a_guide_scores_the_chunk_and_is_gone(n_guide: int, load: Callable[..., Llama]) -> None:
    llm = load()
    layers = llm._compression.layers
    llm.eval(prompt(Case("", 600)))
    llm.eval(prompt(Case("", n_guide)))
    want: List[Any] = []
    for il, layer in enumerate(layers):
        q = native.read_queries(llm.ctx, il, layer, 8)
        k, _ = native.read_kv(llm.ctx, il, layer)
        scores = scoring.token_scores(q, k, range(layer.n_head))[: 600 - 8]
        want.append(np.sort(np.argsort(-scores, kind="stable")[: BUDGET - 8]))

    native.compress_guided(llm.ctx, [BUDGET] * len(layers), n_guide)

    assert llm.kv_stats().n_tokens_seen == 600
    for il in range(len(layers)):
        if n_guide == 8:  # the guide is the window: the specification's pooling sees the same columns
            np.testing.assert_array_equal(llm.kv_kept(il)[:-8], _specified(llm, want[il]))
        np.testing.assert_array_equal(llm.kv_kept(il)[-8:], np.arange(592, 600))
        assert len(llm.kv_kept(il)) == BUDGET
    llm.n_tokens = 600
    llm.eval([65])
    assert llm.kv_kept(0)[-1] == 600


def _specified(llm: Llama, kept: Any) -> Any:
    assert kept.max() < 592
    return kept


def test_guided_is_chunked_with_the_question_in_mind(load: Callable[..., Llama]) -> None:
    """Another question keeps other tokens of the same document; chunked does not know the question."""
    document = prompt(Case("", 1500))
    kept = {}
    for mode in ("chunked", "guided"):
        for question in (40, 41):
            llm = load(kv_prefill=mode)
            next(llm.generate([*document, *prompt(Case("", question))], temp=0))
            kept[mode, question] = set(llm.kv_kept(0)[llm.kv_kept(0) < 1000].tolist())
    assert kept["guided", 40] != kept["guided", 41]


def test_the_mode_is_chosen_by_memory(load: Callable[..., Llama], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = prompt(Case("", N_PROMPT))
    roomy, tight = load(kv_memory="1GB"), load(kv_memory="1MB")
    for llm in (roomy, tight):
        next(llm.generate(tokens, temp=0))
    assert roomy.kv_stats().n_evictions == 1
    assert tight.kv_stats().n_evictions > 1
    assert tight.kv_stats().kv_bytes_peak < 1 << 20

    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    llm = load()
    next(llm.generate(tokens, temp=0))
    assert llm.kv_stats().n_evictions > 1


def test_sliding_window_models_are_chunked_not_guided(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("gemma3")
    with pytest.raises(UnsupportedModelError, match="chunked"):
        Llama(str(path), kv_profile=Profile.uniform(path), kv_prefill="guided", verbose=False)
    llm = Llama(
        str(path),
        kv_profile=Profile.uniform(path),
        kv_budget=BUDGET,
        kv_tail=TAIL,
        kv_memory=1,
        n_ctx=4096,
        verbose=False,
    )
    next(llm.generate(prompt(Case("", 1500)), temp=0))
    evictable = [il for il, layer in enumerate(llm._compression.layers) if layer.evictable]
    assert {llm.kv_stats().n_tokens_kept[il] for il in evictable} == {BUDGET}


@pytest.mark.parametrize("mode", ["full", "chunked", "guided"])
def test_protected_tokens_are_never_evicted(mode: str, load: Callable[..., Llama]) -> None:
    llm = load(kv_prefill=mode)
    protected = [*range(20), 777, 778]
    llm.protect(protected)
    generator = llm.generate(prompt(Case("", 1500)), temp=0)
    for _ in itertools.islice(generator, 300):
        pass
    for il in range(len(llm._compression.layers)):
        assert set(protected) <= set(llm.kv_kept(il).tolist())
        assert len(llm.kv_kept(il)) <= BUDGET + TAIL

    llm.protect(range(BUDGET))
    with pytest.raises(BudgetError, match=r"200 protected tokens .* use 209 or more"):
        llm.compress()


def test_a_bounded_cache_is_used_again(load: Callable[..., Llama]) -> None:
    """After a long full prompt, a bounded one does not keep its memory."""
    llm = load(kv_prefill="full")
    next(llm.generate(prompt(Case("", 2500)), temp=0))
    llm.reset()
    llm.eval(prompt(Case("", 2000)))  # uncompressed: the tail has grown
    llm._compression.settings = replace(llm.kv_settings, prefill="chunked")
    next(llm.generate(prompt(Case("", 2600)), temp=0))
    assert llm.kv_stats().kv_bytes <= bound(llm)


def test_eval_is_bounded_only_if_asked(load: Callable[..., Llama]) -> None:
    tokens = prompt(Case("", 1000))
    free, chunked = load(), load(kv_prefill="chunked")
    for llm in (free, chunked):
        llm.eval(tokens)
    assert set(free.kv_stats().n_tokens_kept) == {1000}
    assert max(chunked.kv_stats().n_tokens_kept) <= BUDGET + TAIL
    assert np.isfinite(last_logits(chunked)).all()


@pytest.mark.parametrize(
    ("text", "size"), [(5, 5), ("2GB", 2 << 30), ("1.5 mb", 3 << 19), ("512KB", 512 << 10), (None, None)]
)
def test_sizes(text: Any, size: Any) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", [0, -1, True, "2", "GB", "two GB", "1e999GB", ""])
def test_bad_sizes(text: Any) -> None:
    with pytest.raises(BudgetError, match="kv_memory"):
        parse_bytes(text)


def test_bad_modes(path: str) -> None:
    with pytest.raises(BudgetError, match="kv_prefill"):
        KVSettings(Profile.uniform(path), 0.5, TAIL, "sometimes")
