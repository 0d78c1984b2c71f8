"""Evicted rows mixed into kept ones: by hand."""

from __future__ import annotations

from typing import List

import numpy as np

from compresskv_edge.policies.merging import Merge, merge

K = np.array([[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [-1.0, 0.0], [0.1, 1.0]]])  # (1, 5, 2)
V = np.array([[[1.0], [10.0], [3.0], [100.0], [20.0]]])  # (1, 5, 1)
KEPT = np.array([0, 1])


def test_each_evicted_row_joins_its_nearest_kept_one_as_a_mean() -> None:
    """2 points as 0 does, 4 nearly as 1; 3 points the other way and is lost."""
    got = merge(K, V, KEPT)
    np.testing.assert_allclose(got.k, [[[1.5, 0.0], [0.05, 1.0]]], rtol=1e-6)
    np.testing.assert_allclose(got.v, [[[2.0], [15.0]]])
    assert got.k.dtype == got.v.dtype == np.float32
    assert got.count.tolist() == [[2.0, 2.0]]
    assert got.changed.tolist() == [0, 1]


def test_a_threshold_above_every_cosine_changes_nothing() -> None:
    got = merge(K, V, KEPT, Merge(threshold=1.1))
    np.testing.assert_array_equal(got.k, K[:, :2])
    np.testing.assert_array_equal(got.v, V[:, :2])
    assert not len(got.changed)


def test_fixed_rows_stay_as_they_are_and_what_is_like_them_goes_elsewhere_or_is_lost() -> None:
    got = merge(K, V, KEPT, fixed=np.array([False, True]))
    np.testing.assert_allclose(got.k, [[[1.5, 0.0], [0.0, 1.0]]])
    np.testing.assert_allclose(got.v, [[[2.0], [10.0]]])
    assert got.changed.tolist() == [0]
    got = merge(K, V, KEPT, fixed=np.array([True, True]))
    np.testing.assert_array_equal(got.k, K[:, :2])


def test_weights() -> None:
    """Row 0 stands for three already and row 2 for two, which count half: (3*1 + 0.5*2*3) / 4."""
    got = merge(K, V, KEPT, Merge(strength=0.5), count=np.array([[3.0, 1.0, 2.0, 1.0, 1.0]]))
    np.testing.assert_allclose(got.v, [[[1.5], [(10 + 0.5 * 20) / 1.5]]], rtol=1e-6)
    np.testing.assert_allclose(got.k[0, 0], [1.25, 0.0])
    assert got.count.tolist() == [[4.0, 1.5]]


def test_nothing_evicted_changes_nothing() -> None:
    got = merge(K, V, np.arange(5))
    np.testing.assert_array_equal(got.k, K.astype(np.float32))
    np.testing.assert_array_equal(got.v, V)


def test_heads_mix_their_own_rows() -> None:
    k = np.concatenate([K, K[:, ::-1]])
    v = np.concatenate([V, V[:, ::-1]])
    both = merge(k, v, KEPT)
    for head in (0, 1):
        alone = merge(k[head : head + 1], v[head : head + 1], KEPT)
        np.testing.assert_array_equal(both.k[head : head + 1], alone.k)
        np.testing.assert_array_equal(both.v[head : head + 1], alone.v)


def test_many_rows_go_in_blocks() -> None:
    """3000 evicted rows: each mean by a loop."""
    rng = np.random.default_rng(1)
    k, v = rng.standard_normal((1, 3020, 4)), rng.standard_normal((1, 3020, 3))
    kept = np.arange(0, 3020, 151)
    got = merge(k, v, kept, Merge(threshold=0.8))
    unit = k[0] / np.linalg.norm(k[0], axis=1, keepdims=True)
    groups: List[List[int]] = [[at] for at in kept]
    for row in np.setdiff1d(np.arange(3020), kept):
        cosines = unit[kept] @ unit[row]
        if cosines.max() >= 0.8:
            groups[int(cosines.argmax())].append(row)
    np.testing.assert_allclose(got.k[0], [k[0, rows].mean(axis=0) for rows in groups], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.v[0], [v[0, rows].mean(axis=0) for rows in groups], rtol=1e-5, atol=1e-6)


def test_twins_of_kept_tokens_are_not_missed() -> None:
    """Every evicted row is a copy of a kept one but for noise: values of pairs come out as their means."""
    rng = np.random.default_rng(0)
    k = rng.standard_normal((2, 40, 16))
    v = rng.standard_normal((2, 40, 8))
    k[:, 20:] = k[:, :20] + 1e-3 * rng.standard_normal((2, 20, 16))
    got = merge(k, v, np.arange(20))
    np.testing.assert_allclose(got.k, k[:, :20], atol=5e-3)
    np.testing.assert_allclose(got.v, (v[:, :20] + v[:, 20:]) / 2, atol=1e-6)
