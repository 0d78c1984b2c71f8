"""A prompt that is read once, and every policy on it through the real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy as np
import pytest
from layers import curved, curves_of
from logits import Case, last_logits, prompt

from compresskv_edge import Llama, policies
from compresskv_edge.errors import BudgetError, EngineError, PolicyError
from compresskv_edge.method import scoring
from compresskv_edge.policies.needs import KEYS, QUERIES
from compresskv_edge.runtime import applied

N_PROMPT, BUDGET, TAIL, WINDOW = 600, 100, 64, 8
TOKENS = prompt(Case("", N_PROMPT))
EVICTING = [name for name in policies.names() if name != "full"]
Loaded = Tuple[Llama, applied.Seen, Any]


@pytest.fixture(scope="module")
def loaded(tiny_gguf: Callable[..., Path]) -> Loaded:
    """A model, a prompt that was read once for all policies, and the state after it."""
    path = str(tiny_gguf("llama"))
    profile, threads = curved(path), {"n_threads": 1, "n_threads_batch": 1}
    # the statements know no sinks: they belong to Llama, not to a policy
    llm = Llama(path, kv_profile=profile, kv_tail=TAIL, kv_protect=False, n_ctx=2048, verbose=False, **threads)
    seen = applied.read(llm, TOKENS)
    return llm, seen, llm.save_state()


def held(llm: Llama) -> List[Any]:
    return [llm.kv_kept(il).tolist() for il in range(len(llm._compression.layers))]


@pytest.mark.parametrize("name", policies.names())
def test_apply_keeps_what_the_statement_says(name: str, loaded: Loaded) -> None:
    llm, seen, state = loaded
    policy, mean = policies.get(name), BUDGET
    if name == "compresskv":
        want = [
            scoring.select_tokens(layer[QUERIES][:, -WINDOW:], layer[KEYS], range(layer[QUERIES].shape[0]), mean)
            for layer in seen.layers
        ]
    elif name == "full":
        want = [np.arange(N_PROMPT)] * len(seen.layers)
    else:
        n_tokens, curves = [N_PROMPT] * len(seen.layers), curves_of(list(seen.layers))
        budgets = policy.budgets(seen.layers, n_tokens, mean, window=WINDOW, known=curves)
        want = policy.keep_all(seen.layers, budgets, mean, window=WINDOW)
    for _ in range(2):
        llm.load_state(state)
        kept = applied.apply(llm, name, mean, seen)
        assert held(llm) == [rows.tolist() for rows in want]
        assert kept == [len(rows) for rows in want]
    assert all(rows[-WINDOW:] == list(range(N_PROMPT - WINDOW, N_PROMPT)) for rows in held(llm))
    assert sum(kept) == (N_PROMPT if name == "full" else mean) * len(kept)


@pytest.mark.parametrize("name", EVICTING)
def test_decoding_goes_on_within_budget_and_tail(name: str, loaded: Loaded) -> None:
    llm, seen, state = loaded
    texts = []
    for _ in range(2):
        llm.load_state(state)
        applied.apply(llm, name, BUDGET, seen)
        evictions = llm.kv_stats().n_evictions
        token, text = 65, []
        for _ in range(3 * TAIL):
            llm.eval([token])
            token = int(last_logits(llm).argmax())
            text.append(token)
            assert sum(llm.kv_stats().n_tokens_kept) <= (BUDGET + TAIL) * len(seen.layers)
        texts.append(text)
        assert llm.kv_stats().n_evictions >= evictions + 3
    assert texts[0] == texts[1], "the second run does not know of the first"
    applied.evict(llm)
    assert sum(llm.kv_stats().n_tokens_kept) == BUDGET * len(seen.layers)
    assert llm.n_tokens == N_PROMPT + 3 * TAIL


@pytest.mark.parametrize("name", policies.names())
@pytest.mark.parametrize("n", [1, 5, WINDOW, 40])
def test_a_prompt_within_its_budget_is_kept_whole(name: str, n: int, loaded: Loaded) -> None:
    llm = loaded[0]
    seen = applied.read(llm, TOKENS[:n], [name])
    assert applied.apply(llm, name, BUDGET, seen) == [n] * len(seen.layers)
    for token in TOKENS[: BUDGET + 2 * TAIL]:
        llm.eval([token])
    kept = llm.kv_stats().n_tokens_kept
    assert sum(kept) <= (n + BUDGET + 2 * TAIL if name == "full" else BUDGET + TAIL) * len(kept)


def test_a_fraction_is_of_the_prompt(loaded: Loaded) -> None:
    llm, seen, state = loaded
    llm.load_state(state)
    assert applied.apply(llm, "snapkv", 0.1, seen) == [60, 60, 60]


def test_protected_tokens_stay_under_every_policy(loaded: Loaded) -> None:
    llm, seen, state = loaded
    protected = [2, 3, 300]
    for name in EVICTING:
        llm.load_state(state)
        llm.protect(protected)
        try:
            applied.apply(llm, name, BUDGET, seen)
            assert all(set(protected) <= set(rows) for rows in held(llm)), name
        finally:
            llm.protect([])


def test_without_a_record_only_what_the_library_holds(loaded: Loaded) -> None:
    llm, seen, state = loaded
    for name in ("compresskv", "streaming_llm", "tova", "keydiff", "knorm", "random", "snapkv:window=8"):
        llm.load_state(state)
        applied.apply(llm, name, BUDGET, seen)
        want = held(llm)
        llm.load_state(state)
        applied.apply(llm, name, BUDGET)
        assert held(llm) == want
    llm.load_state(state)
    with pytest.raises(PolicyError, match=r"'h2o' looks at queries that are gone: read the prompt with applied\.read"):
        applied.apply(llm, "h2o", BUDGET)


def test_what_was_not_recorded(loaded: Loaded) -> None:
    llm, _, _ = loaded
    little = applied.read(llm, TOKENS[:200], ["snapkv"])
    for name in ("h2o", "sentencekv", "scissorhands", "q_filters"):
        with pytest.raises(PolicyError, match=f"'{name}' needs more than was recorded: name it in applied.read"):
            applied.apply(llm, name, BUDGET, little)
    llm.eval([65])
    with pytest.raises(PolicyError, match="the cache holds 201 tokens, not the 200 of the prompt that was read"):
        applied.apply(llm, "snapkv", BUDGET, little)


def test_errors_of_apply(loaded: Loaded, path: str) -> None:
    llm, seen, state = loaded
    llm.load_state(state)
    with pytest.raises(BudgetError, match="kv_budget is 8 tokens"):
        applied.apply(llm, "snapkv", 8, seen)
    stock = Llama(path, n_ctx=256, verbose=False)
    with pytest.raises(EngineError, match=r"applied\.apply needs a compressed cache"):
        applied.apply(stock, "snapkv", BUDGET)
    bounded = Llama(path, kv_policy="snapkv", kv_prefill="chunked", n_ctx=256, verbose=False)
    with pytest.raises(PolicyError, match="never holds a whole prompt"):
        applied.read(bounded, TOKENS[:50])
    with pytest.raises(PolicyError, match="no policy was applied"):
        applied.evict(bounded)


def test_as_a_user_and_as_an_evaluation(path: str, loaded: Loaded) -> None:
    """The same tokens both ways, for policies whose prompt is decoded in the same steps."""
    llm, _, _ = loaded
    for name in ("h2o", "treekv", "cake", "tova"):
        applied.apply(llm, name, BUDGET, applied.read(llm, TOKENS, [name]))
        user = Llama(
            path,
            kv_policy=name,
            kv_budget=BUDGET,
            kv_protect=False,
            n_ctx=2048,
            n_threads=1,
            n_threads_batch=1,
            verbose=False,
        )
        next(user.generate(TOKENS, temp=0))
        assert held(user) == held(llm), name


@pytest.mark.parametrize("arch", ["gemma3"])
def test_layers_with_sliding_windows_are_left_alone(arch: str, tiny_gguf: Callable[..., Path]) -> None:
    path = str(tiny_gguf(arch))
    llm = Llama(
        path, kv_profile=curved(path), kv_prefill="full", n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False,
    )  # fmt: skip
    evictable = [il for il, layer in enumerate(llm._compression.layers) if layer.evictable]
    assert 0 < len(evictable) < len(llm._compression.layers)
    seen = applied.read(llm, TOKENS)
    state = llm.save_state()
    for name in EVICTING:
        llm.load_state(state)
        kept = applied.apply(llm, name, BUDGET, seen)
        assert sum(kept[il] for il in evictable) == BUDGET * len(evictable), name
