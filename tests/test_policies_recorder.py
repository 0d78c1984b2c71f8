"""What is recorded of the queries equals what attention saw: against a context that holds all of them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from logits import Case, last_logits, prompt
from sequences import Context

from compresskv_edge import Llama, Profile, policies
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError, UnsupportedModelError
from compresskv_edge.method import scoring
from compresskv_edge.model.profile import Settings
from compresskv_edge.policies.needs import KEYS, MASS, QUERIES, SAMPLE, Need, covers, last, union
from compresskv_edge.runtime import applied
from compresskv_edge.runtime.recorder import Recorder
from compresskv_edge.runtime.records import column_sums

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


def decode(llm: Llama, tokens: List[int]) -> None:
    """Past the policy that the model has now."""
    super(Llama, llm).eval(tokens)


def assert_same_queries(layer: policies.Layer, found: Any, true: Any) -> None:
    """The first layer knows nothing of batch sizes; behind it flash attention rounds small batches otherwise."""
    np.testing.assert_allclose(found, true, atol=1e-4 if layer.index == 0 else 0.1)


def test_mass_is_the_attention_of_all_queries(llm: Llama, truth: List[Dict[str, Any]]) -> None:
    seen = applied.read(llm, TOKENS, ["h2o"])
    for layer, true in zip(seen.layers, truth):
        rows = [scoring.window_attention(true["q"], true["k"], head).sum(axis=0) for head in range(4)]
        np.testing.assert_allclose(layer[MASS], np.mean(rows, axis=0), rtol=1e-3 if layer.index == 0 else 0.1)
        assert layer[MASS].sum() == pytest.approx(N, rel=1e-5), "each query gives one"


@pytest.mark.parametrize(("name", "n"), [("snapkv", 32), ("snapkv:window=50", 50), ("scissorhands", 400), ("tova", 8)])
def test_recent_queries(name: str, n: int, llm: Llama, truth: List[Dict[str, Any]]) -> None:
    for n_prompt in (N, 411, n):
        seen = applied.read(llm, TOKENS[:n_prompt], [name])
        for layer, true in zip(seen.layers, truth):
            assert layer[QUERIES].shape[1] >= min(n, n_prompt)
            assert_same_queries(layer, layer[QUERIES][:, -n:], true["q"][:, max(n_prompt - n, 0) : n_prompt])


@pytest.mark.parametrize("names", [["q_filters"], ["q_filters", "snapkv"], ["uncomp", "h2o"]], ids=str)
def test_the_sample_is_the_end_of_each_block_however_the_prompt_is_read(
    names: List[str], llm: Llama, truth: List[Dict[str, Any]]
) -> None:
    seen = applied.read(llm, TOKENS, names)
    at = [*range(248, 256), *range(504, 512)]
    for layer, true in zip(seen.layers, truth):
        assert_same_queries(layer, layer[SAMPLE], true["q"][:, at])


def test_attention_is_counted_while_decoding_and_leaves_with_its_token(llm: Llama) -> None:
    seen = applied.read(llm, TOKENS[:300], ["h2o"])
    applied.apply(llm, "h2o", 100, seen)
    kept = llm.kv_kept(0)
    shape, queries = llm._compression.layers[0], []
    for token in TOKENS[300:345]:
        llm.eval([token])
        queries.append(native.read_queries(llm.ctx, 0, shape, 8)[:, -1:])
    keys, _ = native.read_kv(llm.ctx, 0, shape)
    want = np.concatenate([seen.layers[0][MASS][kept], np.zeros(45)])
    want += column_sums(np.concatenate(queries, axis=1), keys, np.arange(101, 146))

    recorder = llm._compression.run.recorder
    recorder.finish(llm)
    np.testing.assert_allclose(recorder.value(0, MASS), want, rtol=1e-5)

    applied.evict(llm)
    at = np.flatnonzero(np.isin(np.concatenate([kept, np.arange(300, 345)]), llm.kv_kept(0)))
    np.testing.assert_allclose(recorder.value(0, MASS), want[at], rtol=1e-5)


def test_column_sums_by_hand() -> None:
    """Two heads of one KV head, keys that match nothing: each query spreads its attention evenly over what it sees."""
    sums = column_sums(np.ones((2, 3, 4), np.float32), np.zeros((1, 3, 4), np.float32), np.array([1, 2, 3]))
    np.testing.assert_allclose(sums, [1 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3])


def test_what_policies_need_together() -> None:
    both = union(policies.get(name).needs for name in ("snapkv:window=20", "h2o", "snapkv"))
    assert both == {KEYS, last(32), MASS}
    assert covers(both, frozenset({last(8)}))
    assert not covers(both, frozenset({SAMPLE}))
    assert not covers(both, frozenset({last(33)}))


def test_the_steps_in_which_a_prompt_is_decoded(llm: Llama) -> None:
    def steps(*needs: Need) -> List[int]:
        sizes: List[int] = []
        llm.reset()
        recorder = Recorder(llm._compression.layers, 8, frozenset(needs))
        recorder.feed(llm, TOKENS[:600], lambda tokens: (sizes.append(len(tokens)), decode(llm, tokens))[1])
        return sizes

    assert steps(KEYS, last(8)) == [600]
    assert steps(last(20)) == [600]
    assert steps(last(8), SAMPLE) == [256, 256, 88]
    assert steps(MASS) == [256, 256, 88]


@pytest.mark.parametrize("cut", [1, 8, 9, 255, 256, 300])
def test_however_a_text_comes_its_queries_are_read_once(cut: int, llm: Llama, truth: List[Dict[str, Any]]) -> None:
    """In one go, or cut in two, the second part token by token."""
    n, needs = 320, frozenset({last(30), MASS, SAMPLE})
    whole, parts = (Recorder(llm._compression.layers, 8, needs) for _ in range(2))
    llm.reset()
    whole.feed(llm, TOKENS[:n], lambda tokens: decode(llm, tokens))
    whole.finish(llm)
    llm.reset()
    parts.feed(llm, TOKENS[:cut], lambda tokens: decode(llm, tokens))
    for token in TOKENS[cut:n]:
        parts.feed(llm, [token], lambda tokens: decode(llm, tokens))
    parts.finish(llm)
    for il, true in enumerate(truth):
        one, other = ([r.value(il, need) for need in (QUERIES, SAMPLE, MASS)] for r in (whole, parts))
        assert one[0].shape[1] == other[0].shape[1] == 30
        assert one[1].shape[1] == other[1].shape[1] == 8
        np.testing.assert_allclose(one[0], true["q"][:, n - 30 : n], atol=1e-4 if il == 0 else 0.1)
        np.testing.assert_allclose(other[0], one[0], atol=1e-4 if il == 0 else 0.1)
        np.testing.assert_allclose(other[1], one[1], atol=1e-4 if il == 0 else 0.1)
        np.testing.assert_allclose(other[2], one[2], rtol=1e-3 if il == 0 else 0.1)
        assert one[2].sum() == pytest.approx(n, rel=1e-5)


def test_a_recorded_prompt_is_decoded_as_any_other(llm: Llama) -> None:
    """Cache and logits to the bit, and no memory is left behind."""
    applied.read(llm, TOKENS, ["compresskv"])
    want = [native.read_kv(llm.ctx, il, layer)[0] for il, layer in enumerate(llm._compression.layers)]
    logits, before = last_logits(llm), native.memory(llm.ctx)
    for name in ("snapkv", "scissorhands", "h2o"):
        applied.read(llm, TOKENS, [name])
        for il, layer in enumerate(llm._compression.layers):
            np.testing.assert_array_equal(native.read_kv(llm.ctx, il, layer)[0], want[il])
        np.testing.assert_array_equal(last_logits(llm), logits)
        assert native.memory(llm.ctx) == before
        assert native.stats(llm.ctx).window_bytes == sum(
            8 * 4 * s.n_head * s.head_dim_k for s in llm._compression.layers
        )


def test_queries_beside_the_window(llm: Llama, truth: List[Dict[str, Any]]) -> None:
    layer = llm._compression.layers[0]
    llm.reset()
    before = native.stats(llm.ctx)
    native.keep_queries(llm.ctx, 100)
    try:
        after = native.stats(llm.ctx)
        n_bytes = sum(100 * 4 * shape.n_head * shape.head_dim_k for shape in llm._compression.layers)
        assert (after.window_bytes - before.window_bytes, after.kv_bytes) == (n_bytes, before.kv_bytes)
        assert native.memory(llm.ctx).context_bytes == after.kv_bytes + after.window_bytes
        decode(llm, TOKENS[:70])
        with pytest.raises(EngineError, match="the queries of 70 of the last 90 tokens are known"):
            native.read_queries(llm.ctx, 0, layer, 90)
        decode(llm, TOKENS[70:250])
        for n in (1, 8, 9, 100):
            np.testing.assert_allclose(
                native.read_queries(llm.ctx, 0, layer, n), truth[0]["q"][:, 250 - n : 250], atol=1e-4
            )
        with pytest.raises(EngineError, match="n is 101: the queries of 100 tokens are kept"):
            native.read_queries(llm.ctx, 0, layer, 101)
        llm.n_tokens = 240
        decode(llm, TOKENS[300:305])
        with pytest.raises(EngineError, match="the queries of 95 of the last 96 tokens are known"):
            native.read_queries(llm.ctx, 0, layer, 96)
        llm.reset()
        decode(llm, TOKENS[:9])
        with pytest.raises(EngineError, match="the queries of 9 of the last 10 tokens are known"):
            native.read_queries(llm.ctx, 0, layer, 10)
    finally:
        native.keep_queries(llm.ctx, 0)
    with pytest.raises(EngineError, match="n is 9: the queries of 8 tokens are kept"):
        native.read_queries(llm.ctx, 0, layer, 9)
    with pytest.raises(EngineError, match=r"n_tokens is -1, not in 0\.\.2048"):
        native.keep_queries(llm.ctx, -1)
    with pytest.raises(UnsupportedModelError, match="create the context with n_seq_max = 1"):
        native.keep_queries(Context(llm, 2).ctx, 10)


def test_a_cache_that_moved_on(llm: Llama) -> None:
    recorder = Recorder(llm._compression.layers, 8, frozenset({MASS}))
    applied.read(llm, TOKENS[:20], ["tova"])
    with pytest.raises(EngineError, match="the policy has seen 0 tokens but the cache is at 20"):
        recorder.finish(llm)
