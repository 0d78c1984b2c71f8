from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskv_edge.calibration.answer import recall
from compresskv_edge.calibration.retrieval_score import classic_score, rank, rank_correlation, semantic_score, shared
from compresskv_edge.method.attention import attend, attention, look_at
from compresskv_edge.method.scoring import window_attention

# the scores


def test_semantic_score_counts_the_whole_span_for_each_of_its_tokens() -> None:
    mass = np.array([[0.5, 0.25, 0.125], [0.0, 1.0, 0.0]])
    # 7 is in the span twice, 9 once, 1 not at all
    assert semantic_score(mass, np.array([7, 9, 1]), np.array([7, 8, 7, 9])).tolist() == [1.25, 1.0]


def test_classic_score_is_the_share_of_the_span_that_was_copied() -> None:
    span, generated = np.array([7, 8, 7, 9]), np.array([7, 9, 7, 8])
    top = np.array([[10, 13, 12, 2], [10, 13, 10, 11], [9, 14, 11, 12]])  # the span starts at row 10
    assert classic_score(top, generated, span, 10).tolist() == [0.75, 0.75, 0.0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_scores_are_bounded(generated: list[int], span: list[int]) -> None:
    mass = np.ones((2, len(generated)))
    semantic = semantic_score(mass, np.array(generated), np.array(span))
    assert (semantic == sum(span.count(token) for token in generated)).all()
    top = np.tile(np.arange(len(generated)) % len(span), (2, 1))
    classic = classic_score(top, np.array(generated), np.array(span), 0)
    assert ((classic >= 0.0) & (classic <= 1.0)).all()


def test_equal_heads_are_ranked_by_number() -> None:
    assert rank(np.array([0.0, 2.0, 2.0, 1.0, 0.0])) == (1, 2, 3, 0, 4)


def test_rank_correlation_by_hand() -> None:
    a = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert rank_correlation(a, 10 * a + 1) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(a, np.zeros((2, 2))) == 0.0
    # 1 - 6 * (1 + 1) / (4 * 15): two neighbours changed places
    assert rank_correlation(a, np.array([[0.0, 2.0], [1.0, 3.0]])) == pytest.approx(0.8)
    # equal scores share a rank: 1.5 1.5 3 against 1 2 3
    assert rank_correlation(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 2.0])) == pytest.approx(0.866, abs=1e-3)


def test_shared_heads_by_hand() -> None:
    a, b = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    assert shared(a, b, 2) == 0.75
    assert shared(a, b, 3) == 1.0


# attention


@settings(deadline=None)
@given(st.sampled_from([(4, 2), (6, 2), (3, 3)]), st.integers(8, 20), st.integers(0, 99))
def test_attention_is_that_of_the_specification(heads: tuple[int, int], n_rows: int, seed: int) -> None:
    rng, (n_head, n_head_kv), window = np.random.default_rng(seed), heads, 4
    q, k = rng.standard_normal((n_head, window, 8)), rng.standard_normal((n_head_kv, n_rows, 8))
    ours = np.concatenate(list(attention(q, k, np.arange(n_rows - window, n_rows) + 1)))
    for head in range(n_head):
        np.testing.assert_allclose(ours[head], window_attention(q, k, head), rtol=1e-6, atol=1e-12)


def test_softcap_bounds_the_logits() -> None:
    q, k = np.full((1, 1, 4), 100.0), np.stack([np.full((1, 4), 100.0), np.zeros((1, 4))], axis=1)[0][None]
    plain = next(attention(q, k, np.array([2])))
    capped = next(attention(q, k, np.array([2]), softcap=1.0))
    assert plain[0, 0, 0] == 1.0
    assert capped[0, 0, 0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_look_at_sums_the_span_and_finds_the_top() -> None:
    k = np.eye(4)[None] * 20  # row i answers to query i
    q = np.eye(4)[None][:, [2, 0]]
    mass, top = look_at(q, k, np.array([4, 4]), (1, 3))
    assert top.tolist() == [[2, 0]]
    assert mass[0, 0] > 0.99 > 0.01 > mass[0, 1]


def test_rows_that_are_not_visible_do_not_count() -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((4, 3, 8)), rng.standard_normal((2, 9, 8)), rng.standard_normal((2, 9, 8))
    whole = attend(q, k, v, np.array([5, 5, 5]))
    np.testing.assert_allclose(whole, attend(q, k[:, :5], v[:, :5], np.array([5, 5, 5])), rtol=1e-6)
    assert whole.shape == (3, 4 * 8)


# answers


@pytest.mark.parametrize(
    ("answer", "expected", "share"),
    [
        (" 4821.\n", "4821", 1.0),
        ("It is the Mill cellar.", "the mill cellar", 1.0),
        ("in a barn", "the mill cellar", 0.0),
        ("the mill", "the mill cellar", 2 / 3),
        ("", "x", 0.0),
        ("...", "x", 0.0),
        ("答案是三号仓库", "三号仓库", 1.0),
    ],
)
def test_recall(answer: str, expected: str, share: float) -> None:
    assert recall(answer, expected) == pytest.approx(share)
