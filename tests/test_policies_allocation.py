"""Whole numbers from wishes: the sum is exact and no bound is broken."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskv_edge.errors import BudgetError
from compresskv_edge.policies.allocation import Wish, in_proportion, settle


def test_wishes_that_are_whole_stay() -> None:
    assert settle([10, 20, 30], 60, 5, [100] * 3) == [10, 20, 30]


def test_the_largest_fractions_are_rounded_up() -> None:
    assert settle([10.5, 20.25, 29.25], 60, 5, [100] * 3) == [11, 20, 29]
    assert settle([1.5, 1.5, 1.0], 4, 1, [9] * 3) == [2, 1, 1]  # equals in order of layers


def test_what_a_bound_takes_goes_to_the_others_in_equal_parts() -> None:
    assert settle([90, 20, 10], 120, 5, [50, 100, 100]) == [50, 40, 30]
    assert settle([118, 1, 1], 120, 9, [200] * 3) == [102, 9, 9]


def test_a_budget_above_all_that_there_is() -> None:
    assert settle([50, 50], 100, 9, [20, 30]) == [20, 30]


def test_a_budget_below_the_least() -> None:
    with pytest.raises(BudgetError, match="10 tokens for 2 layers are fewer than 9 a layer: raise the budget"):
        settle([5, 5], 10, 9, [100, 100])


@pytest.mark.parametrize("weights", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_weights_that_say_nothing_mean_equal_layers(weights: list[float]) -> None:
    assert in_proportion(Wish(50, 10, (100, 100)), weights) == [50.0, 50.0]


def test_in_proportion() -> None:
    assert in_proportion(Wish(50, 10, (100, 100)), [3.0, 1.0]) == [70.0, 30.0]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_sum_and_bounds_always_hold(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    low = data.draw(st.integers(1, 50))
    high = data.draw(st.lists(st.integers(1, 5000), min_size=n, max_size=n))
    wished = data.draw(st.lists(st.floats(0, 1e6), min_size=n, max_size=n))
    least, most = sum(min(low, h) for h in high), sum(high)
    total = data.draw(st.integers(least, 2 * most + 1))
    found = settle(wished, total, low, high)
    assert sum(found) == min(total, most)
    assert all(min(low, h) <= f <= h for f, h in zip(found, high))
