"""Logits of all tokens of a batch are those of the tokens one by one, and the cache is as if it had been so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compresskv_edge.errors import ContextError, TokenError
from compresskv_edge.runtime import applied
from compresskv_edge.runtime.outputs import AllLogits

TEXT = b"The first report mentions the order of the entries, and no further comment is made. " * 6


@pytest.fixture
def llm(demo_model: Path) -> Iterator[AllLogits]:
    model = AllLogits(
        str(demo_model), kv_profile="demo", kv_prefill="full", kv_tail=24, kv_protect=False,
        n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False,
    )  # fmt: skip
    yield model
    model.close()


@pytest.mark.parametrize(("policy", "n"), [("full", 9), ("compresskv", 9), ("compresskv", 40), ("h2o", 9)])
def test_a_batch_and_single_tokens_predict_the_same(llm: AllLogits, policy: str, n: int) -> None:
    """40 tokens are more than the tail holds: evictions come in between."""
    tokens = llm.tokenize(TEXT)
    seen = applied.read(llm, tokens, [policy])
    state, following = llm.save_state(), tokens[1 : n + 1]
    applied.apply(llm, policy, 48, seen)
    found = llm.eval_all(following)
    kept = [llm.kv_kept(layer).tolist() for layer in llm.kv_layers]
    llm.load_state(state)
    applied.apply(llm, policy, 48, seen)
    single = []
    for token in following:
        llm.eval([token])
        single.append(llm.last_logits())
    assert found.shape == (n, llm.n_vocab())
    np.testing.assert_allclose(found, single, atol=0.05)
    assert [llm.kv_kept(layer).tolist() for layer in llm.kv_layers] == kept


def test_tokens_are_taken_back(llm: AllLogits) -> None:
    tokens = llm.tokenize(TEXT)
    seen = applied.read(llm, tokens, ["compresskv"])
    applied.apply(llm, "compresskv", 48, seen)
    llm.eval_all(tokens[1:4])
    before = llm.eval_all(tokens[4:7])
    assert llm.take_back(3)
    assert llm.n_tokens == len(tokens) + 3
    np.testing.assert_array_equal(llm.eval_all(tokens[4:7]), before)
    assert not llm.take_back(len(tokens))
    assert llm.n_tokens == len(tokens) + 6


def test_what_a_policy_wrote_down_is_not_taken_back(llm: AllLogits) -> None:
    tokens = llm.tokenize(TEXT)
    applied.apply(llm, "h2o", 48, applied.read(llm, tokens, ["h2o"]))
    llm.eval_all(tokens[1:4])
    assert not llm.take_back(1)


def test_nothing_is_nothing_and_errors_are_those_of_eval(llm: AllLogits) -> None:
    tokens = llm.tokenize(TEXT)
    applied.apply(llm, "full", 1.0, applied.read(llm, tokens, ["full"]))
    assert llm.eval_all([]).shape == (0, llm.n_vocab())
    with pytest.raises(TokenError):
        llm.eval_all([llm.n_vocab()])
    with pytest.raises(ContextError):
        llm.eval_all(tokens * 9)
