"""Intervals have the width that theory says, and the same seed gives the same ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compresskv_edge.evaluate import bootstrap


def test_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    low, high = bootstrap.interval(list(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert bootstrap.interval(list(values)) == (low, high)


def test_interval_of_one_value_and_of_equal_ones() -> None:
    assert bootstrap.interval([0.25]) == (0.25, 0.25)
    assert bootstrap.interval([1.0] * 30) == (1.0, 1.0)


def test_pairing_makes_a_difference_sharp() -> None:
    base = np.random.default_rng(1).random(100)
    mean, low, high = bootstrap.paired(list(base + 0.1), list(base))
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    assert bootstrap.ratio(list(base * 0.9), list(base)) == pytest.approx((0.9, 0.9, 0.9))


def test_ratio_to_nothing() -> None:
    assert all(math.isnan(value) for value in bootstrap.ratio([0.0, 1.0], [0.0, 0.0]))


def test_many_values_do_not_need_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(2).random(50))
    whole = bootstrap.interval(values)
    monkeypatch.setattr(bootstrap, "_BLOCK", 500)
    assert bootstrap.interval(values) == pytest.approx(whole, abs=0.02)
