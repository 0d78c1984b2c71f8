"""The library's selection against the statement in NumPy, on anything that fits."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskv_edge import native
from compresskv_edge.method import scoring


@st.composite
def cases(draw: Any) -> Dict[str, Any]:
    """Arguments of `select_tokens`. Small whole numbers make ties of every kind: equal keys, equal attention, plateaus
    of max pooling; others are as in a model. Budgets go from the window to beyond the prompt."""
    n_head_kv, group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    head_dim, window = draw(st.sampled_from([1, 4, 16, 33])), draw(st.integers(1, 10))
    n_tokens = window + draw(st.integers(0, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = draw(st.booleans())

    def numbers(*shape: int) -> Any:
        drawn = rng.integers(-1, 2, shape) if whole else rng.standard_normal(shape)
        return drawn.astype(np.float32)

    heads = draw(st.lists(st.integers(0, n_head_kv * group - 1), min_size=1, max_size=6, unique=True))
    return {
        "q_window": numbers(n_head_kv * group, window, head_dim),
        "k": numbers(n_head_kv, n_tokens, head_dim),
        "heads": heads,
        "budget": draw(st.integers(window, n_tokens + 2)),
        "window": window,
        "kernel": draw(st.sampled_from([1, 3, 5, 9])),
        "pooling": draw(st.sampled_from(["avg", "max"])),
    }


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_library_selects_what_the_statement_says(case: Dict[str, Any]) -> None:
    want = scoring.select_tokens(**case)
    np.testing.assert_array_equal(native.select_tokens(**case), want)
    n_tokens = case["k"].shape[1]
    assert len(want) == min(case["budget"], n_tokens)
    assert want[-case["window"] :].tolist() == list(range(n_tokens - case["window"], n_tokens))
    assert (np.diff(want) > 0).all()
