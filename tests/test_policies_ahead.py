"""Ahead, on layers made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from layers import attending, kept, random_layer

from compresskv_edge import policies

N, N_QUERIES = 80, 40


def one_head(looks: dict[int, int], *, question: int, ahead: Any = (), values: Any = None) -> Any:
    """A layer of one head. looks: query (from the end, -1 is the last) -> token that it looks at; others at nothing."""
    rows = np.full((1, N_QUERIES, N), 1.0)
    for query, token in looks.items():
        rows[0, query, token] = 400.0
    drafted = np.zeros((1, len(ahead), N), dtype=np.float32)
    for i, token in enumerate(ahead):
        drafted[0, i, token] = 12.0 * np.sqrt(N)
    values = np.ones((1, N, 1), dtype=np.float32) if values is None else values
    return attending(rows, question=np.asarray(question), ahead=drafted, values=values)


def test_the_question_is_looked_at_and_nothing_before_it() -> None:
    layer = one_head({-20: 30, -35: 50}, question=25)
    tokens = kept("ahead:sinks=0", layer, 16, window=8)
    assert 30 in tokens
    assert 50 not in tokens


def test_no_more_of_a_long_question_than_asked_for() -> None:
    assert 30 not in kept("ahead:sinks=0:question=10", one_head({-20: 30}, question=25), 16, window=8)


def test_a_question_that_is_not_known_is_the_last_32_tokens() -> None:
    layer = one_head({-30: 30, -35: 40}, question=0)
    tokens = kept("ahead:sinks=0", layer, 16, window=8)
    assert 30 in tokens
    assert 40 not in tokens


def test_the_drafted_answer_decides_where_it_looks_harder() -> None:
    layer = one_head({-3: 30}, question=10, ahead=[50])
    tokens = kept("ahead:sinks=0", layer, 13, window=8)
    assert {48, 49, 50, 51, 52} <= set(tokens)
    assert 30 not in tokens


def test_the_most_counts_not_the_sum() -> None:
    """One query that looks at a token alone is worth more than many that glance at another."""
    rows = np.full((1, N_QUERIES, N), 1.0)
    rows[0, -1, 30], rows[0, -20:-1, 50] = 400.0, 12.0
    draft = np.zeros((1, 0, N), dtype=np.float32)
    ones = np.ones((1, N, 1), dtype=np.float32)
    layer = attending(rows, question=np.asarray(20), ahead=draft, values=ones)
    tokens = kept("ahead:sinks=0", layer, 13, window=8)
    assert 30 in tokens
    assert 50 not in tokens


def test_a_value_that_is_long_weighs_more() -> None:
    values = np.ones((1, N, 1), dtype=np.float32)
    values[0, 50] = 0.5
    assert 30 in kept("ahead:sinks=0", one_head({-3: 30, -4: 50}, question=10, values=values), 13, window=8)
    values[0, 50] = -9.0
    tokens = kept("ahead:sinks=0", one_head({-3: 30, -4: 50}, question=10, values=values), 13, window=8)
    assert 50 in tokens
    assert 30 not in tokens


def test_the_first_tokens_stay() -> None:
    assert kept("ahead", one_head({-3: 30}, question=10), 16, window=8)[:4] == [0, 1, 2, 3]


def test_a_layer_scores_as_a_plain_loop_says() -> None:
    layer = random_layer(60)
    keys, values, queries = (layer.inputs[kind].astype(np.float64) for kind in ("keys", "values", "queries"))
    want = np.zeros((4, 60))
    for head in range(4):
        for i, query in enumerate([*queries[head, -12:], *layer.inputs["ahead"][head].astype(np.float64)]):
            seen = 60 if i >= 12 else 60 - 11 + i
            logits = keys[head // 2, :seen] @ query / 4.0
            weights = np.exp(logits - logits.max())
            want[head, :seen] = np.maximum(want[head, :seen], weights / weights.sum())
        want[head] *= np.linalg.norm(values[head // 2], axis=-1)
    score = policies.get("ahead").score(layer, 8)
    np.testing.assert_allclose(score, want[:, :52], rtol=1e-12)
