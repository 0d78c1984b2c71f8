"""Which of the scored tokens stay: the best ones, or the best groups of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import numpy as np
import numpy.typing as npt

from ..method.topk import top_k_indices
from .layer import Bools, Indices, Layer
from .needs import NOTHING, Needs

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidates:
    """The tokens of a layer before its window, in order of position."""

    scores: Float32  # (n_before,), infinite where forced
    forced: Bools  # (n_before,) must be chosen
    layer: Layer


@dataclass(frozen=True)
class Selection:
    """A way to choose k of the candidates: their ascending indices (k,)."""

    choose: Callable[[Candidates, int], Indices]
    needs: Needs = NOTHING  # beside what the score reads

    def __call__(self, candidates: Candidates, k: int) -> Indices:
        """See `choose`."""
        return self.choose(candidates, k)


def highest(candidates: Candidates, k: int) -> Indices:
    """The k highest scores; ties as in the library (topk.py)."""
    return top_k_indices(candidates.scores, k)


top_k = Selection(highest)


def whole_groups(candidates: Candidates, k: int, group: Indices) -> Indices:
    """Whole groups in order of their mean score, as many as fit; then the best single tokens.

    group: (n_before,) of each candidate. Forced tokens come first and count in the scores of no group.
    """
    chosen = candidates.forced.copy()
    free = ~chosen
    values = np.where(free, candidates.scores, 0.0).astype(np.float64)
    names, member = np.unique(group, return_inverse=True)
    size = np.bincount(member, weights=free, minlength=len(names))
    mean = np.bincount(member, weights=values, minlength=len(names)) / np.maximum(size, 1)
    for name in np.argsort(-mean, kind="stable"):
        n_left = k - int(chosen.sum())
        inside = free & (member == name)
        if inside.sum() > n_left:
            break
        chosen |= inside
    return _fill_up(candidates.scores, chosen, k)


def _fill_up(scores: Float32, chosen: Bools, k: int) -> Indices:
    rest = np.flatnonzero(~chosen)
    best = rest[top_k_indices(scores[rest], k - int(chosen.sum()))]
    return np.sort(np.concatenate([np.flatnonzero(chosen), best])).astype(np.int64)
