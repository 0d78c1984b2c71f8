"""Token ids from outside: each place that hands them to llama.cpp refuses what the vocabulary does not have."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import pytest

from compresskv_edge import Batch, Llama
from compresskv_edge.errors import CompressKVError, TokenError
from compresskv_edge.runtime.sequences import Sequences
from compresskv_edge.runtime.tokens import check_bias, checked

PLACES: dict[str, Callable[[Llama, list[Any]], Any]] = {
    "eval": lambda llm, tokens: llm.eval(tokens),
    "generate": lambda llm, tokens: next(llm.generate(tokens)),
    "create_completion": lambda llm, tokens: llm.create_completion(tokens, max_tokens=1),
    "call": lambda llm, tokens: llm(tokens, max_tokens=1),
    "stream": lambda llm, tokens: list(llm.create_completion(tokens, max_tokens=1, stream=True)),
    "detokenize": lambda llm, tokens: llm.detokenize(tokens),
    "detokenize after": lambda llm, tokens: llm.detokenize([65], prev_tokens=tokens),
    "tokenizer": lambda llm, tokens: llm.tokenizer().detokenize(tokens),
    "pieces": lambda llm, tokens: llm.pieces(tokens),
    "is_end": lambda llm, tokens: [llm.is_end(token) for token in tokens],
    "read": lambda llm, tokens: Sequences(llm, 1).read(tokens),
    "complete": lambda llm, tokens: Batch(llm, 1).complete([tokens], max_tokens=1),
}
COMPRESSED: dict[str, Callable[[Llama, list[Any]], Any]] = {
    "digest": lambda llm, tokens: llm.digest(tokens * 300, probe="keys"),
}


def not_tokens(n_vocab: int) -> list[list[Any]]:
    return [[65, n_vocab], [-1], [2**31], [2**32 + 65], [-(2**31) - 1], [65, 1.5], ["a"], [None]]


@pytest.mark.parametrize("place", [*PLACES, *COMPRESSED])
def test_every_place_refuses_and_goes_on(place: str, load: Callable[..., Llama]) -> None:
    llm = load(n_ctx=512)
    for tokens in not_tokens(llm.n_vocab()):
        with pytest.raises(TokenError):
            {**PLACES, **COMPRESSED}[place](llm, tokens)
    llm.eval([65])
    assert llm.n_tokens == 1


@pytest.mark.parametrize("place", PLACES)
def test_the_stock_cache_as_well(place: str, load: Callable[..., Llama]) -> None:
    llm = load(n_ctx=512, kv_profile=None, kv_budget=None)
    for tokens in ([65, llm.n_vocab()], [-1]):
        with pytest.raises(ValueError, match=f"0 to {llm.n_vocab() - 1}"):
            PLACES[place](llm, tokens)


@pytest.mark.parametrize(
    "bias", [{"the": 1.0}, {"-1": 1.0}, {-1: 1.0}, {"99999": 1.0}, {"9" * 5000: 1.0}, {"\u0664": 1.0}]
)
def test_a_bias_of_no_token(bias: dict[Any, float], load: Callable[..., Llama]) -> None:
    with pytest.raises(TokenError, match="token"):
        load().create_completion([65], max_tokens=1, logit_bias=bias)


@pytest.mark.parametrize("place", ["generate", "create_completion"])
def test_no_tokens_at_all(place: str, load: Callable[..., Llama]) -> None:
    with pytest.raises(TokenError, match="empty"):
        PLACES[place](load(), [])


def test_what_is_fine() -> None:
    assert checked(np.asarray([0, 9], dtype=np.int32), 10) == [0, 9]
    assert checked([], 10) == []
    assert checked((True, np.int64(3)), 10) == [1, 3]
    check_bias({"0": 1.0, 9: -1.0}, 10)
    assert issubclass(TokenError, CompressKVError)
