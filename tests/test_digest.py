"""Documents read once: what a digest keeps, in bounded memory, and what later questions find in it."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from compresskv_edge import Llama
from compresskv_edge.engine import native
from compresskv_edge.errors import BudgetError, ContextError, EngineError, PolicyError
from compresskv_edge.evaluate import digest as evaluation
from compresskv_edge.evaluate import haystack
from compresskv_edge.evaluate.needle import token_counter
from compresskv_edge.runtime import digest

DOCUMENTS = 2


@pytest.fixture
def reader(demo_model: Path) -> Callable[..., Llama]:
    def make(**options: Any) -> Llama:
        options = {"kv_profile": "demo", "kv_budget": 0.12, "n_ctx": 2048, "verbose": False, **options}
        return Llama(str(demo_model), n_threads=1, n_threads_batch=1, **options)

    return make


@pytest.mark.slow
def test_five_questions_over_a_digest(demo_model: Path) -> None:
    """The whole evaluation is in docs/results/digest.json; here two documents of 600 tokens."""
    llm = Llama(str(demo_model), n_ctx=512, verbose=False)
    documents = [evaluation.make_document(i, token_counter(llm), 600) for i in range(DOCUMENTS)]
    result = evaluation.measure(documents, model=str(demo_model), prefill="guided", say=lambda _: None)
    assert result["full"]["n"] == result["digest"]["n"] == 5 * DOCUMENTS
    assert result["digest"]["n_right"] >= 0.9 * result["full"]["n_right"] > 0


def test_a_digest_is_a_session(reader: Callable[..., Llama], text: str, tmp_path: Path) -> None:
    llm, other = reader(), reader()
    seed = llm._seed
    session = llm.digest(text[:2500], n_questions=10)
    n = len(session.tokens)
    assert llm._seed == seed == session.header.seed
    assert llm.n_tokens == n
    assert llm.kv_stats().n_tokens_kept == tuple(session.header.budgets)
    assert sum(session.header.budgets) == round(0.12 * n) * len(session.header.budgets)
    session.save(tmp_path / "text.session")
    other.load_session(tmp_path / "text.session")
    questions = [llm.tokenize(f"\n\nQuestion: What is {x}? Answer:".encode(), add_bos=False) for x in "abc"]
    answers = [
        [
            this.create_completion([*session.tokens, *question], max_tokens=6, temperature=0)["choices"][0]["text"]
            for question in questions
        ]
        for this in (llm, other)
    ]
    assert answers[0] == answers[1]
    assert llm.kv_stats().n_tokens_kept >= tuple(session.header.budgets)  # no question evicted anything of it
    np.testing.assert_array_equal(
        llm.kv_kept(1)[: session.header.budgets[1] - 8], other.kv_kept(1)[: session.header.budgets[1] - 8]
    )


@pytest.mark.parametrize("probe", digest.PROBES)
def test_memory_is_bounded(probe: str, reader: Callable[..., Llama], text: str) -> None:
    """No more than while a bounded prompt is read: budget and tail."""
    llm, chunked = reader(kv_prefill="chunked", kv_budget=100), reader(kv_prefill="chunked", kv_budget=100)
    session = llm.digest(text[:5000], probe=probe, n_questions=4)
    next(chunked.generate(session.tokens.tolist(), temp=0))
    assert len(session.tokens) > 1000
    assert llm.kv_stats().kv_bytes_peak <= chunked.kv_stats().kv_bytes_peak
    assert llm.kv_stats().kv_bytes == chunked.kv_stats().kv_bytes


@pytest.mark.parametrize("mode", ["full", "chunked"])
def test_the_highest_scores_stay(mode: str, reader: Callable[..., Llama], text: str, monkeypatch: Any) -> None:
    """Whether the document is read in one piece or piece by piece: the scores are known before."""
    monkeypatch.setattr(digest.Probing, "keys_share", 0.0)
    llm = reader(kv_prefill=mode, kv_budget=100)
    tokens = llm.tokenize(text[:4000].encode())
    rng = np.random.default_rng(0)
    scores = [rng.random(len(tokens)) for _ in llm._compression.layers]
    monkeypatch.setattr(digest, "probe_scores", lambda *_: scores)
    llm.digest(tokens)
    for layer, budget in enumerate(llm._compression.current):
        value = scores[layer].copy()
        value[:4] = value[-8:] = 2  # sinks and window
        assert set(llm.kv_kept(layer).tolist()) == set(np.argsort(-value)[:budget].tolist())


@pytest.mark.parametrize(("probe", "share"), [("keys", 1.0), ("ask", 0.5)])
def test_the_other_part_of_the_budget_goes_by_keys(
    probe: str, share: float, reader: Callable[..., Llama], text: str, monkeypatch: Any
) -> None:
    """As the policies keydiff and, with a probe's scores in place of the window's, edge divide it."""
    budget, n_pinned = 100, 4
    llm, full = reader(kv_prefill="full", kv_budget=budget), reader(kv_prefill="full", kv_budget=1.0)
    tokens = llm.tokenize(text[:2000].encode())
    scores = [np.random.default_rng(layer).random(len(tokens)) for layer in range(len(llm._compression.layers))]
    if probe != "keys":
        monkeypatch.setattr(digest, "probe_scores", lambda *_: scores)
    llm.digest(tokens, probe=probe)
    full.eval(tokens)
    for layer, shape in enumerate(llm._compression.layers):
        n_before = len(tokens) - 8
        keys, _ = native.read_kv(full.ctx, layer, shape)
        unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
        mean = unit.mean(axis=1, keepdims=True)
        likeness = (unit * mean / np.linalg.norm(mean, axis=-1, keepdims=True)).sum(axis=-1).mean(axis=0)
        n_keep = llm._compression.current[layer] - 8
        n_scored = max(n_keep - round(share * n_keep), n_pinned)
        value = scores[layer][:n_before].copy()
        value[:n_pinned] = 2
        scored = np.argsort(-value)[:n_scored]
        likeness[scored] = np.inf
        by_keys = np.argsort(likeness[:n_before])[: n_keep - n_scored]
        assert set(llm.kv_kept(layer)[:n_keep].tolist()) == {*scored.tolist(), *by_keys.tolist()}


def test_repeat_takes_the_largest_attention_of_any_step(reader: Callable[..., Llama], text: str) -> None:
    llm = reader(kv_prefill="full")
    tokens = llm.tokenize(text[:600].encode())
    got = digest.probe_scores(llm._reader, tokens, digest.Probing("repeat"))
    assert all(scores[1:].min() > 0 and scores.max() <= 1 for scores in got)
    assert native.stats(llm.ctx).n_evictions == 0
    np.testing.assert_array_equal(got, digest.probe_scores(llm._reader, tokens, digest.Probing("repeat")))


def test_chunks_end_with_sentences(reader: Callable[..., Llama], text: str) -> None:
    llm = reader()
    tokens = llm.tokenize(text[:3000].encode())
    spans = list(digest.chunks(llm, tokens, 200))
    assert [a for a, _ in spans] == [1, *(b for _, b in spans[:-1])]
    assert spans[-1][1] == len(tokens)
    assert all(b - a <= 200 for a, b in spans)
    assert all(llm.detokenize(tokens[:b]).decode().rstrip().endswith(".") for _, b in spans[:-1])


def test_questions_depend_on_the_seed_only(reader: Callable[..., Llama], text: str) -> None:
    llm = reader()
    plans = [digest.Probing(seed=seed, n_questions=20) for seed in (1, 1, 2)]
    tokens = llm.tokenize(text[:600].encode())
    a, b, c = (digest.probe_scores(llm._reader, tokens, plan) for plan in plans)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_scores_are_pooled_as_the_policy_pools(reader: Callable[..., Llama]) -> None:
    """snapkv's own kernel and pooling, not those of the profile."""
    one = np.zeros(21)
    one[10] = 1.0
    for policy in ("compresskv", "snapkv"):
        compression = reader(kv_policy=policy, kv_budget=200)._compression
        settings = compression.attached.settings
        pooled = digest._pooled(compression, one)
        assert pooled.max() == pytest.approx(1.0 if settings.pooling == "max" else 1 / settings.kernel)
        assert np.count_nonzero(pooled) == settings.kernel


@pytest.mark.parametrize("prefill", [None, "chunked"])
def test_a_document_longer_than_the_trained_context(prefill: str, reader: Callable[..., Llama]) -> None:
    sentences = haystack.sentences(random.Random(1))
    before, after = (" ".join(itertools.islice(sentences, 220)) for _ in range(2))
    llm = reader(kv_rebase=True, n_ctx=16384, kv_budget=200, kv_prefill=prefill)
    session = llm.digest(f"{before} The secret code of the amber lantern is 4817. {after} ", n_questions=3)
    n = len(session.tokens)
    assert n > llm._reader.positions.trained == 8192
    assert llm.kv_stats().n_tokens_kept == tuple(session.header.budgets)
    assert native.seq_stats(llm.ctx).n_rebased > 0
    kept = llm.kv_kept(0)
    assert kept[-1] == n - 1
    assert kept[0] == 0
    question = llm.tokenize(b"\n\nQuestion: Which code opens the amber lantern? Answer:", add_bos=False)
    answer = llm.create_completion([*session.tokens, *question], max_tokens=8, temperature=0)["choices"][0]["text"]
    assert "4817" in answer


def test_what_cannot_be_digested(reader: Callable[..., Llama], path: str, tiny_gguf: Callable[..., Path]) -> None:
    llm = reader()
    with pytest.raises(ContextError, match="nothing to digest"):
        llm.digest("Hi.")
    with pytest.raises(ContextError, match="does not fit n_ctx = 2048"):
        llm.digest([65] * 2048)
    with pytest.raises(BudgetError, match="probe is 'guess': use one of keys, ask, repeat"):
        llm.digest("word " * 100, probe="guess")
    with pytest.raises(BudgetError, match="n_questions is 0"):
        llm.digest("word " * 100, n_questions=0)
    with pytest.raises(BudgetError, match="kv_tail=64 leaves no room"):
        reader(kv_tail=64).digest("word " * 100)
    assert reader(kv_tail=64).digest("word " * 100, probe="keys").tokens.size > 0
    with pytest.raises(ContextError, match=r"8500.*the 8192 positions that the model was trained for"):
        reader(n_ctx=9000).digest([65] * 8500)
    with pytest.raises(PolicyError, match="digest: kv_policy='h2o' writes queries down"):
        reader(kv_policy="h2o").digest("word " * 100)
    with pytest.raises(EngineError, match="digest needs a compressed cache"):
        Llama(path, verbose=False).digest("word " * 100)
