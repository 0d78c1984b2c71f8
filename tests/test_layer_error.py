from __future__ import annotations

import numpy as np
import pytest

from compresskv_edge.calibration.layer_error import combine, outputs_of_kept, relative_errors

RNG = np.random.default_rng(0)
Q, K, V = (RNG.standard_normal(shape) for shape in ((4, 3, 8), (2, 12, 8), (2, 12, 8)))
N_PROMPT = 9  # and three rows of generated tokens


def test_nothing_is_lost_where_everything_is_kept() -> None:
    full, less = outputs_of_kept(Q, K, V, np.arange(N_PROMPT), N_PROMPT)
    np.testing.assert_array_equal(full, less)


def test_generated_tokens_are_seen_by_both() -> None:
    full, less = outputs_of_kept(Q, K, V, np.array([0, 8]), N_PROMPT)
    k, v = K.copy(), V.copy()
    k[:, 1:8], v[:, 1:8] = 0.0, 0.0  # evicted rows have no part in it
    np.testing.assert_array_equal(less, outputs_of_kept(Q, k, v, np.array([0, 8]), N_PROMPT)[1])
    assert abs(full - less).max() > 0.01
    v[:, N_PROMPT] += 1.0
    assert (outputs_of_kept(Q, k, v, np.array([0, 8]), N_PROMPT)[1] != less).any(axis=1).all()


def test_errors_are_relative_and_after_the_projection() -> None:
    full, less = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 0.0], [1.0, 5.0]])
    np.testing.assert_allclose(relative_errors(full, less, np.eye(2)), [0.8, 5.0])
    np.testing.assert_allclose(relative_errors(full, less, np.array([[1.0, 0.0]])), [0.0, 0.0])
    biased = relative_errors(full, less, np.eye(2), np.array([0.0, 6.0]))
    np.testing.assert_allclose(biased, [4 / 109**0.5, 5 / 37**0.5])


def test_an_output_of_zero_is_no_division_by_zero() -> None:
    assert relative_errors(np.zeros((1, 2)), np.zeros((1, 2)), np.eye(2)).tolist() == [0.0]


def test_data_sets_count_alike_whatever_their_size() -> None:
    errors = combine({"a": np.array([3.0, 1.0]), "b": np.array([100.0, 300.0])})
    assert errors.tolist() == [0.5, 0.5]
    assert combine({"a": np.array([3.0, 1.0]), "none": np.zeros(2)}).tolist() == [0.75, 0.25]
    assert combine({"none": np.zeros(2)}).sum() == pytest.approx(0.0)
