"""TreeKV, arXiv:2501.04987: of two neighbours the weaker leaves: dense near the end, sparse far back."""

from __future__ import annotations

import numpy as np

from .layer import Array, Indices, Layer
from .needs import MASS
from .policy import Policy
from .scores import Rule
from .selection import Candidates, Selection


def policy() -> Policy:
    """Tokens come in one by one. Each beyond the budget makes one of a pair leave: the one with less attention per
    query that saw it. The pair moves on by one place each time and starts again at the oldest when it meets the end.

    The paper's scores are those of the moment; here the tokens run through with the scores of the end, because the
    prompt is read in full first. It selects per head; here the attention is averaged over the heads. While decoding,
    the pair goes on where the number of tokens evicted so far puts it.

    Costs: as h2o, every query is recorded.
    """
    return Policy(
        title="TreeKV",
        source="arXiv:2501.04987",
        score=Rule(mean_attention, frozenset({MASS})),
        select=Selection(select),
        decodes=True,
    )


def mean_attention(layer: Layer, window: int) -> Array:
    """Attention per query that could see the token: (1, n - window)."""
    n_queries = layer.n_seen - layer.positions
    return (layer[MASS] / n_queries)[None, : layer.n - window]


def select(candidates: Candidates, k: int) -> Indices:
    """The k that are left after the pairs."""
    scores = candidates.scores
    alive = list(range(min(k, len(scores))))
    place = candidates.layer.n_seen - candidates.layer.n  # evicted so far
    for new in range(k, len(scores)):
        alive.append(new)
        left = place % k
        weaker = left if scores[alive[left]] < scores[alive[left + 1]] else left + 1
        while candidates.forced[alive[weaker]]:
            weaker = (weaker + 1) % len(alive)
        del alive[weaker]
        place += 1
    return np.asarray(alive, dtype=np.int64)
