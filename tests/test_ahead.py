"""A draft of the answer before the eviction: what it leaves behind, and what it finds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logits import Case, prompt

from compresskv_edge import Llama, Profile, policies
from compresskv_edge.engine import native
from compresskv_edge.policies.needs import AHEAD, QUESTION
from compresskv_edge.runtime import ahead, applied

N_PROMPT = 300
TOKENS = prompt(Case("", N_PROMPT))
WINDOW = 8


def load(path: Any, **options: Any) -> Llama:
    defaults = {"kv_profile": Profile.uniform(path), "kv_prefill": "full", "kv_protect": False, "n_ctx": 1024}
    threads = {"n_threads": 1, "n_threads_batch": 1}
    return Llama(str(path), verbose=False, **{**defaults, **threads, **options})


def rows(llm: Llama) -> list[Any]:
    """Keys and values of all layers."""
    return [native.read_kv(llm.ctx, il, shape) for il, shape in enumerate(llm._compression.layers)]


def greedy(llm: Llama, n: int) -> list[int]:
    tokens: list[int] = []
    for _ in range(n):
        tokens.append(int(llm.last_logits().argmax()))
        llm.eval(tokens[-1:])
    return tokens


def test_a_draft_leaves_nothing_behind(tiny_gguf: Callable[..., Path]) -> None:
    llm = load(tiny_gguf("llama"))
    llm.eval(TOKENS)
    before, logits = rows(llm), llm.last_logits()
    drafted = ahead.draft(llm, 5, llm._compression.layers, WINDOW)
    assert llm.n_tokens == N_PROMPT
    np.testing.assert_array_equal(llm.last_logits(), logits)
    for old, new in zip(before, rows(llm)):
        np.testing.assert_array_equal(old[0], new[0])
        np.testing.assert_array_equal(old[1], new[1])
    assert {il: queries.shape[1] for il, queries in drafted.items()} == dict.fromkeys(range(len(before)), 5)
    assert int(llm.sample(temp=0)) == int(logits.argmax())


def test_its_queries_are_those_of_the_answer(tiny_gguf: Callable[..., Path]) -> None:
    drafting, answering = load(tiny_gguf("llama")), load(tiny_gguf("llama"))
    for llm in (drafting, answering):
        llm.eval(TOKENS)
    drafted = ahead.draft(drafting, 6, drafting._compression.layers, WINDOW)
    greedy(answering, 6)
    for il, shape in enumerate(answering._compression.layers):
        np.testing.assert_array_equal(drafted[il], native.read_queries(answering.ctx, il, shape, 6))


def test_it_ends_where_the_answer_does(tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(tiny_gguf("llama"))
    llm.eval(TOKENS)
    third = greedy(llm, 3)[2]
    llm.reset()
    llm.eval(TOKENS)
    monkeypatch.setattr(ahead.binding, "is_end", lambda _, token: token == third)
    drafted = ahead.draft(llm, 8, llm._compression.layers, WINDOW)
    assert {queries.shape[1] for queries in drafted.values()} <= {0, 1, 2}
    assert llm.n_tokens == N_PROMPT


def test_a_context_that_is_full_has_no_room_for_one(tiny_gguf: Callable[..., Path]) -> None:
    llm = load(tiny_gguf("llama"), n_ctx=512)
    llm.eval(prompt(Case("", 511)))
    assert {queries.shape[1] for queries in ahead.draft(llm, 8, llm._compression.layers, WINDOW).values()} == {1}
    llm.eval([65])
    assert ahead.draft(llm, 8, llm._compression.layers, WINDOW) == {}
    assert llm.n_tokens == 512


def test_sliding_windows_cannot_be_set_back(tiny_gguf: Callable[..., Path]) -> None:
    llm = load(tiny_gguf("gemma3"))
    llm.eval(TOKENS)
    logits = llm.last_logits()
    assert ahead.draft(llm, 8, llm._compression.layers, WINDOW) == {}
    np.testing.assert_array_equal(llm.last_logits(), logits)


@pytest.mark.parametrize("n_question", [0, 20])
def test_a_completion_keeps_what_the_statement_says(n_question: int, tiny_gguf: Callable[..., Path]) -> None:
    """At the prompt's end: the draft comes from the whole prompt, and so does the statement's."""
    path = tiny_gguf("llama")
    reader = load(path)
    seen = applied.read(reader, TOKENS, ["ahead"], n_question=n_question)
    assert all(int(layer[QUESTION]) == n_question and layer[AHEAD].shape[1] == 8 for layer in seen.layers)
    policy, n_layer = policies.get("ahead"), len(seen.layers)
    budgets = policy.budgets(seen.layers, [N_PROMPT] * n_layer, 60, window=WINDOW)
    want = [indices.tolist() for indices in policy.keep_all(seen.layers, budgets, 60, window=WINDOW)]

    llm = load(path, kv_policy="ahead", kv_budget=60)
    if n_question:
        llm._begun = lambda tokens: _asked(tokens, n_question)  # type: ignore[method-assign]
    answer = list(itertools.islice(llm.generate(TOKENS, temp=0), 1))
    assert [[p for p in llm.kv_kept(il).tolist() if p < N_PROMPT] for il in range(n_layer)] == want
    assert answer == [int(reader.last_logits().argmax())]


def _asked(tokens: Any, n_question: int) -> Any:
    from compresskv_edge.runtime.prompt import Prompt

    return Prompt(tuple(tokens), question=len(tokens) - n_question)


def test_reading_leaves_the_cache_as_it_was_to_the_bit(tiny_gguf: Callable[..., Path]) -> None:
    """Other policies that the same prompt is read for choose what they choose without a draft."""
    plain, drafting = load(tiny_gguf("llama")), load(tiny_gguf("llama"))
    kept = []
    for llm, names in ((plain, ["snapkv"]), (drafting, ["snapkv", "ahead"])):
        seen = applied.read(llm, TOKENS, names)
        logits = llm.last_logits()
        applied.apply(llm, "snapkv", 60, seen)
        kept.append((logits.tolist(), [llm.kv_kept(il).tolist() for il in range(len(seen.layers))]))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["ahead", "cake"])
def test_a_question_about_a_restored_document_reads_no_document_again(
    name: str, tiny_gguf: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Of a policy that looks at the last tokens only. The question is longer than that, so batches are the same."""
    path, question = tiny_gguf("llama"), prompt(Case("", 380))[300:]
    straight, restored = (load(path, kv_policy=name, kv_budget=60) for _ in range(2))
    for llm in (straight, restored):
        llm.eval(TOKENS)
    state = restored.save_state()
    restored.reset()
    restored.eval(TOKENS[:40])
    restored.load_state(state)
    answers = [next(llm.generate([*TOKENS, *question], temp=0)) for llm in (straight, restored)]
    assert answers[0] == answers[1]
    kept = [[llm.kv_kept(il).tolist() for il in range(len(llm._compression.layers))] for llm in (straight, restored)]
    assert kept[0] == kept[1]
    assert "are run again" not in caplog.text
    restored.load_state(state)
    restored.eval(question)
    restored.compress()
    assert [restored.kv_kept(il).tolist() for il in range(len(restored._compression.layers))] == kept[0]


@pytest.mark.parametrize("name", ["ahead", "cake"])
def test_of_a_short_question_as_many_tokens_are_read_again_as_count(
    name: str, tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = load(tiny_gguf("llama"), kv_policy=name, kv_budget=60)
    llm.eval(TOKENS)
    llm.load_state(llm.save_state())
    decoded: list[int] = []
    run = ahead.binding.stock_eval
    monkeypatch.setattr(
        ahead.binding, "stock_eval", lambda llm, tokens: (decoded.append(len(tokens)), run(llm, tokens))
    )
    next(llm.generate([*TOKENS, 65, 66, 67], temp=0))
    assert decoded[0] == {"ahead": 64, "cake": 32}[name]
    n_layer = len(llm._compression.layers)
    assert sum(len(llm.kv_kept(il)) for il in range(n_layer)) == 60 * n_layer
