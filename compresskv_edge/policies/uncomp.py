"""UNComp, arXiv:2410.03090: layers grouped by the truncated matrix entropy of their queries, SnapKV's scores."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from .allocation import Spread, Wish, in_proportion
from .layer import Array, Layer
from .policy import Policy
from .probes import Window, of_the_text, sampled
from .scores import AttentionScore


def policy(
    *, groups: int = 4, rank: int = 32, window: int = 8, kernel: int = 7, pooling: Literal["avg", "max"] = "max"
) -> Policy:
    """Layers of similar entropy share one budget: `groups` equal bands between the lowest and the highest entropy, a
    group's budget in proportion to its mean entropy.

    The paper's: the entropy, that of the `rank` (32) largest eigenvalues of the covariance of a head's centred queries
    of length 1, over log(head_dim); and that layers are grouped by it. Ours: the bands, budgets in proportion, and the
    queries, the last 8 of every 256 tokens. The authors' code begins a new group of layers where the entropy of a
    text falls from one layer to the next, once for each model, and compresses hidden states by these groups; its KV
    budgets differ by groups of heads, which cannot be here, where all heads of a layer share the tokens.
    """

    def measure(layer: Layer, window: int) -> float:
        return truncated_entropy(of_the_text(layer), rank)

    return Policy(
        title="UNComp",
        source="arXiv:2410.03090",
        score=AttentionScore(Window(window)),
        kernel=kernel,
        pooling=pooling,
        window=window,
        spread=Spread(lambda wish: share(wish, groups), measure, sampled(window)),
    )


def truncated_entropy(queries: Array, rank: int) -> float:
    """Mean over the heads of queries (n_head, s, head_dim)."""
    return float(np.mean([_entropy(head.astype(np.float64), rank) for head in queries]))


def _entropy(rows: Array, rank: int) -> float:
    centred = rows - rows.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=-1, keepdims=True)
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    values = np.linalg.svd(unit, compute_uv=False) ** 2
    if values.sum() == 0.0 or rows.shape[1] == 1:
        return 0.0
    shares = values[:rank] / values.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum() / math.log(rows.shape[1]))


def share(wish: Wish, groups: int) -> list[float]:
    """Tokens a layer: (n_layer,), equal inside a group."""
    entropy = np.asarray(wish.measures, dtype=np.float64)
    span = float(np.ptp(entropy))
    if span == 0.0:
        return in_proportion(wish, np.ones(len(entropy)).tolist())
    group = np.minimum((entropy - entropy.min()) / span * groups, groups - 1).astype(int)
    return in_proportion(wish, [float(entropy[group == g].mean()) for g in group])
