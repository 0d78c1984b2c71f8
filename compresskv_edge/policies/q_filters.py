"""Q-Filters, arXiv:2503.02812: how far a key points along the direction that its head's queries share."""

from __future__ import annotations

import numpy as np

from .layer import Array, Layer
from .needs import KEYS
from .policy import Policy
from .probes import of_the_text, sampled
from .scores import Rule


def policy(*, window: int = 8) -> Policy:
    """Keys projected on the main direction of the head's queries; the highest stay. No attention is computed.

    The direction is the first right singular vector of the queries, pointing the way most of them do, averaged over
    the query heads of a KV head. The paper calibrates it once on 3000 queries of other texts; here it comes from the
    prompt itself, the last 8 of every 256 tokens. It selects per KV head; here projections are averaged over them.
    NVIDIA's kvpress keeps the lowest projections on the filters that the authors published, whose sign we could not
    check: here the highest stay, keys that most queries agree with.
    """
    return Policy(
        title="Q-Filters",
        source="arXiv:2503.02812",
        score=Rule(projection, sampled(window) | {KEYS}),
        window=window,
        decodes=True,
    )


def projection(layer: Layer, window: int) -> Array:
    """(G, n - window)."""
    n_head_kv = layer[KEYS].shape[0]
    directions = np.stack([direction(queries) for queries in of_the_text(layer)])
    filters = directions.reshape(n_head_kv, -1, directions.shape[-1]).mean(axis=1)
    keys = layer[KEYS][:, : layer.n - window].astype(np.float64)
    return np.asarray(np.einsum("gnd,gd->gn", keys, filters))


def direction(queries: Array) -> Array:
    """Unit vector (head_dim,) of one head's queries (s, head_dim)."""
    exact = queries.astype(np.float64)
    first = np.linalg.svd(exact, full_matrices=False)[2][0]
    return np.asarray(first if (exact @ first > 0).mean() > 0.5 else -first)
