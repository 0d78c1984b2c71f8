"""The part of `Llama` that the apps use: what is in the cache, and what can be done with it."""

from __future__ import annotations

from typing import Callable

import numpy as np
import pytest

from compresskv_edge import Llama
from compresskv_edge.apps.chat.conversation import Conversation
from compresskv_edge.apps.chat.status import Status
from compresskv_edge.apps.server.load import load_slots
from compresskv_edge.apps.server.settings import ModelSettings
from compresskv_edge.apps.server.slot import Slot
from compresskv_edge.engine import native
from compresskv_edge.errors import BudgetError, EngineError
from compresskv_edge.runtime.settings import KVSettings


def stock(path: str) -> Llama:
    return Llama(path, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)


def test_settings_are_the_arguments(load: Callable[..., Llama]) -> None:
    llm = load(kv_tail=64, kv_prefill="chunked", kv_memory="1GB", kv_guide=32, kv_protect=False)
    settings = llm.kv_settings
    assert isinstance(settings, KVSettings)
    assert (settings.budget, settings.tail, settings.prefill, settings.memory) == (100, 64, "chunked", "1GB")
    assert (settings.guide, settings.protect, settings.rebase, settings.policy) == (32, False, False, "compresskv")
    assert {name: llm.__getstate__()[name] for name in settings.arguments()} == settings.arguments()


def test_the_stock_cache_holds_everything(path: str) -> None:
    llm = stock(path)
    llm.eval([65, 66, 67])
    assert llm.kv_settings is None
    assert llm.kv_layers == ()
    assert llm.kv_counts().tolist() == [1, 1, 1]
    assert llm.kv_share().tolist() == [1.0, 1.0, 1.0]
    assert llm.kv_prefill_of(400) == "full"
    assert llm.kv_stats().n_frozen == 0
    for ask in (lambda: llm.set_kv_budget(10), lambda: llm.kv_budgets(10), llm.compress, lambda: llm.protect([])):
        with pytest.raises(EngineError, match="needs a compressed cache"):
            ask()


def test_counts_are_those_of_the_layers(load: Callable[..., Llama], text: str) -> None:
    llm = load()
    next(llm.generate(llm.tokenize(text[:1500].encode()), temp=0))
    assert llm.kv_layers == tuple(range(len(llm.kv_stats().n_tokens_kept)))
    counts = llm.kv_counts()
    for position in (0, 5, 50, llm.n_tokens - 1):
        assert counts[position] == sum(position in llm.kv_kept(layer) for layer in llm.kv_layers)
    np.testing.assert_array_equal(llm.kv_share(), counts / len(llm.kv_layers))
    assert llm.kv_stats().n_frozen == llm.n_tokens - 8
    assert llm.kv_budgets(llm.n_tokens) == llm.kv_stats().n_tokens_kept
    assert llm.kv_bytes() == llm.kv_stats().kv_bytes


def test_a_budget_holds_from_the_next_compression_on(load: Callable[..., Llama], text: str) -> None:
    llm = load()
    tokens = llm.tokenize(text[:1500].encode())
    next(llm.generate(tokens, temp=0))
    assert llm.set_kv_budget(60) == -40
    assert max(llm.kv_stats().n_tokens_kept) == 100
    llm.reset()
    next(llm.generate(tokens, temp=0))
    assert max(llm.kv_stats().n_tokens_kept) == 60
    with pytest.raises(BudgetError, match=r"1\.5"):
        llm.set_kv_budget(1.5)
    assert llm.kv_settings.budget == 60


def test_how_a_prompt_would_run(load: Callable[..., Llama]) -> None:
    assert load(kv_memory="1GB").kv_prefill_of(2000) == "full"
    assert load(kv_memory=1).kv_prefill_of(2000) == "guided"
    assert load(kv_prefill="chunked").kv_prefill_of(10) == "chunked"


def test_a_prompt_in_parts_has_its_rows_at_once(load: Callable[..., Llama]) -> None:
    llm = load()
    llm.kv_begin(1000)
    reserved = llm.kv_bytes()
    for part in range(4):
        llm.eval([65 + part] * 250)
    assert llm.kv_bytes() == reserved
    assert llm.n_tokens == 1000


def test_memory_of_a_stopped_prompt_is_given_back(load: Callable[..., Llama], path: str) -> None:
    llm = load()
    llm.eval([65] * 1500)
    full = llm.kv_bytes()
    llm.kv_clear()
    assert llm.n_tokens == 0
    assert llm.kv_bytes() < full / 2
    assert native.stats(llm.ctx).n_frozen == 0
    other = stock(path)
    other.eval([65])
    other.kv_clear()
    assert other.n_tokens == 0


def test_the_state_of_a_prompt_ends_with_it(load: Callable[..., Llama], text: str) -> None:
    llm = load()
    answer = llm.generate(llm.tokenize(text[:1500].encode()), temp=0)
    assert llm._reader.generation is None
    next(answer)
    assert llm._reader.generation.is_read
    answer.close()
    assert llm._reader.generation is None
    llm.protect(range(200))
    with pytest.raises(BudgetError):
        next(llm.generate([65] * 500, temp=0))
    assert llm._reader.generation is None


def test_a_dropped_model_is_freed_at_once(load: Callable[..., Llama]) -> None:
    """No circle of references: its memory must not wait for the garbage collector."""
    import gc
    import weakref

    gc.disable()
    try:
        for options in ({}, {"kv_rebase": True}):
            llm = load(**options)
            gone = weakref.ref(llm)
            del llm
            assert gone() is None
    finally:
        gc.enable()


def test_tokens(load: Callable[..., Llama]) -> None:
    llm = load()
    assert llm.is_end(llm.token_eos())
    assert not llm.is_end(65)
    tokens = llm.tokenize(b"a mill", add_bos=False)
    assert b"".join(llm.pieces(tokens)) == b"a mill"
    assert llm.adds_bos == (llm.tokenize(b"a")[0] == llm.token_bos())


@pytest.mark.parametrize("n_ctx", [1000, 1024, 2000])
def test_the_stock_cache_is_the_same_size_wherever_it_is_named(
    load: Callable[..., Llama], path: str, n_ctx: int
) -> None:
    """llama.cpp rounds 1000 positions up to 1024."""
    ours, theirs = load(n_ctx=n_ctx), Llama(path, n_ctx=n_ctx, n_threads=1, verbose=False)
    row_bytes = Llama(path, n_ctx=512, verbose=False).kv_stats().kv_bytes // 512
    for llm in (ours, theirs):
        llm.eval([65] * 200)
        rounded = -(-n_ctx // 256) * 256
        assert llm.kv_stats().kv_bytes_stock == theirs.kv_stats().kv_bytes == rounded * row_bytes
        assert llm.kv_bytes_full(200) == 200 * row_bytes
        assert Status.of(Conversation(llm)).stock_bytes == 200 * row_bytes


def test_the_server_tells_the_same(path: str) -> None:
    model = ModelSettings(model=path, kv_profile="uniform", kv_budget=100, n_ctx=1000, n_threads=1)
    (llm,) = load_slots(model)
    slot = Slot(0, llm)
    try:
        llm.create_completion([65] * 200, max_tokens=1)
        with slot.generating():
            pass
        usage, state = slot.memory.usage(llm), slot.state()
        n_seen = usage["n_tokens_seen"]
        assert usage["kv_bytes_full"] == state["kv_bytes_full"] == usage["kv_bytes_stock"] * n_seen // 1024
    finally:
        slot.close()
        llm.close()
