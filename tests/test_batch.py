"""Batch: answers of several prompts together are those of one after the other, and forks share their document."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from compresskv_edge import Batch, Llama
from compresskv_edge.engine import native
from compresskv_edge.errors import BudgetError, ContextError, PolicyError

HAY = "The survey confirms the limits of the first experiment, and no further comment is made. "
QUESTION = "\n\nQuestion: Which code opens the amber lantern? Answer:"


def document(code: int, n: int = 12) -> str:
    return f"{HAY * n}The secret code of the amber lantern is {code}. {HAY * n}"


PROMPTS = [document(code, n) + QUESTION for code, n in ((4817, 12), (2605, 5), (9143, 9), (7328, 3), (1096, 7))]


@pytest.fixture(scope="module")
def open_llm(demo_model: Path) -> Iterator[Callable[..., Llama]]:
    opened: List[Llama] = []

    def make(**options: Any) -> Llama:
        defaults = {"kv_profile": "demo", "kv_budget": 0.3, "kv_tail": 64, "n_ctx": 2048, "n_threads": 1}
        opened.append(Llama(str(demo_model), **{**defaults, "n_threads_batch": 1, "verbose": False, **options}))
        return opened[-1]

    yield make
    for llm in opened:
        llm.close()


def one_by_one(llm: Llama, prompts: List[str], **options: Any) -> List[str]:
    answers = []
    for prompt in prompts:
        llm.reset()
        answers.append(llm(prompt, temperature=0, **options)["choices"][0]["text"])
    return answers


@pytest.mark.parametrize("options", [{}, {"type_k": 8, "type_v": 8}, {"kv_prefill": "guided", "kv_tail": 128}], ids=str)
def test_together_is_one_by_one(options: Any, open_llm: Callable[..., Llama]) -> None:
    """Of rows together and of one, products are summed in another order: 7 tokens, of which the model is sure."""
    llm = open_llm(**options)
    want = one_by_one(llm, PROMPTS, max_tokens=7)
    with Batch(llm, n_seq_max=3) as batch:  # five prompts: two wait for their turn
        assert batch.complete(PROMPTS, max_tokens=7) == want
        assert batch.complete(PROMPTS[:1], max_tokens=7) == want[:1]
        assert native.stats(batch.ctx).n_evictions > 0
    assert sum(str(code) in answer for code, answer in zip((4817, 2605, 9143, 7328, 1096), want)) >= 3


def test_each_sequence_keeps_what_the_model_alone_keeps(open_llm: Callable[..., Llama]) -> None:
    """Sinks and named positions are protected in every sequence, whatever the model's own text protects."""
    llm = open_llm(kv_budget=128)
    llm.create_chat_completion([{"role": "system", "content": HAY}, {"role": "user", "content": HAY}], max_tokens=1)
    assert llm._compression.protection.n_system > 20
    llm.protect([range(40, 44)])
    chat = llm.kv_kept(0).tolist()
    with Batch(llm, n_seq_max=2) as batch:
        seq_ids = [batch.read(prompt) for prompt in PROMPTS[:2]]
        assert llm.kv_kept(0).tolist() == chat
        together = [[native.positions(batch.ctx, il, seq_id).tolist() for il in range(5)] for seq_id in seq_ids]
    for prompt, kept in zip(PROMPTS, together):
        llm.reset()
        next(llm.generate(llm.tokenize(prompt.encode()), temp=0))
        assert kept == [llm.kv_kept(il).tolist() for il in range(5)]
        assert all({0, 1, 2, 3, 40, 41, 42, 43} <= set(positions) for positions in kept)


@pytest.mark.parametrize("kv_rebase", [False, True])
def test_the_stop_at_the_trained_context(kv_rebase: bool, open_llm: Callable[..., Llama]) -> None:
    with Batch(open_llm(n_ctx=9000, kv_rebase=kv_rebase), n_seq_max=1) as batch:
        with pytest.raises(ContextError, match="exceed the 8192 positions that the model was trained for"):
            batch.read([65] * 8193)
        assert batch.n_tokens(batch.read([65] * 300)) == 300


def test_without_a_profile_it_is_stock(open_llm: Callable[..., Llama]) -> None:
    llm = open_llm(kv_profile=None, kv_budget=None, n_ctx=4096)
    want = one_by_one(llm, PROMPTS[1:4], max_tokens=6)
    with Batch(llm, n_seq_max=3) as batch:
        assert batch.complete(PROMPTS[1:4], max_tokens=6) == want


def test_long_answers_are_compressed_on_the_way(open_llm: Callable[..., Llama]) -> None:
    llm = open_llm(kv_budget=64)
    with Batch(llm, n_seq_max=2) as batch:
        batch.complete(PROMPTS[:2], max_tokens=150)
        stats = native.stats(batch.ctx)
        assert stats.n_evictions >= 4
        row = stats.kv_bytes_stock // 2048
        assert stats.kv_bytes <= 1.02 * 2 * (64 + 64) * row


def test_a_document_and_its_questions(open_llm: Callable[..., Llama]) -> None:
    llm = open_llm()
    with Batch(llm, n_seq_max=4) as batch:
        text = batch.read(document(4817))
        n_read = batch.n_tokens(text)
        before = native.positions(batch.ctx, 0, text).tolist()
        answers = batch.ask(text, [QUESTION] * 5, max_tokens=6, stop=".")
        assert len(set(answers)) == 1
        assert native.positions(batch.ctx, 0, text).tolist() == before
        fork = batch.fork(text)
        assert native.seq_stats(batch.ctx, fork).n_sharing == 2
        assert batch.n_tokens(fork) == batch.n_tokens(text) == n_read
        batch.drop(fork)
        batch.drop(text)
        with pytest.raises(ContextError, match="not in use"):
            batch.ask(text, [QUESTION])


def test_mistakes_get_a_sentence(open_llm: Callable[..., Llama]) -> None:
    llm = open_llm(n_ctx=512)
    with pytest.raises(BudgetError, match="n_seq_max is 0"):
        Batch(llm, n_seq_max=0)
    with Batch(llm, n_seq_max=2) as batch:
        with pytest.raises(ContextError, match="exceed context window of 512"):
            batch.complete([PROMPTS[0] * 2], max_tokens=4)
        with pytest.raises(ContextError, match="is empty"):
            batch.complete([[]])
        with pytest.raises(ContextError, match="max_tokens is 0"):
            batch.complete(["a"], max_tokens=0)
        kept = [batch.read("a b c"), batch.read("d e f")]
        with pytest.raises(ContextError, match="all sequences are in use"):
            batch.complete(["g h i"])
        with pytest.raises(ContextError, match="all sequences are in use"):
            batch.fork(kept[0])
        for seq_id in kept:
            batch.drop(seq_id)
        assert len(batch.complete(["a b c"], max_tokens=3)) == 1


def test_a_policy_that_the_library_does_not_score(open_llm: Callable[..., Llama]) -> None:
    llm = open_llm(kv_policy="h2o", n_ctx=512)
    with pytest.raises(PolicyError, match=r"kv_policy='h2o'.*several sequences"):
        Batch(llm)
    with pytest.raises(PolicyError, match="kv_rebase=True: kv_policy='h2o'"):
        open_llm(kv_policy="h2o", n_ctx=512, kv_rebase=True)


def test_closing_the_model_closes_the_batch(open_llm: Callable[..., Llama]) -> None:
    llm = open_llm(n_ctx=512)
    batch = Batch(llm, n_seq_max=2)
    llm.close()
    assert batch.ctx is None
    batch.close()


def test_threads_answer_as_if_alone(open_llm: Callable[..., Llama]) -> None:
    with Batch(open_llm(), n_seq_max=2) as batch:
        want = [batch.complete([prompt], max_tokens=4) for prompt in PROMPTS[:4]]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda prompt: batch.complete([prompt], max_tokens=4), PROMPTS[:4])) == want
        seq_id = batch.read("one")
        with ThreadPoolExecutor(1) as pool:  # the lock is not this thread's own
            batch._lock.acquire()
            waiting = pool.submit(batch.drop, seq_id)
            assert not waiting.done()
            assert batch.n_tokens(seq_id) > 0
            batch._lock.release()
            waiting.result()
