import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskv_edge.errors import BudgetError
from compresskv_edge.method.scoring import pool, select_tokens, token_scores, window_attention

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
POOLING = {"avgpool": "avg", "maxpool": "max"}


def layer(n_head=4, n_head_kv=2, n_tokens=40, head_dim=16, window=8, seed=0):
    rng = np.random.default_rng(seed)
    q_window = rng.standard_normal((n_head, window, head_dim)).astype(np.float32)
    k = rng.standard_normal((n_head_kv, n_tokens, head_dim)).astype(np.float32)
    return q_window, k


def test_all_golden_files_are_there():
    assert len(GOLDEN) == 5


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_equal_to_the_authors_implementation(path):
    golden = np.load(path)
    kept = np.split(golden["kept_flat"], np.cumsum(golden["kept_len"])[:-1])
    for il, expected in enumerate(kept):
        chosen = select_tokens(
            golden["q_window"][il],
            golden["k"][il],
            golden["heads"][il],
            int(golden["budgets"][il]),
            window=int(golden["window"]),
            kernel=int(golden["kernel"]),
            pooling=POOLING[str(golden["pooling"])],
        )
        np.testing.assert_array_equal(chosen, expected)
        assert chosen.dtype == np.int64


def test_window_attention_by_hand():
    q_window, k = layer()
    for head in range(4):
        attention = window_attention(q_window, k, head)
        assert attention.shape == (8, 40)
        for i in (0, 3, 7):
            visible = 40 - 8 + i + 1
            logits = [float(q_window[head, i] @ k[head // 2, j]) / math.sqrt(16) for j in range(visible)]
            weights = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(attention[i, :visible], weights, rtol=1e-5)
            assert not attention[i, visible:].any()


def test_pool_average_always_divides_by_the_kernel():
    np.testing.assert_allclose(pool(np.array([5.0, 10.0, 15.0, 20.0]), 5, "avg"), [6.0, 10.0, 10.0, 9.0])


def test_pool_maximum_ignores_the_outside():
    np.testing.assert_array_equal(pool(np.array([-5.0, -1.0, -3.0, -4.0, -9.0]), 3, "max"), [-1, -1, -1, -3, -4])


def test_pool_with_kernel_one_changes_nothing():
    scores = np.arange(6.0)
    np.testing.assert_array_equal(pool(scores, 1, "avg"), scores)


def test_scores_are_the_mean_of_the_heads_pooled_attention():
    q_window, k = layer()
    one_by_one = [token_scores(q_window, k, [head]) for head in (3, 0)]
    both = token_scores(q_window, k, [3, 0])
    assert both.shape == (32,)
    assert both.dtype == np.float32
    np.testing.assert_allclose(both, np.mean(one_by_one, axis=0), rtol=1e-6)


def test_selection_keeps_the_window_and_the_best():
    q_window, k = layer()
    scores = token_scores(q_window, k, [1])
    chosen = select_tokens(q_window, k, [1], 12)
    assert chosen[-8:].tolist() == list(range(32, 40))
    assert set(chosen[:-8].tolist()) == set(np.argsort(-scores)[:4].tolist())


def test_a_planted_needle_is_kept():
    q_window, k = layer(n_tokens=500)
    k[0, 123] = 20 * q_window[1, -1]
    assert 123 in select_tokens(q_window, k, [1], 16)
    assert 123 in select_tokens(q_window, k, [0, 1], 16)


@pytest.mark.parametrize("n_tokens", [1, 7, 8, 39, 40])
def test_a_prompt_within_the_budget_is_kept_whole(n_tokens):
    q_window, k = layer(n_tokens=n_tokens)
    assert select_tokens(q_window, k, [0], 40).tolist() == list(range(n_tokens))


def test_a_budget_of_the_window_keeps_the_window():
    q_window, k = layer()
    assert select_tokens(q_window, k, [0], 8).tolist() == list(range(32, 40))


@pytest.mark.parametrize("budget", [7, 0, -1])
def test_budget_below_the_window(budget):
    q_window, k = layer()
    with pytest.raises(BudgetError, match=f"budget is {budget} tokens .* use 9 or more"):
        select_tokens(q_window, k, [0], budget)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 4}, r"q_window must be \(n_head, window=4, head_dim\), got shape \(4, 8, 16\)"),
        ({"heads": [4]}, "head 4 is out of range: the layer has 4 query heads"),
        ({"heads": [-1]}, "head -1 is out of range"),
        ({"heads": []}, "heads is empty"),
        ({"kernel": 4}, "kernel must be odd and positive, got 4"),
        ({"kernel": 0}, "kernel must be odd and positive, got 0"),
        ({"pooling": "avgpool"}, "pooling must be .* got 'avgpool'"),
        ({"k": np.zeros((3, 40, 16))}, "4 query heads cannot share 3 KV heads"),
        ({"k": np.zeros((2, 40, 32))}, "with one head_dim"),
    ],
)
def test_bad_arguments(change, message):
    q_window, k = layer()
    arguments = {"q_window": q_window, "k": k, "heads": [0], "budget": 16, **change}
    with pytest.raises(ValueError, match=message):
        select_tokens(**arguments)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(0, 25), st.sampled_from(["avg", "max"]))
def test_pooling_is_what_a_loop_says(row, half, pooling):
    """Also with kernels longer than the row."""
    kernel = 2 * half + 1
    spans = [row[max(i - half, 0) : i + half + 1] for i in range(len(row))]
    want = [max(span) if pooling == "max" else sum(span) / kernel for span in spans]
    np.testing.assert_allclose(pool(np.array([row]), kernel, pooling)[0], want, rtol=1e-12, atol=1e-6)
