"""The n-th allocation or graph of the engine fails, for every n: nothing is lost or leaked, and the model goes on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, List, Tuple

import llama_cpp
import numpy as np
import pytest
from logits import last_logits

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.engine.faults import fail_at
from compresskv_edge.errors import CompressKVError
from compresskv_edge.runtime import binding

N_PROMPT, BUDGET = 400, 60
PROMPT = np.random.default_rng(11).integers(32, 127, N_PROMPT).tolist()
FAILED = (CompressKVError, RuntimeError)  # ours, or the binding's where llama_decode says no

both_ways = pytest.mark.parametrize("throws", [False, True], ids=["returned", "thrown"])


@pytest.fixture
def llm(tiny_gguf: Callable[..., Path]) -> Llama:
    path = tiny_gguf("llama")
    kv = {"kv_profile": Profile.uniform(path), "kv_budget": BUDGET, "kv_tail": 64, "kv_protect": False}
    return Llama(str(path), n_ctx=1024, n_batch=256, n_threads=1, n_threads_batch=1, verbose=False, **kv)


def failures(prepare: Callable[[], Any], call: Callable[[], Any], throws: bool) -> Iterator[Exception]:
    """Errors of `call` with the first, second, ... of its allocations and graphs failing, until none is left."""
    for n in itertools.count(1):
        prepare()
        fail_at(n, throws=throws)
        try:
            call()
            error = None
        except FAILED as raised:
            error = raised
        n_seen = fail_at(0)
        if n_seen < n:
            assert error is None, "it failed by itself"
            return
        if error is not None:
            yield error


def held(llm: Any) -> List[List[int]]:
    return [native.positions(llm.ctx, il).tolist() for il in range(len(llm._compression.layers))]


def sizes(llm: Llama) -> Tuple[int, int]:
    """Bytes of the cache, counted by us and by llama.cpp."""
    stats = native.stats(llm.ctx)
    assert stats.kv_bytes + stats.window_bytes == native.memory(llm.ctx).context_bytes
    return stats.kv_bytes, stats.window_bytes


def read(llm: Llama) -> None:
    llm.reset()
    llm._ctx.kv_cache_clear()
    llm.eval(PROMPT)


def works(llm: Llama, reference: Tuple[Any, Any]) -> None:
    """From an empty cache it does what it always did, in as much memory."""
    read(llm)
    llm.compress()
    assert (held(llm), sizes(llm)) == reference


@pytest.fixture
def reference(llm: Llama) -> Tuple[Any, Any]:
    read(llm)
    llm.compress()
    return held(llm), sizes(llm)


def nothing() -> None:
    """What the last attempt has left."""


@both_ways
def test_a_prompt(throws: bool, llm: Llama, reference: Tuple[Any, Any]) -> None:
    n_errors = 0
    for error in failures(nothing, lambda: read(llm), throws):
        n_errors += 1
        assert str(error)
        works(llm, reference)
    assert (
        n_errors >= len(reference[0]) + 4
    )  # the rows of each layer; each graph while it is built, and while it is fed


@both_ways
def test_a_micro_batch(throws: bool, llm: Llama) -> None:
    """It is taken out again; what was there before stays, and the next attempt is right."""
    read(llm)
    llm.eval(PROMPT[:20])
    expected, n_read = last_logits(llm), llm.n_tokens

    def more() -> None:
        llm.eval(PROMPT[:20])

    def before() -> None:
        read(llm)
        assert native.seq_stats(llm.ctx).n_queries == 8

    n_errors = 0
    for error in failures(before, more, throws):
        n_errors += 1
        assert "decode" in str(error)
        assert held(llm) == [list(range(N_PROMPT))] * len(held(llm))
        assert llm.n_tokens == N_PROMPT
        more()
        np.testing.assert_array_equal(last_logits(llm), expected)
        assert llm.n_tokens == n_read
        assert native.seq_stats(llm.ctx).n_queries == 8
    assert n_errors >= 2


@both_ways
def test_an_eviction(throws: bool, llm: Llama, reference: Tuple[Any, Any]) -> None:
    n_unchanged = n_empty = 0
    read(llm)
    whole = held(llm)
    for error in failures(lambda: read(llm), llm.compress, throws):
        if held(llm) == whole:
            n_unchanged += 1
            assert throws or "unchanged" in str(error)
            llm.eval([65])  # goes on
        else:
            n_empty += 1
            assert held(llm) == [[] for _ in whole]
            assert "decode the prompt again" in str(error)
            works(llm, reference)
    assert held(llm) == reference[0]
    assert n_unchanged > len(whole)  # scoring alone has as many graphs
    assert n_empty >= len(whole) - 1


@both_ways
def test_a_guided_eviction_leaves_the_guide(throws: bool, llm: Llama) -> None:
    """As long as no row has moved, the cache is as it was: with the question that was decoded ahead."""
    guide = PROMPT[:16]

    def ahead() -> None:
        read(llm)
        binding.stock_eval(llm, guide)

    ahead()
    whole = held(llm)
    assert len(whole[0]) == N_PROMPT + len(guide)
    budgets, n_unchanged = [BUDGET] * len(whole), 0
    for _ in failures(ahead, lambda: native.compress_guided(llm.ctx, budgets, len(guide)), throws):
        if held(llm)[0]:
            n_unchanged += 1
            assert held(llm) == whole
            assert native.seq_stats(llm.ctx).n_queries == 8
    assert n_unchanged > len(whole)
    assert max(held(llm)[0]) < N_PROMPT


@both_ways
def test_more_queries(throws: bool, llm: Llama) -> None:
    read(llm)
    native.keep_queries(llm.ctx, 20)
    llm.eval(PROMPT[:30])
    before = [native.read_queries(llm.ctx, il, s, 20) for il, s in enumerate(llm._compression.layers)]
    size = sizes(llm)
    n_errors = 0
    for _ in failures(nothing, lambda: native.keep_queries(llm.ctx, 40), throws):
        n_errors += 1
        assert sizes(llm) == size
        for il, shape in enumerate(llm._compression.layers):
            np.testing.assert_array_equal(native.read_queries(llm.ctx, il, shape, 20), before[il])
    assert n_errors == len(before)


@both_ways
def test_a_reserve(throws: bool, llm: Llama, reference: Tuple[Any, Any]) -> None:
    read(llm)
    whole = held(llm)
    budgets = [900] * len(whole)
    n_errors = 0
    for error in failures(nothing, lambda: native.reserve(llm.ctx, budgets), throws):
        n_errors += 1
        assert throws or "smaller budget" in str(error)
        assert held(llm) == whole
        llm.n_tokens -= 1
        llm.eval(PROMPT[-1:])
    assert n_errors > 0
    assert held(llm) == whole


@both_ways
def test_a_rebase(throws: bool, llm: Llama, reference: Tuple[Any, Any]) -> None:
    def compressed() -> None:
        read(llm)
        llm.compress()

    n_errors = 0
    for error in failures(compressed, lambda: native.rebase(llm.ctx, 300), throws):
        n_errors += 1
        assert throws or "empty" in str(error) or "unchanged" in str(error)
        assert held(llm) in (reference[0], [[] for _ in reference[0]])
        works(llm, reference)
    assert n_errors >= len(reference[0])
    assert native.seq_stats(llm.ctx).n_rebased > 0


@both_ways
def test_a_saved_state(throws: bool, llm: Llama, reference: Tuple[Any, Any]) -> None:
    read(llm)
    llm.compress()
    size = llama_cpp.llama_state_get_size(llm.ctx)
    data = (llama_cpp.ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_get_data(llm.ctx, data, size) == size

    def load() -> None:
        if llama_cpp.llama_state_set_data(llm.ctx, data, size) != size:
            raise RuntimeError("the state was not read")

    n_errors = 0
    for _ in failures(lambda: read(llm), load, throws):
        n_errors += 1
        assert held(llm)[0] == []
        works(llm, reference)
    assert n_errors >= len(reference[0])
    assert held(llm) == reference[0]


def test_other_threads_go_on() -> None:
    """Only the calling thread's allocations fail."""
    fail_at(1)
    seen: List[int] = []
    thread = threading.Thread(target=lambda: seen.append(fail_at(0)))
    thread.start()
    thread.join()
    assert seen == [0]
    assert fail_at(0) == 0
