"""What is recorded of the queries equals what attention saw: against a context that holds all of them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from logits import Case, prompt

from compresskv_edge import Llama, Profile, native, policies, scoring
from compresskv_edge.errors import EngineError
from compresskv_edge.policies.recorder import Needs, Recorder, column_sums
from compresskv_edge.profile import Settings

N = 700  # tokens: more than one fold, more than two blocks of the sample
TOKENS = prompt(Case("", N))


def open_model(path: str, **settings: Any) -> Llama:
    profile = Profile.uniform(path).model_copy(update={"settings": Settings(n_heads=4, **settings)})
    return Llama(
        path, kv_profile=profile, kv_prefill="full", kv_tail=2048, n_ctx=2048, n_threads=1, n_threads_batch=1,
        type_k=0, type_v=0, verbose=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def truth(tiny_gguf: Callable[..., Path]) -> List[Dict[str, Any]]:
    """By layer: all queries and keys of the prompt, from a context that holds the queries of many tokens at once."""
    step = 100
    llm = open_model(str(tiny_gguf("llama")), window=step, floor=step + 1)
    layers = llm._compression.layers
    parts: List[List[Any]] = [[] for _ in layers]
    for at in range(0, N, step):
        llm.eval(TOKENS[at : at + step])
        for il, layer in enumerate(layers):
            parts[il].append(native.read_queries(llm.ctx, il, layer, step))
    return [
        {"q": np.concatenate(parts[il], axis=1), "k": native.read_kv(llm.ctx, il, layer)[0]}
        for il, layer in enumerate(layers)
    ]


@pytest.fixture(scope="module")
def llm(tiny_gguf: Callable[..., Path]) -> Llama:
    return open_model(str(tiny_gguf("llama")))


def assert_same_queries(layer: policies.Layer, found: Any, true: Any) -> None:
    """The first layer knows nothing of batch sizes; behind it flash attention rounds small batches otherwise."""
    np.testing.assert_allclose(found, true, atol=1e-4 if layer.index == 0 else 0.1)


def test_mass_is_the_attention_of_all_queries(llm: Llama, truth: List[Dict[str, Any]]) -> None:
    seen = policies.read(llm, TOKENS, ["h2o"])
    for layer, true in zip(seen.layers, truth):
        rows = [scoring.window_attention(true["q"], true["k"], head).sum(axis=0) for head in range(4)]
        np.testing.assert_allclose(layer.mass, np.mean(rows, axis=0), rtol=1e-3 if layer.index == 0 else 0.1)
        assert layer.mass.sum() == pytest.approx(N, rel=1e-5), "each query gives one"


@pytest.mark.parametrize(("name", "n"), [("snapkv", 32), ("snapkv:window=50", 50), ("scissorhands", 400), ("tova", 8)])
def test_recent_queries(name: str, n: int, llm: Llama, truth: List[Dict[str, Any]]) -> None:
    for n_prompt in (N, 411, n):
        seen = policies.read(llm, TOKENS[:n_prompt], [name])
        for layer, true in zip(seen.layers, truth):
            assert layer.queries.shape[1] >= min(n, n_prompt)
            assert_same_queries(layer, layer.queries[:, -n:], true["q"][:, max(n_prompt - n, 0) : n_prompt])


@pytest.mark.parametrize("names", [["q_filters"], ["q_filters", "snapkv"], ["uncomp", "h2o"]], ids=str)
def test_the_sample_is_the_end_of_each_block_however_the_prompt_is_read(
    names: List[str], llm: Llama, truth: List[Dict[str, Any]]
) -> None:
    seen = policies.read(llm, TOKENS, names)
    at = [*range(248, 256), *range(504, 512)]
    for layer, true in zip(seen.layers, truth):
        assert_same_queries(layer, layer.sample, true["q"][:, at])


def test_attention_is_counted_while_decoding_and_leaves_with_its_token(llm: Llama) -> None:
    seen = policies.read(llm, TOKENS[:300], ["h2o"])
    policies.apply(llm, "h2o", 100, seen)
    kept = llm.kv_kept(0)
    shape, queries = llm._compression.layers[0], []
    for token in TOKENS[300:345]:
        llm.eval([token])
        queries.append(native.read_queries(llm.ctx, 0, shape, 8)[:, -1:])
    keys, _ = native.read_kv(llm.ctx, 0, shape)
    want = np.concatenate([seen.layers[0].mass[kept], np.zeros(45)])
    want += column_sums(np.concatenate(queries, axis=1), keys, np.arange(101, 146))

    recorder = llm._compression.run.recorder
    recorder.finish(llm)
    np.testing.assert_allclose(recorder.records[0].mass, want, rtol=1e-5)

    policies.evict(llm)
    at = np.flatnonzero(np.isin(np.concatenate([kept, np.arange(300, 345)]), llm.kv_kept(0)))
    np.testing.assert_allclose(recorder.records[0].mass, want[at], rtol=1e-5)


def test_column_sums_by_hand() -> None:
    """Two heads of one KV head, keys that match nothing: each query spreads its attention evenly over what it sees."""
    sums = column_sums(np.ones((2, 3, 4), np.float32), np.zeros((1, 3, 4), np.float32), np.array([1, 2, 3]))
    np.testing.assert_allclose(sums, [1 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3])


def test_what_policies_need_together() -> None:
    both = Needs.of([policies.get("snapkv"), policies.get("h2o")])
    assert both == Needs(recent=32, mass=True)
    assert both.covers(Needs(recent=8))
    assert not both.covers(Needs(sample=True))
    assert not both.covers(Needs(recent=33))


def test_a_policy_that_needs_little_decodes_in_one_go(llm: Llama) -> None:
    def steps(needs: Needs) -> List[int]:
        sizes: List[int] = []
        llm.reset()
        recorder = Recorder(llm._compression.layers, 8, needs)
        recorder.feed(llm, TOKENS[:300], lambda tokens: (sizes.append(len(tokens)), llm._decode(tokens))[1])
        return sizes

    assert steps(Needs(recent=8)) == [300]
    assert steps(Needs(recent=20)) == [280, 8, 8, 4]
    assert steps(Needs(recent=8, sample=True)) == [256, 36, 8]
    assert steps(Needs(mass=True)) == [8] * 37 + [4]


def test_a_cache_that_moved_on(llm: Llama) -> None:
    recorder = Recorder(llm._compression.layers, 8, Needs(mass=True))
    policies.read(llm, TOKENS[:20], ["tova"])
    with pytest.raises(EngineError, match="the policy has seen 0 tokens but the cache is at 20"):
        recorder.finish(llm)
