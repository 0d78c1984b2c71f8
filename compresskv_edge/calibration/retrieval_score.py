"""How much a head takes part in retrieval: the semantic score (section 3.2 of arXiv:2508.02401), and for comparison
the classic one (arXiv:2404.15574). Pure NumPy.

Shapes: mass and top (n_head, n_steps) as of `attention.look_at`; generated (n_steps,), the token that each step
produced; span_tokens (n_span,), the tokens of the needle; all scores (n_head,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


def semantic_score(mass: Array, generated: Array, span_tokens: Array) -> Float64:
    """Sum of the attention mass on the whole span over the steps whose token occurs in it.

    A step counts once for each position of the span that holds its token, so a common token of the span weighs more.
    """
    repeats = (np.asarray(generated)[:, None] == np.asarray(span_tokens)).sum(axis=1)
    return np.asarray(mass.astype(np.float64) @ repeats, dtype=np.float64)


def classic_score(top: Array, generated: Array, span_tokens: Array, span_start: int) -> Float64:
    """Share of the span that the head copied: rows that it attends to most while their token is made."""
    tokens, offsets = np.asarray(span_tokens), np.asarray(top) - span_start
    inside = (offsets >= 0) & (offsets < len(tokens))
    copied = inside & (tokens[np.clip(offsets, 0, len(tokens) - 1)] == np.asarray(generated))
    return np.array([len(set(row[hit].tolist())) / len(tokens) for row, hit in zip(offsets, copied)])


def rank(scores: Array) -> tuple[int, ...]:
    """Heads by falling score; equal ones in order of their number."""
    return tuple(int(head) for head in np.argsort(-np.asarray(scores), kind="stable"))


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's, of two tables of scores; equal scores share the mean of their ranks."""
    x, y = _ranks(np.ravel(a)), _ranks(np.ravel(b))
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0


def shared(a: Array, b: Array, n: int) -> float:
    """Share of the n best heads of each row that two tables (n_layer, n_head) have in common."""
    best = [(set(rank(x)[:n]), set(rank(y)[:n])) for x, y in zip(a, b)]
    return sum(len(x & y) for x, y in best) / sum(len(x) for x, _ in best)


def _ranks(values: Array) -> Float64:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse.reshape(-1)], dtype=np.float64)
