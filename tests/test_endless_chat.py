"""A chat of 200 turns in 200 tokens a layer and a tail of 128: nothing grows, the system prompt is obeyed."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import Any, Callable, List

import numpy as np
import pytest
from test_llama import count_decoded

from compresskv_edge import Llama
from compresskv_edge.engine.machine import resident_bytes
from compresskv_edge.evaluate import haystack
from compresskv_edge.model.packaged import model_path

N_TURNS, BUDGET, TAIL = 200, 200, 128
SYSTEM = {"role": "system", "content": "Answer in German."}  # a form that the model knows: docs/models.md
KINDS = ("code", "price", "colour", "job")


@dataclass(frozen=True)
class Seen:
    """One turn."""

    answer: str
    expected: str
    n_prompt: int
    n_run: int  # tokens decoded, prompt and answer
    n_kept: int
    kv_bytes: int
    kv_bytes_peak: int
    resident: float


def opened(**options: Any) -> Llama:
    options = {"kv_budget": BUDGET, "kv_tail": TAIL, "n_ctx": 10240, "kv_rebase": True, "verbose": False, **options}
    return Llama(model_path(), kv_profile="demo", n_threads=1, n_threads_batch=1, **options)


def talk(llm: Llama, n_turns: int, monkeypatch: pytest.MonkeyPatch) -> List[Seen]:
    """Each turn tells a fact and asks for it; the history is sent in full, as chat programs do."""
    counts = count_decoded(llm, monkeypatch)
    rng, messages, seen = random.Random(5), [SYSTEM], []
    for i in range(n_turns):
        fact = haystack.draw_fact(rng, KINDS[i % len(KINDS)])
        messages.append({"role": "user", "content": f"{fact.sentence}\n\n{fact.question}"})
        counts.clear()
        out: Any = llm.create_chat_completion(messages, max_tokens=24, temperature=0, stop=["\n"])
        answer = out["choices"][0]["message"]["content"]
        messages.append({"role": "assistant", "content": answer})
        stats = llm.kv_stats()
        n_prompt, n_kept = out["usage"]["prompt_tokens"], int(np.mean(stats.n_tokens_kept))
        row = (n_prompt, sum(counts), n_kept, stats.kv_bytes, stats.kv_bytes_peak, resident_bytes())
        seen.append(Seen(answer, fact.answer, *row))
    return seen


@pytest.fixture(scope="module")
def chat() -> tuple[Llama, List[Seen]]:
    llm = opened()
    with pytest.MonkeyPatch.context() as patch:
        return llm, talk(llm, N_TURNS, patch)


@pytest.mark.slow
def test_memory_is_flat(chat: tuple[Llama, List[Seen]]) -> None:
    _, seen = chat
    late = seen[20:]  # the budget is full by then
    assert {turn.kv_bytes for turn in late} == {seen[-1].kv_bytes}
    assert {turn.kv_bytes_peak for turn in late} == {seen[-1].kv_bytes_peak}
    assert max(turn.n_kept for turn in seen) <= BUDGET + TAIL
    resident = [turn.resident for turn in late]
    # medians: what other tests left in this process is freed at any moment and reused at any other
    assert np.median(resident[-40:]) - np.median(resident[:40]) < 8e6


@pytest.mark.slow
def test_only_new_tokens_are_run(chat: tuple[Llama, List[Seen]]) -> None:
    _, seen = chat
    assert seen[-1].n_prompt > 8000
    for before, turn in zip(seen, seen[1:]):
        assert turn.n_run <= turn.n_prompt - before.n_prompt + 24


@pytest.mark.slow
def test_the_system_prompt_is_there_and_obeyed(chat: tuple[Llama, List[Seen]]) -> None:
    llm, seen = chat
    n_system = llm._compression.protection.n_system
    assert n_system >= len(llm.tokenize(SYSTEM["content"].encode(), add_bos=False)) + 2  # and what frames it
    for layer in range(len(llm.kv_stats().n_tokens_kept)):
        assert llm.kv_kept(layer)[:n_system].tolist() == list(range(n_system))
    for part in (seen[:20], seen[-20:]):
        assert sum(turn.answer.startswith(" Die Antwort lautet") for turn in part) == 20
        assert sum(turn.expected in turn.answer for turn in part) >= 16
    assert sum(turn.expected in turn.answer for turn in seen) >= 0.93 * N_TURNS  # 192 of 200 when it was written


def test_without_protection_the_system_prompt_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = opened(kv_protect=False, kv_budget=60, kv_tail=64)
    talk(llm, 12, monkeypatch)
    n_system = len(llm.tokenize(b"<|system|> Answer in German.<|end|>\n", special=True))
    kept = [set(range(n_system)) <= set(llm.kv_kept(layer).tolist()) for layer in range(6)]
    assert not all(kept)


def test_an_edited_history_is_stated_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = opened(kv_budget=80, kv_tail=64)
    rng = random.Random(1)
    facts = [haystack.draw_fact(rng, "code") for _ in range(8)]
    messages: List[Any] = [SYSTEM]
    for fact in facts:
        messages.append({"role": "user", "content": f"{fact.sentence}\n\n{fact.question}"})
        out: Any = llm.create_chat_completion(messages, max_tokens=16, temperature=0, stop=["\n"])
        messages.append(out["choices"][0]["message"])
    assert llm.kv_stats().n_evictions > 0
    messages[3] = {"role": "user", "content": "Never mind."}
    counts = count_decoded(llm, monkeypatch)
    with caplog.at_level(logging.DEBUG, logger="compresskv_edge"):
        again: Any = llm.create_chat_completion(messages, max_tokens=16, temperature=0, stop=["\n"])
    (record,) = [r for r in caplog.records if "are run again" in r.getMessage()]
    assert record.levelno == logging.INFO
    assert sum(counts) >= again["usage"]["prompt_tokens"]
    fresh: Any = opened(kv_budget=80, kv_tail=64).create_chat_completion(
        messages, max_tokens=16, temperature=0, stop=["\n"]
    )
    assert again["choices"][0]["message"] == fresh["choices"][0]["message"]


def test_a_new_chat_with_the_same_system_prompt_is_no_warning(
    load: Callable[..., Llama], caplog: pytest.LogCaptureFixture, text: str
) -> None:
    llm = load()
    for words in (text[:800], text[900:1700]):
        with caplog.at_level(logging.DEBUG, logger="compresskv_edge"):
            llm.create_chat_completion([SYSTEM, {"role": "user", "content": words}], max_tokens=2)
    assert [r.levelno for r in caplog.records if "are run again" in r.getMessage()] == [logging.DEBUG]
