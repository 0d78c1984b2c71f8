"""`Llama` as its users know it, with a compressed cache."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Callable, List

import devices
import llama_cpp
import numpy as np
import pytest
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from logits import Case, last_logits, prompt

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError

pytestmark = pytest.mark.every_device

N_CTX = 2048


def count_decoded(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> List[int]:
    """Tokens of every batch that goes to the model from now on."""
    counts: List[int] = []
    decode = llm._ctx.decode
    monkeypatch.setattr(llm._ctx, "decode", lambda batch: (counts.append(batch.n_tokens()), decode(batch)))
    return counts


#
# everything works as in llama_cpp.Llama
#


def test_completion_compresses_after_the_prompt(load: Callable[..., Llama], text: str) -> None:
    llm = load()
    out = llm.create_completion(text[:1500], max_tokens=20, temperature=0)
    n_prompt = out["usage"]["prompt_tokens"]
    stats = llm.kv_stats()
    assert out["choices"][0]["text"]
    assert stats.n_evictions == 1
    assert stats.n_tokens_seen > n_prompt
    assert all(kept == 100 + stats.n_tokens_seen - n_prompt for kept in stats.n_tokens_kept)
    assert stats.kv_bytes < stats.kv_bytes_peak
    assert stats.eviction_ms > 0


def test_the_first_token_comes_from_the_full_cache(load: Callable[..., Llama], path: str, text: str) -> None:
    stock = Llama(path, n_ctx=N_CTX, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
    tokens = stock.tokenize(text[:1200].encode())
    assert next(load().generate(tokens, temp=0)) == next(stock.generate(tokens, temp=0))


def test_chat_streaming_logprobs_and_grammar(load: Callable[..., Llama], text: str) -> None:
    llm = load(logits_all=True)
    messages = [{"role": "user", "content": text[:1000]}]
    reply = llm.create_chat_completion(messages, max_tokens=8, temperature=0)
    assert reply["choices"][0]["message"]["content"]
    streamed = list(llm.create_chat_completion(messages, max_tokens=8, temperature=0, stream=True))
    assert len(streamed) > 2

    out = llm.create_completion(text[:900], max_tokens=5, logprobs=3, temperature=0)
    assert len(out["choices"][0]["logprobs"]["tokens"]) >= 5

    grammar = llama_cpp.LlamaGrammar.from_string('root ::= "yes" | "no"', verbose=False)
    out = llm.create_completion(text[:800], max_tokens=8, grammar=grammar)
    assert out["choices"][0]["text"] in ("yes", "no")
    assert llm.kv_stats().n_evictions >= 3


def test_logits_all_has_the_rows_of_the_prompt(load: Callable[..., Llama]) -> None:
    llm = load(logits_all=True)
    tokens = prompt(Case("", 300))
    next(llm.generate(tokens, temp=0))
    full = llm.scores[: len(tokens)].copy()
    llm.reset()
    llm.eval(tokens)
    devices.assert_same(llm.scores[: len(tokens)], full)


def test_draft_model_gives_the_same_tokens(load: Callable[..., Llama], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the best one decoded alone too, but for ties: drafts are decoded together, and sums differ."""
    tokens = prompt(Case("", 40)) * 8  # repeats: the look-up finds drafts
    llm = load(draft_model=LlamaPromptLookupDecoding(num_pred_tokens=4), logits_all=True)
    counts = count_decoded(llm, monkeypatch)
    drafted = list(itertools.islice(llm.generate(tokens, temp=0), 40))
    assert llm.kv_stats().n_evictions == 1
    assert max(counts[1:]) > 1, "drafts are decoded"

    alone = load()
    generator = alone.generate(tokens, temp=0)
    next(generator)
    for i, token in enumerate(drafted):
        if i:
            alone.eval([drafted[i - 1]])
        logits = last_logits(alone)
        assert logits[token] >= logits.max() - devices.ERROR * np.ptp(logits), i


def test_a_conversation_runs_only_its_new_tokens(
    load: Callable[..., Llama], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    llm = load()
    first = llm.tokenize(text[:1500].encode())
    generated = list(itertools.islice(llm.generate(first, temp=0), 10))
    follow_up = [*first, *generated, *llm.tokenize(b" And then?", add_bos=False)]
    counts = count_decoded(llm, monkeypatch)
    next(llm.generate(follow_up, temp=0))
    assert sum(counts) == len(follow_up) - len(first) - 9  # the tenth token was sampled, never decoded
    assert llm.kv_stats().n_tokens_seen == len(follow_up)


def test_an_edited_history_is_run_again(load: Callable[..., Llama], monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    llm = load()
    tokens = llm.tokenize(text[:1500].encode())
    next(llm.generate(tokens, temp=0))
    edited = [*tokens[:200], *reversed(tokens[200:])]
    counts = count_decoded(llm, monkeypatch)
    again = next(llm.generate(edited, temp=0))
    assert sum(counts) == len(edited)
    assert again == next(load().generate(edited, temp=0))


def test_the_same_prompt_twice(load: Callable[..., Llama], text: str) -> None:
    llm = load()
    for _ in range(2):
        out = llm.create_completion(text[:1500], max_tokens=10, temperature=0)
        assert out["choices"][0]["finish_reason"] == "length"
    assert llm.kv_stats().n_evictions == 1


def test_a_fraction_is_of_the_prompt(load: Callable[..., Llama]) -> None:
    llm = load(kv_budget=0.25)
    next(llm.generate(prompt(Case("", 1000)), temp=0))
    assert llm.kv_stats().n_tokens_kept == (250,) * len(llm.kv_stats().n_tokens_kept)


def test_without_profile_it_is_the_stock_class(path: str) -> None:
    ours = Llama(path, n_ctx=512, n_threads=1, verbose=False)
    stock = llama_cpp.Llama(path, n_ctx=512, n_threads=1, verbose=False)
    tokens = prompt(Case("", 100))
    for llm in (ours, stock):
        llm.eval(tokens)
    np.testing.assert_array_equal(last_logits(ours), last_logits(stock))
    assert ours.kv_stats().kv_bytes == ours.kv_stats().kv_bytes_stock > 0
    assert ours.kv_stats().n_tokens_kept == (100,) * llama_cpp.llama_model_n_layer(ours.model)
    state = ours.save_state()
    ours.eval([65])
    ours.load_state(state)
    assert ours.n_tokens == 100


def test_n_ctx_is_no_longer_the_memory(load: Callable[..., Llama], path: str) -> None:
    small, large = load(n_ctx=1024), load(n_ctx=8192)
    assert large.kv_stats().kv_bytes == small.kv_stats().kv_bytes
    assert large.kv_stats().kv_bytes_stock == 8 * small.kv_stats().kv_bytes_stock


def test_pickling_keeps_the_profile(load: Callable[..., Llama]) -> None:
    llm = pickle.loads(pickle.dumps(load(kv_budget=120)))
    next(llm.generate(prompt(Case("", 500)), temp=0))
    assert set(llm.kv_stats().n_tokens_kept) == {120}


def test_a_model_loaded_later_has_no_profile_of_an_earlier_one(load: Callable[..., Llama], path: str) -> None:
    for _ in range(8):  # freed models' addresses are used again
        load().close()
        stock = llama_cpp.Llama(path, n_ctx=512, verbose=False)
        with pytest.raises(EngineError, match="no compressed KV cache"):
            native.compress(stock.ctx, [100] * 3)
        stock.close()


#
# saved states
#


@pytest.mark.parametrize("type_kv", ["f16", "q8_0"])
def test_a_saved_state_goes_on_as_if_never_saved(type_kv: str, path: str) -> None:
    case = Case(path, 900, type_kv=type_kv)

    def load(kv_tail: int) -> Llama:
        options = {**case.options(), "n_ctx": N_CTX}
        return Llama(path, kv_profile=Profile.uniform(path), kv_budget=100, kv_tail=kv_tail, **options)

    llm = load(64)
    llm.eval(prompt(case))
    llm.compress()
    llm.eval(prompt(case)[:100])
    state = llm.save_state()
    other = load(512)
    other.eval(prompt(case)[:300])  # what a state replaces
    other.compress()
    other.load_state(state)

    for this in (llm, other):
        this.eval(prompt(case)[:30])
        this.compress()
        this.eval([65])
    devices.assert_same(last_logits(other), last_logits(llm))
    assert other.kv_stats().n_tokens_kept == llm.kv_stats().n_tokens_kept
    np.testing.assert_array_equal(other.kv_kept(1), llm.kv_kept(1))


def test_the_full_layers_of_a_sliding_window_model_are_saved(tiny_gguf: Callable[..., Path]) -> None:
    """Not to the bit: upstream orders the cells of sliding-window layers anew when it restores them."""
    path = str(tiny_gguf("gemma3"))
    llm, other = (
        Llama(path, kv_profile=Profile.uniform(path), kv_budget=100, n_ctx=N_CTX, verbose=False) for _ in "ab"
    )
    llm.eval(prompt(Case(path, 900)))
    llm.compress()
    other.load_state(llm.save_state())
    for il in (5, 11):
        layer = llm._compression.layers[il]
        assert layer.evictable
        np.testing.assert_array_equal(other.kv_kept(il), llm.kv_kept(il))
        for ours, theirs in zip(native.read_kv(other.ctx, il, layer), native.read_kv(llm.ctx, il, layer)):
            np.testing.assert_array_equal(ours, theirs)


def test_a_state_saved_after_a_reset_holds_the_new_prompt(load: Callable[..., Llama]) -> None:
    llm, other = load(), load()
    llm.eval(prompt(Case("", 600)))
    llm.compress()
    llm.reset()
    llm.eval(prompt(Case("", 200)))
    other.load_state(llm.save_state())
    for this in (llm, other):
        this.eval([65])
    devices.assert_same(last_logits(other), last_logits(llm))


def test_an_empty_tail_is_saved_as_well(load: Callable[..., Llama]) -> None:
    llm, other = load(), load()
    llm.eval(prompt(Case("", 600)))
    llm.compress()
    assert llm._ctx.kv_cache_seq_rm(-1, 592, -1)
    llm.n_tokens = 592
    other.load_state(llm.save_state())
    np.testing.assert_array_equal(other.kv_kept(0), llm.kv_kept(0))
    assert len(other.kv_kept(0)) == 92


def test_a_foreign_or_damaged_state_leaves_an_empty_cache(load: Callable[..., Llama], path: str) -> None:
    llm = load()
    llm.eval(prompt(Case("", 600)))
    llm.compress()
    good = llm.save_state()
    stock = Llama(path, n_ctx=N_CTX, flash_attn=True, verbose=False)
    stock.eval(prompt(Case("", 600)))
    foreign = stock.save_state()

    truncated = pickle.loads(pickle.dumps(good))
    truncated.llama_state = truncated.llama_state[: len(truncated.llama_state) // 2]
    truncated.llama_state_size = len(truncated.llama_state)

    for target, state in ((llm, foreign), (llm, truncated), (stock, good)):
        with pytest.raises(RuntimeError, match="state"):
            target.load_state(state)
        target.reset()
        target.eval([65])
        assert target.kv_stats().n_tokens_seen == 1
    llm.load_state(good)
    assert set(llm.kv_stats().n_tokens_kept) == {100}


def test_ram_cache(load: Callable[..., Llama], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load()
    llm.set_cache(llama_cpp.LlamaRAMCache())
    first = llm.create_completion(text[:1500], max_tokens=5, temperature=0)
    llm.create_completion("something else", max_tokens=5, temperature=0)
    again = llm.create_completion(text[:1500], max_tokens=5, temperature=0)
    assert again["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"]
    assert min(llm.kv_stats().n_tokens_kept) >= 100


def test_disk_cache(load: Callable[..., Llama], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another instance takes the compressed prompt from the disk and runs its end only."""
    llm, other = load(), load()
    llm.set_cache(llama_cpp.LlamaDiskCache(str(tmp_path)))
    first = llm.create_completion(text[:1500], max_tokens=5, temperature=0)
    other.set_cache(llama_cpp.LlamaDiskCache(str(tmp_path)))
    counts = count_decoded(other, monkeypatch)
    other.create_completion(text[:1600], max_tokens=1, temperature=0)
    assert sum(counts) < 200 < first["usage"]["prompt_tokens"]
    assert max(other.kv_stats().n_tokens_kept) < 300
