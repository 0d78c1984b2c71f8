"""How each paper spreads its budget over the layers, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from layers import attending, massive

from compresskv_edge import policies
from compresskv_edge.method import budget
from compresskv_edge.policies import cake, uncomp
from compresskv_edge.policies.allocation import Known, Wish
from compresskv_edge.policies.prefixkv import share as prefix_share
from compresskv_edge.policies.pyramidkv import pyramid


def test_pyramidkv_falls_in_equal_steps_to_a_twentieth() -> None:
    """Mean 108, window 8: 100 beside it, from 195 to 5."""
    assert pyramid(Wish(108, 8, (1000,) * 5), 20.0) == [203.0, 155.5, 108.0, 60.5, 13.0]
    layers = [massive([1.0] * 1000)] * 5
    budgets = policies.get("pyramidkv").budgets(layers, [1000] * 5, 108, window=8)
    assert sum(budgets) == 540
    assert budgets == [203, 156, 108, 60, 13]


def test_pyramidkv_of_a_prompt_shorter_than_its_first_layer() -> None:
    """150 tokens: the first layer cannot have 195 beside the window; it has 142, the last 58."""
    assert pyramid(Wish(108, 8, (150,) * 3), 20.0) == [150.0, 108.0, 66.0]
    assert pyramid(Wish(108, 8, (150,)), 20.0) == [108]


def test_cake_shares_by_entropy_and_variance() -> None:
    """Before the window of two: entropy of (.25 .25 .25 .25) x 2 is 2 log 4, variance 0; the other layer's is known."""
    still = attending([[[0.25] * 4 + [0.0, 0.0], [0.25] * 4 + [0.0, 0.0]]])
    entropy, variance = cake.preference(still, 2)
    assert entropy == pytest.approx(2 * np.log(4), rel=1e-5)
    assert variance == pytest.approx(0.0, abs=1e-12)
    moving = attending([[[0.5, 0.5, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 0.0, 0.0]]])
    entropy, variance = cake.preference(moving, 2)
    assert entropy == pytest.approx(2 * np.log(2), rel=1e-5)
    assert variance == pytest.approx(4 * 0.125, rel=1e-5)
    share = cake.policy(tau1=0.5, tau2=2.0).spread.share
    wish = Wish(60, 10, (1000,) * 2, ((2.0, 9.0), (1.0, 4.0)))  # 2^2 x 3 against 1 x 2
    np.testing.assert_allclose(share(wish), [10 + 100 * 12 / 14, 10 + 100 * 2 / 14])


def test_prefixkv_gives_every_layer_the_same_share_of_its_attention() -> None:
    """Budget 6 for two layers: one token holds .5 of the first, the even one needs 4 of 8; more would be 2 and 5."""
    steep = np.cumsum([0.5, 0.25, 0.125, 0.0625, 0.0625, 0, 0, 0])
    even = np.cumsum([0.125] * 8)
    assert prefix_share(Wish(3, 1, (8, 8), (steep, even))) == [1.0, 4.0]
    layers = [massive([1, 2, 4, 32, 16, 8, 0.5, 0.5]), massive([1.0] * 8)]
    policy = policies.get("prefixkv:sinks=0")
    assert policy.budgets(layers, [8, 8], 3, window=1) == [2, 4]  # what is left over is shared
    assert policy.keep(layers[0], 3, 3, window=1).tolist() == [3, 4, 7]
    assert policies.get("prefixkv").keep(layers[0], 6, 3, window=1).tolist() == [0, 1, 2, 3, 4, 7]


def test_uncomp_measures_how_many_directions_the_queries_have() -> None:
    line = np.outer(np.array([1.0, -1.0, 2.0, -2.0]), np.ones(4))[None]
    assert uncomp.truncated_entropy(line, 32) == pytest.approx(0.0, abs=1e-9)
    cross = np.concatenate([np.eye(4), -np.eye(4)])[None]
    assert uncomp.truncated_entropy(cross, 32) == pytest.approx(1.0)  # four equal directions of four
    assert uncomp.truncated_entropy(cross + 100.0, 32) == pytest.approx(1.0), "what all have in common does not count"
    assert uncomp.truncated_entropy(cross, 2) == pytest.approx(0.5)  # two of them are counted


def test_uncomp_groups_layers_of_similar_entropy() -> None:
    wish = Wish(50, 10, (1000,) * 4, (0.2, 0.25, 0.9, 1.0))
    first, second, third, fourth = uncomp.share(wish, 2)
    assert first == second == pytest.approx(10 + 160 * 0.225 / 2.35)
    assert third == fourth == pytest.approx(10 + 160 * 0.95 / 2.35)
    assert uncomp.share(Wish(50, 10, (100,) * 2, (0.5, 0.5)), 4) == [50.0, 50.0]


def test_compresskv_spreads_by_the_profiles_errors() -> None:
    errors = (0.5, 0.3, 0.2)
    found = policies.get("compresskv").budgets([], [10_000] * 3, 200, window=8, known=Known(errors))
    assert found == budget.allocate(errors, 200)
    capped = policies.get("compresskv").budgets([], [250] * 3, 200, window=8, known=Known(errors))
    assert capped == budget.allocate(errors, 200, cap=250)
    assert sum(capped) == 600
