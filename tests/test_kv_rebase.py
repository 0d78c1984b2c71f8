"""Llama(kv_rebase=True): text goes on past the positions that the model was trained for; without it, a clear stop."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any, Callable, List

import devices
import numpy as np
import pytest
from logits import last_logits
from numpy_llama import NumpyLlama

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.errors import BudgetError, ContextError, EngineError, UnsupportedModelError
from compresskv_edge.model import random_gguf

pytestmark = pytest.mark.every_device

TRAINED = 512
HAY = "The survey confirms the limits of the first experiment, and no further comment is made. "
TEXT = np.random.default_rng(3).integers(32, 127, 4000).tolist()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Random models that were trained for 512 positions."""
    folder = tmp_path_factory.mktemp("small")

    def write(arch: str) -> Path:
        path = folder / f"{arch}.gguf"
        if not path.exists():
            shape = dataclasses.replace(random_gguf.TINY_SHAPES[arch], n_ctx_train=TRAINED)
            random_gguf.write_random_gguf(path, shape)
        return path

    return write


@pytest.fixture
def open_small(small: Callable[[str], Path]) -> Callable[..., Llama]:
    def make(arch: str = "llama", **options: Any) -> Llama:
        path = str(small(arch))
        compressed = {"kv_profile": Profile.uniform(path), "kv_budget": 60, "kv_tail": 64, "kv_rebase": True}
        sizes = {"n_ctx": 20_000, "n_batch": 128, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
        return Llama(path, **{**compressed, **sizes, **options})

    return make


def take(llm: Llama, tokens: List[int], n: int) -> List[int]:
    stream = llm.generate(tokens, temp=0.0)
    return [token for _, token in zip(range(n), stream)]


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_generation_passes_the_trained_context(arch: str, open_small: Callable[..., Llama]) -> None:
    llm = open_small(arch)
    sizes, rebased = set(), set()
    for i, _ in enumerate(llm.generate(TEXT[:100], temp=0.0)):
        stats = native.seq_stats(llm.ctx)
        rebased.add(stats.n_rebased)
        assert llm.n_tokens - stats.n_rebased <= TRAINED
        if stats.n_rebased:
            sizes.add(native.stats(llm.ctx).kv_bytes)
        if i == 1500:
            break
    assert len(rebased) >= 4
    assert len(sizes) == 1, "memory is flat"
    assert llm.kv_stats().n_tokens_seen == llm.n_tokens > 1500


def test_logits_after_several_rebases_are_those_of_numpy(open_small: Callable[..., Llama]) -> None:
    """What each layer holds, at the positions where it is now: see test_rebase.py for the keys themselves."""
    llm = open_small(kv_prefill="chunked")
    reference = NumpyLlama(Path(llm.model_path))
    layers = llm._compression.layers
    checked = 0
    for i in range(0, 2000, 50):
        before = native.seq_stats(llm.ctx).n_rebased
        llm.eval(TEXT[i : i + 50])
        stats = native.seq_stats(llm.ctx)
        if stats.n_rebased == before:
            continue
        rows = [native.read_kv(llm.ctx, il, layer) for il, layer in enumerate(layers)]
        position = llm.n_tokens - stats.n_rebased
        llm.eval([65])
        expected = reference.logits(65, position, rows)
        error = np.linalg.norm(last_logits(llm) - expected) / np.linalg.norm(expected)
        far = reference.logits(65, position + 40, rows)
        assert error < 1e-2 < np.linalg.norm(far - expected) / np.linalg.norm(expected), "a wrong position is seen"
        checked += 1
    assert checked >= 3


def test_a_prompt_longer_than_the_trained_context(demo_model: Path) -> None:
    options = {"kv_profile": "demo", "kv_budget": 200, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    prompt = (
        f"{HAY * 20}The secret code of the amber lantern is 4817. {HAY * 330}"
        "\n\nQuestion: Which code opens the amber lantern? Answer:"
    )
    llm = Llama(str(demo_model), n_ctx=10_000, kv_rebase=True, **options)
    assert len(llm.tokenize(prompt.encode())) > 8192 + 500
    assert "4817" in llm(prompt, max_tokens=6, temperature=0)["choices"][0]["text"]
    assert native.seq_stats(llm.ctx).n_rebased > 0

    stops = Llama(str(demo_model), n_ctx=10_000, **options)
    with pytest.raises(ContextError, match=r"8192 positions.*kv_rebase=True"):
        stops(prompt, max_tokens=6, temperature=0)


def test_turns_after_a_rebase_run_their_new_tokens_only(open_small: Callable[..., Llama]) -> None:
    llm = open_small()
    history = TEXT[:900]
    answer = take(llm, history, 30)
    assert native.seq_stats(llm.ctx).n_rebased > 0
    n_evictions = llm.kv_stats().n_evictions
    history = history + answer[:-1] + TEXT[900:915]
    take(llm, history, 3)
    assert llm.kv_stats().n_evictions <= n_evictions + 2
    assert llm.kv_stats().n_tokens_seen == len(history) + 2

    edited = [*history[:300], 35, *history[301:]]  # reaches into evicted tokens: the prompt is run again
    again = take(llm, edited, 3)
    fresh = open_small()
    assert again == take(fresh, edited, 3)


def test_states_go_on_where_they_were(open_small: Callable[..., Llama]) -> None:
    llm, other = open_small(kv_prefill="chunked"), open_small(kv_prefill="chunked")
    llm.eval(TEXT[:1000])
    assert native.seq_stats(llm.ctx).n_rebased > 0
    other.load_state(llm.save_state())
    for i in range(1000, 2000, 40):
        for one in (llm, other):
            one.eval(TEXT[i : i + 40])
        devices.assert_same(last_logits(other), last_logits(llm))


def test_a_pickled_llama_is_the_same(open_small: Callable[..., Llama]) -> None:
    copy = pickle.loads(pickle.dumps(open_small()))
    assert copy.n_ctx() == 20_000
    copy.eval(TEXT[:700])
    assert native.seq_stats(copy.ctx).n_rebased > 0


def test_the_stop_at_the_trained_context(open_small: Callable[..., Llama]) -> None:
    llm = open_small(kv_rebase=False)
    llm.eval(TEXT[:TRAINED])
    with pytest.raises(ContextError, match=f"{TRAINED + 1}.*{TRAINED} positions.*kv_rebase=True"):
        llm.eval([65])
    assert llm.kv_stats().n_tokens_seen == TRAINED
    scaled = open_small(kv_rebase=False, rope_freq_scale=0.5)
    scaled.eval(TEXT[: 2 * TRAINED])
    assert scaled.kv_stats().n_tokens_seen == 2 * TRAINED


def test_the_end_of_the_text(open_small: Callable[..., Llama]) -> None:
    llm = open_small(n_ctx=1024)
    with pytest.raises(ContextError, match="exceed context window of 1024"):
        llm.eval(TEXT[:1025])
    llm.eval(TEXT[:1024])


def test_what_cannot_be_rebased(open_small: Callable[..., Llama], demo_model: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="'gpt2' has no rotary positions"):
        open_small("gpt2")
    with pytest.raises(BudgetError, match="kv_rebase=True needs kv_profile"):
        Llama(str(demo_model), kv_rebase=True, verbose=False)
    with pytest.raises(ContextError, match="n_ctx is 100000000"):
        open_small(n_ctx=100_000_000)
    llm = open_small(kv_budget=450, kv_tail=256, kv_prefill="chunked")  # no room beside budget and tail
    llm.protect(range(400))
    with pytest.raises(EngineError, match="n_max is"):
        llm.eval(TEXT[:1500])
