"""A flag that ends decoding from another thread."""

from __future__ import annotations

from typing import Callable

import pytest

from compresskv_edge import Llama
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
