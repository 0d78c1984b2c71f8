"""Which tokens a layer keeps, stated in NumPy: the specification that the native code is compared with.

Section 3 of arXiv:2508.02401. Keys and queries are those after RoPE. A score is the exact value rounded to float32:
arithmetic is float64, because neighbours that differ by one float32 step do occur (in tests/golden as well), and with
float32 sums their order would depend on the machine's matrix product.

Shapes: q_window (n_head, window, head_dim), the queries of the last `window` tokens, oldest first;
        k        (n_head_kv, n_tokens, head_dim), the keys of all tokens, the window's included;
        query head h reads KV head h // (n_head / n_head_kv).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Union

import numpy as np
import numpy.typing as npt

from ..errors import BudgetError
from .attention import of_head
from .topk import top_k_indices

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Heads = Union[Sequence[int], npt.NDArray[np.integer]]
Pooling = Literal["avg", "max"]


def select_tokens(
    q_window: Array,
    k: Array,
    heads: Heads,
    budget: int,
    *,
    window: int = 8,
    kernel: int = 5,
    pooling: Pooling = "avg",
) -> Indices:
    """Ascending indices of the `budget` tokens that one layer keeps: (min(budget, n_tokens),).

    The last `window` tokens always stay; the rest of the budget goes to the tokens that `heads` (the layer's semantic
    retrieval heads) score highest. A prompt within the budget is kept whole.

    Raises BudgetError if the budget is below the window, ValueError for anything else that does not fit.
    """
    if q_window.ndim != 3 or q_window.shape[1] != window:
        raise ValueError(f"q_window must be (n_head, window={window}, head_dim), got shape {q_window.shape}")
    if budget < window:
        raise BudgetError(f"budget is {budget} tokens but the window alone holds {window}: use {window + 1} or more")
    n_tokens = k.shape[1]
    if n_tokens <= budget:
        return np.arange(n_tokens, dtype=np.int64)
    scores = token_scores(q_window, k, heads, kernel=kernel, pooling=pooling)
    chosen = top_k_indices(scores, budget - window)
    return np.concatenate([chosen, np.arange(n_tokens - window, n_tokens, dtype=np.int64)])


def token_scores(q_window: Array, k: Array, heads: Heads, *, kernel: int = 5, pooling: Pooling = "avg") -> Float32:
    """Score of every token before the window: (n_tokens - window,), the mean over `heads` of their pooled attention."""
    if len(heads) == 0:
        raise ValueError("heads is empty: a layer needs at least one head to score its tokens")
    n_before = k.shape[1] - q_window.shape[1]
    rows = [window_attention(q_window, k, int(head)).sum(axis=0)[:n_before] for head in heads]
    scores: Float32 = pool(np.stack(rows), kernel, pooling).mean(axis=0).astype(np.float32)
    return scores


def window_attention(q_window: Array, k: Array, head: int) -> Float64:
    """Attention of the window's queries of one query head to all tokens: (window, n_tokens), rows sum to 1.

    softmax(q k^T / sqrt(head_dim)), causal inside the window.
    """
    _check_shapes(q_window, k, head)
    n_head, window, _ = q_window.shape
    n_head_kv, n_tokens, _ = k.shape
    query = q_window[head].astype(np.float64)
    keys = k[head // (n_head // n_head_kv)].astype(np.float64)
    hidden = np.arange(n_tokens) > np.arange(n_tokens - window, n_tokens)[:, None]
    return np.asarray(of_head(query, keys, hidden), dtype=np.float64)


def pool(scores: Array, kernel: int, pooling: Pooling) -> Float64:
    """Pool along the last axis, stride 1, same length: scores (..., n), kernel odd.

    "avg": zeros beyond the ends and a divisor that is always `kernel`. "max": the ends do not count.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and positive, got {kernel}")
    if pooling not in ("avg", "max"):
        raise ValueError(f'pooling must be "avg" or "max", got {pooling!r}')
    outside = 0.0 if pooling == "avg" else -np.inf
    margin = [(0, 0)] * (scores.ndim - 1) + [(kernel // 2, kernel // 2)]
    padded = np.pad(scores.astype(np.float64), margin, constant_values=outside)
    spans = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=-1)
    pooled = spans.sum(axis=-1) / kernel if pooling == "avg" else spans.max(axis=-1)
    return np.asarray(pooled, dtype=np.float64)


def _check_shapes(q_window: Array, k: Array, head: int) -> None:
    if q_window.ndim != 3 or k.ndim != 3 or q_window.shape[2] != k.shape[2]:
        raise ValueError(
            "expected q_window (n_head, window, head_dim) and k (n_head_kv, n_tokens, head_dim) "
            f"with one head_dim, got {q_window.shape} and {k.shape}"
        )
    if k.shape[0] == 0 or q_window.shape[0] % k.shape[0]:
        raise ValueError(f"{q_window.shape[0]} query heads cannot share {k.shape[0]} KV heads evenly")
    if not 0 <= head < q_window.shape[0]:
        raise ValueError(f"head {head} is out of range: the layer has {q_window.shape[0]} query heads")
    if k.shape[1] < q_window.shape[1]:
        raise ValueError(f"{k.shape[1]} tokens are fewer than the window of {q_window.shape[1]}")
