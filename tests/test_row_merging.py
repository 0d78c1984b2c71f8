"""Evicted rows mixed into kept ones: through the engine, for every policy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy as np
import pytest
from layers import curved
from logits import Case, last_logits, prompt

from compresskv_edge import Batch, Llama, Profile, policies
from compresskv_edge.engine import native
from compresskv_edge.errors import PolicyError
from compresskv_edge.model import random_gguf
from compresskv_edge.policies.merging import Merge, merge
from compresskv_edge.runtime import applied

N_PROMPT, BUDGET, TAIL, WINDOW = 600, 100, 64, 8
TOKENS = prompt(Case("", N_PROMPT))
EVICTING = [name for name in policies.names() if name != "full"]
OPTIONS = Merge(threshold=0.3)  # keys of a random model have little in common
MERGE = "+merge:threshold=0.3"
Loaded = Tuple[Llama, applied.Seen, Any]


@pytest.fixture(scope="module")
def loaded(tiny_gguf: Callable[..., Path]) -> Loaded:
    """A model, a prompt that was read once for all policies, and the state after it."""
    path = str(tiny_gguf("llama"))
    profile, threads = curved(path), {"n_threads": 1, "n_threads_batch": 1}
    llm = Llama(path, kv_profile=profile, kv_tail=TAIL, kv_protect=False, n_ctx=2048, verbose=False, **threads)
    seen = applied.read(llm, TOKENS)
    return llm, seen, llm.save_state()


def held(llm: Llama) -> List[Any]:
    return [llm.kv_kept(il) for il in range(len(llm._compression.layers))]


def rows(llm: Llama) -> List[Any]:
    """By layer: keys and values in the cache."""
    return [native.read_kv(llm.ctx, il, layer) for il, layer in enumerate(llm._compression.layers)]


def assert_merged(llm: Llama, before: Any, positions: Any, fixed: Any, counts: Any = None) -> List[Any]:
    """The cache holds what the statement makes of `before`, in f16; returns the new counts."""
    new = []
    for il, (k, v) in enumerate(rows(llm)):
        kept = np.flatnonzero(np.isin(positions[il], held(llm)[il]))
        stays = fixed(positions[il][kept])
        want = merge(*before[il], kept, OPTIONS, fixed=stays, count=None if counts is None else counts[il])
        np.testing.assert_array_equal(k, want.k.astype(np.float16))
        np.testing.assert_array_equal(v, want.v.astype(np.float16))
        assert len(want.changed)
        assert not stays[want.changed].any()
        new.append(want.count)
    return new


@pytest.mark.parametrize("name", EVICTING)
def test_every_policy_merges_what_it_evicts(name: str, loaded: Loaded) -> None:
    llm, seen, state = loaded
    policy = policies.get(name)
    protected = np.array([2, 3, 300])
    window = policy.window_of(BUDGET, WINDOW)

    def fixed(positions: Any) -> Any:
        return np.isin(positions, protected) | (positions < policy.sinks) | (positions >= N_PROMPT - window)

    try:
        llm.load_state(state)
        llm.protect(protected.tolist())
        before, positions = rows(llm), held(llm)
        applied.apply(llm, name, BUDGET, seen)
        plain = held(llm)
        for _ in range(2):
            llm.load_state(state)
            applied.apply(llm, name + MERGE, BUDGET, seen)
            assert [kept.tolist() for kept in held(llm)] == [kept.tolist() for kept in plain]
            assert_merged(llm, before, positions, fixed)
    finally:
        llm.protect([])


@pytest.mark.parametrize("name", ["snapkv:window=8", "h2o", "streaming_llm", "knorm"])
def test_decoding_merges_as_well_and_rows_count_for_what_they_hold(name: str, loaded: Loaded) -> None:
    llm, seen, state = loaded
    policy = policies.get(name)
    window = policy.window_of(BUDGET, WINDOW)

    def fixed(positions: Any) -> Any:
        return (positions < policy.sinks) | (positions >= llm.n_tokens - window)

    llm.load_state(state)
    before, positions = rows(llm), held(llm)
    applied.apply(llm, name + MERGE, BUDGET, seen)
    counts = assert_merged(llm, before, positions, fixed)
    for _ in range(2):
        llm.eval(TOKENS[:30])
        before, positions = rows(llm), held(llm)
        counts = [np.concatenate([count, np.ones((len(count), 30))], axis=1) for count in counts]
        applied.evict(llm)
        counts = assert_merged(llm, before, positions, fixed, counts)
    assert max(count.max() for count in counts) > 3


@pytest.mark.parametrize("name", EVICTING)
def test_decoding_goes_on(name: str, loaded: Loaded) -> None:
    llm, seen, state = loaded
    texts = []
    for _ in range(2):
        llm.load_state(state)
        applied.apply(llm, name + MERGE, BUDGET, seen)
        token, text = 65, []
        for _ in range(2 * TAIL):
            llm.eval([token])
            token = int(last_logits(llm).argmax())
            text.append(token)
            assert sum(llm.kv_stats().n_tokens_kept) <= (BUDGET + TAIL) * len(seen.layers)
        texts.append(text)
    assert texts[0] == texts[1], "the second run does not know of the first"


@pytest.mark.parametrize("name", EVICTING)
def test_a_prompt_within_its_budget_is_left_alone(name: str, loaded: Loaded) -> None:
    llm = loaded[0]
    seen = applied.read(llm, TOKENS[:40], [name])
    before = rows(llm)
    assert applied.apply(llm, name + MERGE, BUDGET, seen) == [40] * len(seen.layers)
    for one, other in zip(before, rows(llm)):
        np.testing.assert_array_equal(one, other)


def open_model(path: str, **options: Any) -> Llama:
    defaults = {"kv_policy": "snapkv" + MERGE, "kv_budget": BUDGET, "kv_tail": TAIL, "n_ctx": 2048, "n_threads": 1}
    return Llama(path, **{**defaults, "n_threads_batch": 1, "verbose": False, **options})


def test_a_question_that_ran_ahead_is_not_merged(path: str) -> None:
    llm = open_model(path, kv_protect=False)
    run, n_guide = llm._compression.run, 20
    llm.eval(TOKENS[:300])
    n_layer = len(llm._compression.layers)
    before, positions = rows(llm), held(llm)
    llm._reader.decode(TOKENS[400 : 400 + n_guide])
    llm.n_tokens -= n_guide
    budgets = [BUDGET] * n_layer
    want = native.choose(llm.ctx, budgets, n_guide)
    run.compress(llm, budgets, n_guide)
    assert [kept.tolist() for kept in held(llm)] == [kept.tolist() for kept in want]
    window = run.policy.window_of(BUDGET, llm._compression.window)
    assert_merged(llm, before, positions, lambda at: at >= 300 - window)


MODES = [(name, mode) for name in ("snapkv", "compresskv") for mode in ("full", "chunked", "guided")]


@pytest.mark.parametrize(("name", "mode"), [*MODES, ("tova", "full"), ("tova", "chunked")])
def test_completions(name: str, mode: str, path: str) -> None:
    llm = open_model(path, kv_profile=Profile.uniform(path), kv_policy=name + MERGE, kv_prefill=mode)
    plain = open_model(path, kv_profile=Profile.uniform(path), kv_policy=name, kv_prefill=mode)
    answers = []
    for model in (llm, llm, plain):
        generator = model.generate(TOKENS, temp=0)
        next(generator)
        answers.append([rows(model), [next(generator) for _ in range(100)]])
        assert sum(model.kv_stats().n_tokens_kept) <= (BUDGET + TAIL) * 3
    for one, other, without in zip(*(answer[0] for answer in answers)):
        np.testing.assert_array_equal(one, other)
        assert (one[0] != without[0]).any()
    assert answers[0][1] == answers[1][1]


def test_a_session_holds_the_merged_rows(path: str, tmp_path: Path) -> None:
    llm = open_model(path)
    next(llm.generate(TOKENS, temp=0))
    llm.save_session(tmp_path / "one.session")
    again = Llama.load_session(tmp_path / "one.session")
    for one, other in zip(rows(llm), rows(again)):
        np.testing.assert_array_equal(one, other)
    llm.load_session(tmp_path / "one.session")
    texts = [[next(stream) for _ in range(150)] for stream in (m.generate(TOKENS, temp=0) for m in (llm, again))]
    assert texts[0] == texts[1], "both count anew"


@pytest.mark.parametrize("type_kv", [8, 2])
def test_a_quantised_cache(type_kv: int, path: str) -> None:
    llm = open_model(path, type_k=type_kv, type_v=type_kv)
    next(llm.generate(TOKENS, temp=0))
    assert all(np.isfinite(k).all() and np.isfinite(v).all() for k, v in rows(llm))
    assert sum(llm.kv_stats().n_tokens_kept) == BUDGET * 3


def test_where_nothing_can_be_merged(path: str) -> None:
    llm = open_model(path)
    with pytest.raises(PolicyError, match=r"a batch evicts without merging: leave out '\+merge' of kv_policy='snapkv"):
        Batch(llm)
    with pytest.raises(PolicyError, match="digest evicts without merging"):
        llm.digest(TOKENS)
    full = open_model(path, kv_policy="full+merge")
    next(full.generate(TOKENS, temp=0))
    assert full.kv_stats().n_tokens_kept == (N_PROMPT,) * 3


def test_a_text_that_is_rebased_goes_on_merging(tmp_path: Path) -> None:
    """Past the 512 positions that this model was trained for; counts go by the text's own positions."""
    shape = dataclasses.replace(random_gguf.TINY_SHAPES["llama"], n_ctx_train=512)
    path = str(random_gguf.write_random_gguf(tmp_path / "small.gguf", shape))
    for prefill in ("guided", "chunked"):
        llm = open_model(path, kv_rebase=True, kv_prefill=prefill, kv_budget=64, kv_protect=False)
        stream = llm.generate(TOKENS, temp=0)
        for _ in range(300):
            next(stream)
        assert native.seq_stats(llm.ctx).n_rebased > 0
        for il in range(3):
            count = llm._compression.run.recorder.counts.of(il, llm.kv_kept(il), 2)
            assert 5 < count.max() < N_PROMPT + 300
            assert (count[:, -WINDOW:] == 1).all()
