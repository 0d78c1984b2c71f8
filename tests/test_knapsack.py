"""Budgets from error curves: the least sum of errors for a total."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskv_edge.method.knapsack import spend


def test_by_hand() -> None:
    """Steepest first: layer 1 saves 4 a token, layer 0 saves 2, then layer 1 saves 1."""
    curves = np.array([[4.0, 2.0, 2.0], [9.0, 5.0, 3.0]])
    points = (1, 2, 4)
    assert spend(points, curves, 2) == [1, 1]
    assert spend(points, curves, 3) == [1, 2]
    assert spend(points, curves, 4) == [2, 2]
    assert spend(points, curves, 5) == [2, 3]
    assert spend(points, curves, 6) == [2, 4]
    assert spend(points, curves, 9) == [3.125, 5.875], (
        "of the 3 left half equally, half as 2 to 6, which they had to lose"
    )


def test_a_step_that_only_pays_as_a_whole_is_taken_by_its_average() -> None:
    """Nothing saved by 2 tokens, 8 by 4: 8/3 a token; the other layer's 2 comes after it."""
    curves = np.array([[8.0, 8.0, 0.0], [3.0, 1.0, 1.0]])
    assert spend((1, 2, 4), curves, 5) == [4, 1]
    assert spend((1, 2, 4), curves, 6) == [4, 2]


def test_an_error_that_more_tokens_make_larger_is_noise() -> None:
    assert spend((1, 2, 4), np.array([[1.0, 3.0, 1.0], [2.0, 1.0, 5.0]]), 6) == [1.75, 4.25]


def test_the_last_bit_of_a_curve_is_noise() -> None:
    """1 of 100 is less than 5 %: layer 0 is flat from its first point on, layer 1 from its second."""
    curves = np.array([[1.0, 0.5, 0.0], [100.0, 4.0, 0.0]])
    assert spend((1, 2, 4), curves, 3) == [1, 2]
    assert spend((1, 2, 4), curves, 8) == [2.25, 5.75]
    assert spend((1, 2, 4), curves, 8, noise=0.0) == [4, 4]


def test_curves_that_say_nothing_mean_equal_layers() -> None:
    assert spend((1, 8), np.zeros((3, 2)), 30) == [10.0, 10.0, 10.0]


@pytest.mark.parametrize("total", [0, 1, 2])
def test_fewer_tokens_than_the_first_points(total: int) -> None:
    assert spend((1, 2), np.array([[2.0, 1.0], [9.0, 1.0], [3.0, 1.0]]), total) == [total / 3] * 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), min_size=5, max_size=5), min_size=2, max_size=3),
    st.integers(0, 12),
)
def test_no_other_choice_is_better(savings: list[list[int]], extra: int) -> None:
    """Against all choices, on convex curves with a point at every token."""
    steps = np.sort(np.asarray(savings, dtype=float), axis=1)[:, ::-1]
    curves = 300.0 - np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)], axis=1)
    total = len(curves) + min(extra, 5 * len(curves))
    choices = itertools.product(range(1, 7), repeat=len(curves))
    best = min(sum(row[n - 1] for row, n in zip(curves, c)) for c in choices if sum(c) <= total)
    found = spend(range(1, 7), curves, total, noise=0.0)
    assert sum(found) == pytest.approx(total)
    cost = sum(np.interp(n, range(1, 7), row) for row, n in zip(curves, found))
    assert cost == pytest.approx(best)
