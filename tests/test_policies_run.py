"""Every policy as `Llama(kv_policy=...)`."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from typing import Any, List

import pytest
from layers import curved
from logits import Case, prompt

from compresskv_edge import Llama, Profile, policies
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError, PolicyError

N_PROMPT, BUDGET, TAIL, WINDOW = 600, 100, 64, 8
TOKENS = prompt(Case("", N_PROMPT))
EVICTING = [name for name in policies.names() if name != "full"]


def held(llm: Llama) -> List[Any]:
    return [llm.kv_kept(il).tolist() for il in range(len(llm._compression.layers))]


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
            il,
            native.positions(llm.ctx, il),
            {"keys": native.read_kv(llm.ctx, il, shape)[0], "queries": native.read_queries(llm.ctx, il, shape, window)},
        )
        for il, shape in enumerate(compression.layers)
    ]
    budgets = policy.budgets(layers, [N_PROMPT] * len(layers), mean, window=window)
    want = policy.keep_all(layers, budgets, mean, window=window)
    llm.compress()
    assert held(llm) == [rows.tolist() for rows in want]
    assert sum(map(len, want)) == mean * len(want)


def test_an_edited_text_is_read_again_by_a_policy_that_must_see_it(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "compresskv_edge")

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
    assert again.kv_settings.policy == "pyramidkv:beta=10"
    assert dataclasses.asdict(native.stats(again.ctx))["n_tail"] > 0
