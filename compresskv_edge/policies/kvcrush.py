"""KVCrush, arXiv:2503.00022: SnapKV's tokens, and representatives of the others by how the heads treat them."""

from __future__ import annotations

import numpy as np

from ..method.topk import top_k_indices
from .layer import Array, Bools, Indices, Layer
from .policy import Policy
from .probes import Last, Probe, Window
from .scores import AttentionScore
from .selection import Candidates, Selection


def policy(*, share: float = 0.25, window: int = 32, kernel: int = 7) -> Policy:
    """A share of the budget goes to representatives of what the base policy (snapkv) would evict.

    Each such token is a row of bits, one a head: does the head attend to it more than to the mean token? The rows are
    sorted by their Hamming distance from an anchor, the majority's row (the paper's mean anchor), and cut into as many
    equal runs as there are places; each run is represented by its best-scored token. All heads of a layer share the
    tokens, as the paper's pages do.

    The authors' code in OpenVINO GenAI works on blocks of tokens: its bits say which tokens of a block are in the
    better half by score, and of each run it takes the first block, not the best.
    """

    probe = Last(window)

    def select(candidates: Candidates, k: int) -> Indices:
        n_open = k - int(candidates.forced.sum())
        n_rest = len(candidates.scores) - k
        n_groups = 0 if n_rest <= 0 else int(n_open * share)
        chosen = np.zeros(len(candidates.scores), dtype=bool)
        chosen[top_k_indices(candidates.scores, k - n_groups)] = True
        rest = np.flatnonzero(~chosen)
        bits = head_bits(candidates.layer, len(chosen), probe)
        chosen[rest[representatives(bits[:, rest], candidates.scores[rest], n_groups)]] = True
        return np.flatnonzero(chosen).astype(np.int64)

    return Policy(
        title="KVCrush",
        source="arXiv:2503.00022",
        score=AttentionScore(Window(window)),
        kernel=kernel,
        pooling="max",
        window=window,
        select=Selection(select, probe.needs),
    )


def head_bits(layer: Layer, n_before: int, probe: Probe) -> Bools:
    """Heads that attend to a token more than to the mean one: (H, n_before)."""
    rows = np.stack([attention.sum(axis=0)[:n_before] for attention in probe.attention(layer, layer.n - n_before)])
    return np.asarray(rows > rows.mean(axis=1, keepdims=True))


def representatives(bits: Bools, scores: Array, n_groups: int) -> Indices:
    """Indices of n_groups of the tokens whose head bits (H, m) and scores (m,) are given."""
    if n_groups == 0:
        return np.empty(0, dtype=np.int64)
    anchor = bits.mean(axis=1, keepdims=True) >= 0.5
    order = np.argsort((bits != anchor).sum(axis=0), kind="stable")
    runs = np.array_split(order, n_groups)
    return np.asarray([run[np.argmax(scores[run])] for run in runs], dtype=np.int64)
