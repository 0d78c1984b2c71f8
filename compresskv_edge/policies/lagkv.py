"""LagKV, arXiv:2504.04704: tokens whose keys and values stand out against those of the tokens that follow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .layer import Array, Float64, Layer
from .needs import KEYS, VALUES
from .policy import Policy
from .scores import Rule


def policy(*, lag: int = 128, sinks: int = 16) -> Policy:
    """The text is cut into pieces of `lag` tokens behind the sinks. A token's channels are brought into the range that
    they have in the piece that follows; how much they then differ among one another, after a softmax over the piece, is
    the token's score: that of its key plus that of its value. No attention is computed.

    In the paper each piece and each KV head keeps its own best tokens, and the last piece, which nothing follows, stays
    whole. Here heads share the tokens and the budget may be smaller than a piece: scores become ranks inside a piece,
    so that pieces are treated alike, ranks are averaged over the KV heads, and the last piece is compared with what
    follows it, the window at least.
    """

    def score(layer: Layer, window: int) -> Array:
        n_before = layer.n - window
        first = min(int(np.searchsorted(layer.positions, sinks)), n_before)
        ranks = [_ranks(k, v, first, n_before, lag) for k, v in zip(layer[KEYS], layer[VALUES])]
        return np.stack(ranks)

    rule = Rule(score, frozenset({KEYS, VALUES}))
    return Policy(title="LagKV", source="arXiv:2504.04704", score=rule, window=lag, sinks=sinks, decodes=True)


def _ranks(keys: Array, values: Array, first: int, n_before: int, lag: int) -> Float64:
    """Of one KV head, by piece, 0 to 1: (n_before,); what comes before the first piece has 1."""
    ranks = np.ones(n_before)
    for start, end in _pieces(first, n_before, lag):
        scores = sum(unevenness(rows[start:end], rows[end : end + lag]) for rows in (keys, values))
        ranks[start:end] = np.argsort(np.argsort(scores, kind="stable"), kind="stable") / (end - start)
    return ranks


def _pieces(first: int, n_before: int, lag: int) -> Iterator[tuple[int, int]]:
    for start in range(first, n_before, lag):
        yield start, min(start + lag, n_before)


def unevenness(rows: Array, following: Array) -> Float64:
    """Softmax over the rows of the standard deviation of their channels: rows (m, d), following (r, d) -> (m,)."""
    low, high = (bound.astype(np.float64) for bound in (following.min(axis=0), following.max(axis=0)))
    scaled = (rows - low) / np.maximum(high - low, 1e-12)
    spread = scaled.std(axis=1)
    weights = np.exp(spread - spread.max())
    return np.asarray(weights / weights.sum())
