"""Evicted rows mixed into kept ones: by hand, and what it does to attention."""

from __future__ import annotations

import numpy as np

from compresskv_edge.policies.merging import merge

K = np.array([[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [-1.0, 0.0], [0.1, 1.0]]])  # (1, 5, 2)
V = np.array([[[1.0], [10.0], [3.0], [100.0], [20.0]]])  # (1, 5, 1)
KEPT = np.array([0, 1])


def test_each_evicted_row_joins_its_nearest_kept_one_as_a_mean() -> None:
    """2 points as 0 does, 4 nearly as 1; 3 points the other way and is lost."""
    k, v = merge(K, V, KEPT)
    np.testing.assert_allclose(k, [[[1.5, 0.0], [0.05, 1.0]]], rtol=1e-6)
    np.testing.assert_allclose(v, [[[2.0], [15.0]]])
    assert k.dtype == v.dtype == np.float32


def test_a_threshold_above_every_cosine_changes_nothing() -> None:
    k, v = merge(K, V, KEPT, threshold=1.1)
    np.testing.assert_array_equal(k, K[:, :2])
    np.testing.assert_array_equal(v, V[:, :2])


def test_recent_rows_stay_as_they_are() -> None:
    k, v = merge(K, V, KEPT, n_recent=1)
    np.testing.assert_allclose(k, [[[1.5, 0.0], [0.0, 1.0]]])
    np.testing.assert_allclose(v, [[[2.0], [10.0]]])
    k, _ = merge(K, V, KEPT, n_recent=2)
    np.testing.assert_array_equal(k, K[:, :2])


def test_nothing_evicted_changes_nothing() -> None:
    k, v = merge(K, V, np.arange(5))
    np.testing.assert_array_equal(k, K.astype(np.float32))
    np.testing.assert_array_equal(v, V)


def test_heads_mix_their_own_rows() -> None:
    k = np.concatenate([K, K[:, ::-1]])
    v = np.concatenate([V, V[:, ::-1]])
    both = merge(k, v, KEPT)
    for head in (0, 1):
        alone = merge(k[head : head + 1], v[head : head + 1], KEPT)
        for one, other in zip(both, alone):
            np.testing.assert_array_equal(one[head : head + 1], other)


def test_twins_of_kept_tokens_are_not_missed() -> None:
    """Every evicted row is a copy of a kept one but for noise: values of pairs come out as their means."""
    rng = np.random.default_rng(0)
    k = rng.standard_normal((2, 40, 16))
    v = rng.standard_normal((2, 40, 8))
    k[:, 20:] = k[:, :20] + 1e-3 * rng.standard_normal((2, 20, 16))
    mixed_k, mixed_v = merge(k, v, np.arange(20))
    np.testing.assert_allclose(mixed_k, k[:, :20], atol=5e-3)
    np.testing.assert_allclose(mixed_v, (v[:, :20] + v[:, 20:]) / 2, atol=1e-6)
