import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskv_edge.method import topk
from compresskv_edge.method.topk import top_k_indices


def adversary(n):
    """A row on which the median of three is a bad pivot every time: the selection goes deep and ends on a heap."""
    half = n // 2
    odd = [j + 1 if j % 2 == 0 else half + j for j in range(half)]
    return np.array(odd + [2 * (j + 1) for j in range(half)])


# what torch.topk 2.13.0 returned on a CPU; every case has a tie at its boundary
BY_PARTITION = [
    ([1] * 5, 2, [2, 4]),
    ([1] * 10, 5, [5, 6, 7, 8, 9]),
    ([0, 2, 2, 2, 1, 2, 2], 3, [3, 5, 6]),
    ([5, 5, 5, 0, 0, 0, 5, 5, 5], 3, [1, 6, 7]),
    ([3, 1, 3, 2, 3, 1, 3, 0, 3, 3], 4, [0, 4, 6, 8]),
    ([0] * 20 + [1] * 10 + [0] * 20, 4, [22, 23, 24, 29]),
    (
        [37 * i % 7 for i in range(300)],
        20,
        [31, 38, 45, 59, 73, 94, 101, 108, 115, 185, 192, 199, 206, 220, 227, 234, 241, 255, 262, 269],
    ),
]
BY_HEAP = [
    ([1] * 200, 3, [0, 1, 2]),
    ([7 * i % 5 for i in range(200)], 1, [2]),
    ([7 * i % 5 for i in range(200)], 3, [2, 7, 12]),
    ([5 * i % 3 for i in range(64)], 1, [1]),
    ([13 * i % 6 for i in range(128)], 2, [5, 11]),
]


@pytest.mark.parametrize(("scores", "k", "expected"), BY_PARTITION + BY_HEAP)
def test_ties_are_broken_as_torch_breaks_them(scores, k, expected):
    assert top_k_indices(np.array(scores, dtype=np.float32), k).tolist() == expected


def test_the_order_of_equal_children_in_a_heap():
    scores = np.array([(i + i * i) % 400 for i in range(3000)])
    chosen = top_k_indices(scores, 46)
    kth = scores[chosen].min()
    kept_by_torch = [34, 109, 290, 365, 434, 690, 765, 834, 1090, 1565, 1634, 1709, 1890, 1965, 2034, 2109]
    assert chosen[scores[chosen] == kth].tolist() == kept_by_torch


@pytest.mark.parametrize(("k", "tied", "kept"), [(11, {10, 26}, {10}), (13, {12, 27}, {27})])
def test_a_partition_that_goes_too_deep_ends_on_a_heap(monkeypatch, k, tied, kept):
    heap_select, calls = topk._heap_select, []
    monkeypatch.setattr(topk, "_heap_select", lambda *args: (calls.append(args), heap_select(*args)))
    chosen = top_k_indices(-adversary(42) // 2, k)
    assert calls
    assert tied & set(chosen.tolist()) == kept  # what torch.topk kept of them


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 64, 65, 128, 700])
def test_distinct_scores_give_the_highest(n):
    scores = np.random.default_rng(n).permutation(n).astype(np.float32)
    for k in {0, 1, n // 64, n // 2, n}:
        expected = np.sort(np.argsort(-scores)[:k])
        np.testing.assert_array_equal(top_k_indices(scores, k), expected)


@pytest.mark.parametrize("seed", range(200))
def test_ties_never_change_the_values_chosen(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, rng.integers(1, 500))
    k = int(rng.integers(0, scores.size + 1))
    chosen = top_k_indices(scores, k)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(np.sort(scores[chosen]), np.sort(scores)[scores.size - k :])


def test_nan_is_the_highest():
    assert top_k_indices(np.array([1.0, np.nan, np.inf, 0.0]), 1).tolist() == [1]


@pytest.mark.parametrize("k", [-1, 4])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match=r"k must be in 0\.\.3 .* got"):
        top_k_indices(np.zeros(3), k)


def test_scores_of_two_dimensions():
    with pytest.raises(ValueError, match="one dimension"):
        top_k_indices(np.zeros((2, 3)), 1)


def test_equal_to_torch():
    torch = pytest.importorskip("torch")
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        n = int(np.exp(rng.uniform(0, np.log(5000))))
        k = int(rng.integers(0, n // (64 if seed % 2 else 1) + 1))
        scores = rng.integers(0, int(rng.choice([2, 5, 50, 2000])), n).astype(np.float32)
        expected = torch.topk(torch.from_numpy(scores), k).indices.numpy()
        np.testing.assert_array_equal(top_k_indices(scores, k), np.sort(expected), err_msg=f"seed {seed}")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0, np.inf]) | st.floats(width=32), max_size=200), st.data())
def test_any_scores(scores, data):
    """Ties, infinities and NaN: ascending indices, and no score outside the set is higher than one inside."""
    values = np.asarray(scores, dtype=np.float32)
    k = data.draw(st.integers(0, len(values)))
    found = top_k_indices(values, k)
    assert len(found) == k
    assert (np.diff(found) > 0).all()
    ordered = np.sort(values)  # NaN comes last
    np.testing.assert_array_equal(np.sort(values[found]), ordered[len(values) - k :])
