"""Scissorhands, arXiv:2305.17118: tokens that recent queries attended to more often than not; H2O with a window."""

from __future__ import annotations

import numpy as np

from .layer import Array, Bools, Layer
from .policy import Policy
from .probes import Last
from .scores import Rule


def policy(*, history: int = 400, window: int = 10) -> Policy:
    """A token loses by every query of the last `history` that gave it less than an equal share, 1/t (algorithm 2).

    The paper: history 400, the 10 most recent tokens stay. It counts per head; here the counts are averaged over the
    heads, and the mean attention decides among equal counts. It drops half of the budget at a time; here the cache
    goes back to its budget whenever its tail is full.

    Costs: the queries of the last `history` tokens, read once, and their attention in NumPy.
    """
    probe = Last(history)

    def score(layer: Layer, window: int) -> Array:
        visible, n_before = layer.visible(min(history, layer.n_queries)), layer.n - window
        return np.stack([pivotal(rows, visible)[:n_before] for rows in probe.attention(layer, window)])

    return Policy(
        title="Scissorhands",
        source="arXiv:2305.17118",
        score=Rule(score, probe.needs),
        window=window,
        decodes=True,
    )


def pivotal(attention: Array, visible: Bools) -> Array:
    """Score of every token for one head's attention (n_queries, n): (n,)."""
    n_visible = np.maximum(visible.sum(axis=1, keepdims=True), 1)
    low = visible & (attention < 1.0 / n_visible)
    row: Array = attention.mean(axis=0) - low.sum(axis=0)  # a mean is at most 1: it decides among equal counts
    return row
