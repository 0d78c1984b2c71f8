"""Edge: CompressKV (arXiv:2508.02401) with budgets from error curves and a part for later questions."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np

from ..errors import PolicyError
from ..method.knapsack import spend
from . import compresskv
from .allocation import Curves, Spread, Wish, uniform
from .keydiff import difference
from .layer import Array, Indices
from .needs import CURVES, KEYS
from .policy import Policy
from .probes import Window
from .scores import AttentionScore
from .selection import Candidates, Selection, top_k


def policy(
    *,
    window: int = 8,
    least: int = 4,
    later_share: float = 0.5,
    first: int = 16,
    budgets: str = "curves",
) -> Policy:
    """Our own variant of CompressKV. Each part can be taken back, to see what it is worth.

    budgets: "curves", what each layer costs the answers at several budgets, solved as a knapsack (method/knapsack.py);
    "errors", the paper's; "equal". later_share: part of the budget beside the window that goes to tokens whose keys
    differ from the others (KeyDiff, arXiv:2504.15364), whatever the question at hand: later ones may need them. first:
    tokens a layer that the question at hand gets before that. window: most recent tokens that stay, as in the paper,
    where they are no more than a quarter of the budget, else `least`, and so many score. Where one model serves several
    policies, the window is theirs at least.
    """
    return Policy(
        title="Edge",
        source="none",
        score=AttentionScore(Window(least, of_profile=True, or_fewer=True)),
        kernel=5,
        window=window,
        spread={"curves": by_curves(later_share, first), "errors": Spread(compresskv.share), "equal": uniform}[budgets],
        select=two_parts(later_share, first),
        own_window=least,
        decodes=True,
    )


def by_curves(later_share: float, first: int) -> Spread:
    """The window for each layer, the rest by the profile's error curves, for the two parts of a budget together."""

    def share(wish: Wish) -> List[float]:
        if wish.known.curves is None:
            raise PolicyError("policy 'edge' spreads its budget by error curves: give a profile that has some")
        rest = spend(*joined(wish.known.curves, later_share, first), (wish.mean - wish.window) * wish.n_layer)
        return [wish.window + n for n in rest]

    return Spread(share, needs=frozenset({CURVES}))


def joined(curves: Curves, later_share: float, first: int) -> Tuple[List[float], Array]:
    """One curve a layer: what n tokens cost the question at hand and a later one, as `for_later` divides them.

    Returns numbers of tokens (n_points,) and errors (n_layer, n_points). Between two measured numbers of tokens a curve
    is a straight line, before the first and after the last it is flat.
    """
    tokens, asked, later = np.asarray(curves[0], dtype=np.float64), curves[1], curves[2]
    parts = [part for part in (1.0 - later_share, later_share) if part > 0.0]
    points = np.unique(np.concatenate([tokens, tokens + first, *(tokens / part for part in parts)]))
    n_later = for_later(points, later_share, first)
    rows = [np.interp(points - n_later, tokens, a) + np.interp(n_later, tokens, b) for a, b in zip(asked, later)]
    return [float(n) for n in points], np.asarray(rows)


def for_later(n_tokens: Array, later_share: float, first: int) -> Array:
    """How many of n_tokens beside the window are for later questions; not whole numbers."""
    return np.asarray(np.minimum(later_share * n_tokens, np.maximum(n_tokens - first, 0)))


def two_parts(later_share: float, first: int) -> Selection:
    """The best tokens for the question at hand, and those whose keys stand out (`policy`); also for a digest."""

    def select(candidates: Candidates, k: int) -> Indices:
        n_later = round(float(for_later(np.asarray(k), later_share, first)))
        n_now = max(k - n_later, int(candidates.forced.sum()))
        now = top_k(candidates, n_now)
        if n_now == k:
            return now
        return np.sort(np.concatenate([now, _others(candidates, now, k - n_now)]))

    return Selection(select, frozenset({KEYS}))


def _others(candidates: Candidates, chosen: Indices, k: int) -> Indices:
    n_before = len(candidates.scores)
    stands_out = difference(candidates.layer, candidates.layer.n - n_before).mean(axis=0).astype(np.float32)
    stands_out[chosen] = -np.inf
    return top_k(Candidates(stands_out, candidates.forced, candidates.layer), k)
