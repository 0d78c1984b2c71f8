"""Edge: each of its parts by hand, and what each can be set back to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable

import numpy as np
import pytest
from layers import attending, kept, layer_of, random_layers

from compresskv_edge import Llama, policies
from compresskv_edge.errors import PolicyError
from compresskv_edge.policies import edge
from compresskv_edge.policies.allocation import Known, Wish
from compresskv_edge.policies.needs import KEYS, QUERIES

ASKED = np.array([[4.0, 2.0, 2.0], [9.0, 5.0, 3.0]])
CURVES = ((1, 2, 4), ASKED, np.zeros((2, 3)))


def test_budgets_are_the_window_and_what_the_curves_give() -> None:
    """By hand in test_knapsack.py: of 6 tokens beside the windows 2 and 4, of 2 one each."""
    layers, policy = random_layers(100, n_layer=2), policies.get("edge:later_share=0")
    for mean, want in ((7, [6, 8]), (5, [5, 5])):
        assert policy.budgets(layers, [100, 100], mean, window=4, known=Known(curves=CURVES)) == want


def test_both_parts_of_a_budget_count() -> None:
    """The first 2 are for the question at hand, of more no more than half: 1, 2, 3, 4, 6, 8 tokens leave it 1, 2, 2, 2,
    3, 4 and a later one 0, 0, 1, 2, 3, 4."""
    later = np.array([[1.0, 0.5, 0.0], [8.0, 8.0, 0.0]])
    points, errors = edge.joined((CURVES[0], ASKED, later), 0.5, 2)
    assert points == [1, 2, 3, 4, 6, 8]
    np.testing.assert_allclose(errors[0], [4 + 1, 2 + 1, 2 + 1, 2 + 0.5, 2 + 0.25, 2 + 0])
    np.testing.assert_allclose(errors[1], [9 + 8, 5 + 8, 5 + 8, 5 + 8, 4 + 4, 3 + 0])
    points, errors = edge.joined((CURVES[0], ASKED, later), 0, 0)
    assert points == [1, 2, 4]
    np.testing.assert_array_equal(errors - errors[:, -1:], ASKED - ASKED[:, -1:])


@pytest.mark.parametrize(
    ("n", "share", "first", "want"),
    [(10, 0.5, 0, 5), (10, 0.5, 8, 2), (40, 0.5, 16, 20), (16, 0.5, 16, 0), (9, 0, 0, 0)],
)
def test_what_is_for_later(n: int, share: float, first: int, want: float) -> None:
    assert edge.for_later(np.asarray(n), share, first) == want


def test_without_curves_it_says_so() -> None:
    with pytest.raises(PolicyError, match="error curves"):
        policies.get("edge").spread.share(Wish(mean=7, window=4, n_tokens=(100, 100)))


def _odd_keys() -> Any:
    """The last query looks at tokens 3 to 7; token 12 has a key unlike all others, whom nobody asks for."""
    rows = np.full((1, 1, 20), 1e-3)
    rows[0, 0, 3:8] = 1.0
    layer = attending(rows)
    k, queries = (np.pad(rows, [(0, 0), (0, 0), (0, 1)]) for rows in (layer[KEYS], layer[QUERIES]))
    k[0, :, -1], k[0, 12, -1] = 1.0, -1.0  # no query sees this side of a key
    return layer_of(20, {"keys": k, "queries": queries})


def test_a_part_is_for_later_questions() -> None:
    asked = kept("edge:later_share=0", _odd_keys(), 5)
    assert 12 not in asked
    assert set(asked[:-1]) <= {3, 4, 5, 6, 7}
    both = kept("edge:later_share=0.25:first=0", _odd_keys(), 5)
    assert 12 in both
    assert len(set(both) & set(asked[:-1])) == 3
    assert 12 in kept("edge:later_share=1:first=0", _odd_keys(), 2)
    assert kept("edge:later_share=1:first=4", _odd_keys(), 5) == asked


def test_protected_tokens_come_before_the_part_for_later() -> None:
    protected = np.isin(np.arange(20), [0, 1, 15])
    layer = _odd_keys()
    layer = replace(layer, protected=protected)
    assert kept("edge:later_share=1:first=0", layer, 5) == [0, 1, 12, 15, 19]
    assert kept("edge:later_share=0.5:first=0", layer, 4) == [0, 1, 15, 19]


def test_parts_can_be_set_back_to_the_paper() -> None:
    layers, errors = random_layers(200), (0.1, 0.2, 0.3, 0.4)
    paper = policies.get("compresskv")
    plain = policies.get("edge:later_share=0:budgets=errors")
    budgets = paper.budgets(layers, [200] * 4, 50, window=8, known=Known(errors))
    assert plain.budgets(layers, [200] * 4, 50, window=8, known=Known(errors)) == budgets
    for a, b in zip(paper.keep_all(layers, budgets, 50, window=8), plain.keep_all(layers, budgets, 50, window=8)):
        np.testing.assert_array_equal(a, b)
    assert policies.get("edge:budgets=equal").budgets(layers, [200] * 4, 50, window=8) == [50] * 4


def test_a_profile_without_curves_is_refused_and_the_paper_budgets_need_none(load: Callable[..., Llama]) -> None:
    with pytest.raises(PolicyError, match=r"policy 'edge' .* lacks: measure one with 'compresskv calibrate"):
        load(kv_policy="edge")
    assert load(kv_policy="edge:budgets=errors")._compression.window == 4
