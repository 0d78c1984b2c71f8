"""A flag that ends decoding from another thread."""

from __future__ import annotations

import threading
from typing import Callable

import pytest

from compresskv_edge import Llama
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError
from compresskv_edge.runtime.stop import StopFlag


def test_up_ends_decoding_and_down_lets_it_go_on(load: Callable[..., Llama]) -> None:
    llm, flag = load(), StopFlag()
    assert not flag.is_up
    with flag.watching(llm):
        llm.eval([65] * 10)
        flag.up()
        with pytest.raises(RuntimeError):
            llm.eval([65] * 10)
        assert flag.is_up
        flag.down()
        llm.eval([65] * 10)
    flag.up()
    llm.eval([65] * 10)  # nobody watches any more
    assert llm.n_tokens == 30


def test_a_model_may_watch_for_good(load: Callable[..., Llama]) -> None:
    llm, flag = load(), StopFlag()
    flag.watched_by(llm)
    flag.up()
    with pytest.raises(RuntimeError):
        llm.eval([65])


def test_from_another_thread(load: Callable[..., Llama]) -> None:
    """It runs the same prompt for ever, until the flag ends it."""
    llm, flag, ended = load(), StopFlag(), threading.Event()
    flag.watched_by(llm)

    def for_ever() -> None:
        while True:
            llm.reset()
            llm.eval([65] * 300)

    def run() -> None:
        with pytest.raises(RuntimeError, match="returned 2"):
            for_ever()
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    flag.up()
    thread.join(timeout=60)
    assert ended.is_set()


def test_an_eviction_is_whole_or_not_at_all(load: Callable[..., Llama]) -> None:
    """Scores are graphs that may be stopped; rows that are on their way are moved to the end."""
    llm, flag = load(), StopFlag()
    flag.watched_by(llm)
    llm.eval([65] * 500)
    flag.up()
    with pytest.raises(EngineError, match="the cache is unchanged"):
        llm.compress()
    assert len(llm.kv_kept(0)) == 500
    native.keep(llm.ctx, [range(492, 500)] * len(llm.kv_layers))
    assert len(llm.kv_kept(0)) == 8
    flag.down()
    llm.eval([65])
