"""Every policy through the real engine, and as `Llama(kv_policy=...)`."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy as np
import pytest
from layers import curved, curves_of
from logits import Case, last_logits, prompt

from compresskv_edge import Llama, Profile, policies
from compresskv_edge.engine import native
from compresskv_edge.errors import BudgetError, EngineError, PolicyError
from compresskv_edge.method import scoring
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


#
# read once, apply many
#


@pytest.mark.parametrize("name", policies.names())
def test_apply_keeps_what_the_statement_says(name: str, loaded: Loaded) -> None:
    llm, seen, state = loaded
    policy, mean = policies.get(name), BUDGET
    if name == "compresskv":
        want = [
            scoring.select_tokens(layer.queries[:, -WINDOW:], layer.k, range(layer.n_head), mean)
            for layer in seen.layers
        ]
    elif name == "full":
        want = [np.arange(N_PROMPT)] * len(seen.layers)
    else:
        n_tokens, curves = [N_PROMPT] * len(seen.layers), curves_of(list(seen.layers))
        budgets = policy.budgets(seen.layers, n_tokens, mean, window=WINDOW, curves=curves)
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
    with pytest.raises(PolicyError, match=r"'h2o' looks at queries that are gone: read the prompt with policies\.read"):
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
    with pytest.raises(EngineError, match=r"policies\.apply needs a compressed cache"):
        applied.apply(stock, "snapkv", BUDGET)
    bounded = Llama(path, kv_policy="snapkv", kv_prefill="chunked", n_ctx=256, verbose=False)
    with pytest.raises(PolicyError, match="never holds a whole prompt"):
        applied.read(bounded, TOKENS[:50])
    with pytest.raises(PolicyError, match="no policy was applied"):
        applied.evict(bounded)


#
# Llama(kv_policy=...)
#


@pytest.mark.parametrize("name", policies.names())
def test_a_completion_under_every_policy(name: str, path: str) -> None:
    profile = curved(path) if name in ("compresskv", "edge") else None  # the others do without
    llm = Llama(
        path, kv_profile=profile, kv_policy=name, kv_budget=BUDGET, kv_tail=TAIL, n_ctx=2048, n_threads=1,
        n_threads_batch=1, verbose=False,
    )  # fmt: skip
    texts = []
    for _ in range(2):
        if name == "full":  # it would find its prompt in the cache, and decode alone the last token: other sums
            llm.reset()
        texts.append(list(itertools.islice(llm.generate(TOKENS, temp=0), 150)))
    assert texts[0] == texts[1]
    kept = llm.kv_stats().n_tokens_kept
    assert sum(kept) <= (N_PROMPT + 150 if name == "full" else BUDGET + TAIL) * len(kept)
    assert (llm.kv_stats().n_evictions == 0) == (name == "full")


@pytest.mark.parametrize("budget", [BUDGET, 300, 0.1])
@pytest.mark.parametrize("name", ["snapkv", "pyramidkv", "compresskv", "snapkv:window=16:pooling=avg:kernel=5"])
def test_the_library_selects_what_the_statement_says(name: str, budget: Any, path: str) -> None:
    llm = Llama(
        path,
        kv_policy=name,
        kv_profile=Profile.uniform(path),
        kv_budget=budget,
        kv_tail=512,
        kv_protect=False,
        n_ctx=2048,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
    )
    assert llm._compression.run.native
    llm.eval(TOKENS)
    compression, policy = llm._compression, llm._compression.run.policy
    window, mean = compression.window, compression.mean_budget(N_PROMPT)
    layers = [
        policies.Layer(
            index=il,
            k=native.read_kv(llm.ctx, il, shape)[0],
            queries=native.read_queries(llm.ctx, il, shape, window),
            positions=native.positions(llm.ctx, il),
        )
        for il, shape in enumerate(compression.layers)
    ]
    budgets = policy.budgets(layers, [N_PROMPT] * len(layers), mean, window=window)
    want = policy.keep_all(layers, budgets, mean, window=window)
    llm.compress()
    assert held(llm) == [rows.tolist() for rows in want]
    assert sum(map(len, want)) == mean * len(want)


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


def test_an_edited_text_is_read_again_by_a_policy_that_must_see_it(path: str, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Llama:
        return Llama(path, kv_policy="h2o", kv_budget=BUDGET, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)

    llm, fresh = make(), make()
    next(llm.generate(TOKENS[:80], temp=0))
    other = [*TOKENS[:50], *TOKENS[300:500]]
    assert next(llm.generate(other, temp=0)) == next(fresh.generate(other, temp=0))
    assert held(llm) == held(fresh)
    assert "has not seen the 50 tokens in the cache: all 250 are run again" in caplog.text


def test_a_policy_that_must_see_the_text_refuses_one_that_it_did_not_see(path: str) -> None:
    llm = Llama(path, kv_policy="h2o", kv_budget=BUDGET, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
    llm.eval(TOKENS[:300])
    state = llm.save_state()
    llm.reset()
    llm.eval(TOKENS[300:600])
    llm.load_state(state)
    with pytest.raises(EngineError, match=r"has seen 0 tokens but the cache is at 300: call reset\(\)"):
        llm.compress()
    next(llm.generate(TOKENS[:400], temp=0))  # reads it again by itself
    assert len(held(llm)[0]) == BUDGET


@pytest.mark.parametrize("mode", ["chunked", "guided"])
def test_a_bounded_prefill(mode: str, path: str) -> None:
    for name in ("snapkv", "pyramidkv", *(("h2o", "tova", "streaming_llm", "cake") if mode == "chunked" else ())):
        llm = Llama(
            path, kv_policy=name, kv_budget=BUDGET, kv_tail=TAIL, kv_prefill=mode, n_ctx=2048, n_threads=1,
            n_threads_batch=1, verbose=False,
        )  # fmt: skip
        next(llm.generate(TOKENS, temp=0))
        assert sum(llm.kv_stats().n_tokens_kept) <= BUDGET * 3
        assert llm.kv_stats().n_evictions >= (N_PROMPT - BUDGET) // TAIL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_policy": "snapvk"}, "did you mean 'snapkv'"),
        ({"kv_policy": "tova", "kv_prefill": "guided"}, "kv_policy='tova' is not scored by the library"),
        ({"kv_policy": "full", "kv_prefill": "chunked"}, "kv_policy='full' evicts nothing"),
        ({"kv_policy": "edge"}, "error curves, which the profile lacks: measure one with 'compresskv calibrate"),
    ],
)
def test_policies_that_cannot_be(options: Any, message: str, path: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Llama(path, verbose=False, **options)


def test_a_window_shrinks_with_a_budget_in_tokens(path: str) -> None:
    def window(**options: Any) -> int:
        return Llama(path, n_ctx=256, verbose=False, **options)._compression.window

    assert window(kv_policy="snapkv", kv_budget=1000) == 32
    assert window(kv_policy="snapkv", kv_budget=40) == 10
    assert window(kv_policy="snapkv", kv_budget=9) == WINDOW
    assert window(kv_policy="snapkv", kv_budget=0.1) == 32
    assert window(kv_policy="tova", kv_budget=40) == WINDOW
    assert window(kv_policy="edge", kv_profile=curved(path)) == 4
    assert window(kv_policy="edge:least=2", kv_profile=curved(path), kv_budget=5) == 2


def test_pickle_keeps_the_policy(path: str) -> None:
    llm = Llama(path, kv_policy="pyramidkv:beta=10", kv_budget=50, n_ctx=256, verbose=False)
    again = pickle.loads(pickle.dumps(llm))
    assert again._compression.policy == "pyramidkv:beta=10"
    assert dataclasses.asdict(native.stats(again.ctx))["n_tail"] > 0


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
