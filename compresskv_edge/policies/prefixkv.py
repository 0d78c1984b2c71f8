"""PrefixKV, arXiv:2412.03409: every layer keeps the same share of its attention, with as many tokens as that takes."""

from __future__ import annotations

import numpy as np

from .allocation import Spread, Wish
from .layer import Array, Layer
from .needs import MASS
from .policy import Policy
from .probes import AllQueries
from .scores import AttentionScore

_STEPS = 60  # of the binary search: the share is then exact in float64


def policy(*, sinks: int = 4) -> Policy:
    """Tokens by the attention that they got from all queries; the share of it that fits the budget is searched.

    The paper measures the layers' numbers once on ten samples and uses them for every prompt; here they are measured on
    the prompt itself. Scores are averaged over the heads, as in the paper, and its 4 first tokens stay. It was made for
    prompts with images, the rule knows nothing of that.

    Costs: as h2o, every query is recorded.
    """
    return Policy(
        title="PrefixKV",
        source="arXiv:2412.03409",
        score=AttentionScore(AllQueries()),
        sinks=sinks,
        spread=Spread(share, shares_held, frozenset({MASS})),
    )


def shares_held(layer: Layer, window: int) -> Array:
    """Share of the attention that the best 1, 2, 3 ... tokens hold: (n,), ascending to 1."""
    best_first = -np.sort(-layer[MASS].astype(np.float64))
    return np.asarray(np.cumsum(best_first) / best_first.sum())


def share(wish: Wish) -> list[float]:
    """Tokens that each layer needs for the largest common share that the budget allows: (n_layer,)."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        within = sum(_needed(wish, middle)) <= wish.mean * wish.n_layer
        low, high = (middle, high) if within else (low, middle)
    return [float(n) for n in _needed(wish, low)]


def _needed(wish: Wish, share: float) -> list[int]:
    return [int(np.searchsorted(held, share)) + 1 for held in wish.measures]
