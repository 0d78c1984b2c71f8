"""A policy: a score x how scores are pooled x how the budget is spread over layers x which tokens it selects.

A score of attention is made of a probe (whose queries) and a row (what they make of a token): probes.py, scores.py.
Each part says what it needs, the policy needs their union. All of it is pure: arrays in, indices out. This statement in
NumPy is the specification; the runtime applies it.
Tokens are shared by all KV heads of a layer, as in CompressKV: where a paper selects per head, its scores are averaged
over the heads, and the policy's docstring says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, List, Literal, Optional

import numpy as np
import numpy.typing as npt

from ..errors import BudgetError
from ..method.scoring import pool
from .allocation import NOTHING_KNOWN, Known, Spread, Wish, settle, uniform
from .layer import Bools, Indices, Layer
from .merging import Merge
from .needs import Needs, union
from .scores import Scorer
from .selection import Candidates, Selection, top_k

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Policy:
    """One method of the field, named as in its paper. Build it in a file of its own, add it to registry.py."""

    title: str
    source: str  # "arXiv:2404.14469"
    score: Scorer
    kernel: int = 1  # pooling kernel, odd; 1: none
    pooling: Literal["avg", "max"] = "avg"
    spread: Spread = uniform
    select: Selection = top_k
    reuse: int = 1  # neighbouring layers that share one selection
    merge: Optional[Merge] = None  # evicted rows go into kept ones, see merging.py
    window: int = 1  # most recent tokens that always stay, where the budget allows it
    window_share: float = 0.25  # of the budget, at most, goes to the window
    own_window: int = 0  # the library's window where it serves this policy alone, shorter than the profile's; 0: that
    sinks: int = 0  # first tokens that always stay
    decodes: bool = False  # the paper evicts while decoding as well
    evicts: bool = True

    @property
    def needs(self) -> Needs:
        """What its parts read: of a layer, and of what is known."""
        return union([self.score.needs, self.spread.needs, self.select.needs])

    @property
    def native(self) -> bool:
        """csrc/graph/score.cpp and csrc/core/select.cpp do the same, each layer by itself."""
        alone = self.reuse == 1 and self.spread.measure is None
        return self.score.native and alone and self.select is top_k and not self.sinks

    def window_of(self, mean: int, window: int) -> int:
        """Tokens at the end that stay for a mean budget, never fewer than the library's own `window`."""
        return max(window, min(self.window, int(mean * self.window_share)))

    def scores(self, layer: Layer, window: int) -> Float32:
        """Score of every token before the window: (n - window,)."""
        rows = self.score(layer, window)
        pooled = rows if self.kernel == 1 else pool(rows, self.kernel, self.pooling)
        scores: Float32 = np.asarray(pooled, dtype=np.float64).mean(axis=0).astype(np.float32)
        return scores

    def budgets(
        self,
        layers: Iterable[Layer],
        n_tokens: Sequence[int],
        mean: int,
        *,
        window: int,
        known: Known = NOTHING_KNOWN,
        n_protected: int = 0,
    ) -> List[int]:
        """Tokens for each layer: (n_layer,), `mean` on average, or all that there are.

        layers: read only if the policy measures them. n_tokens: (n_layer,) that each layer holds. window: the
        library's. n_protected: tokens that every layer must have room for beside its window. Raises BudgetError.
        """
        if sum(n_tokens) <= mean * len(n_tokens):
            return list(n_tokens)
        own = self._room(mean, window, n_protected)
        measure = self.spread.measure
        measures = () if measure is None else tuple(measure(layer, min(own, layer.n)) for layer in layers)
        low = max(min(own + 1, mean), own + n_protected)
        wish = Wish(mean, own, tuple(n_tokens), measures, known)
        return settle(self.spread.share(wish), mean * len(n_tokens), low, n_tokens)

    def keep(self, layer: Layer, budget: int, mean: int, *, window: int) -> Indices:
        """Ascending indices of the tokens that a layer keeps: (min(budget, n),).

        mean: the mean budget, which the window depends on. window: the library's, whose tokens must stay.

        Raises BudgetError if the protected tokens and the window do not fit.
        """
        if layer.n <= budget:
            return np.arange(layer.n, dtype=np.int64)
        n_protected = 0 if layer.protected is None else int(layer.protected.sum())
        own = min(self._room(mean, window, n_protected), budget)
        forced = self._forced(layer, own, budget)
        scores = np.where(forced, np.float32(np.inf), self.scores(layer, own))
        k = budget - own
        chosen = self.select(Candidates(scores, forced, layer), k) if k > 0 else np.empty(0, dtype=np.int64)
        return np.concatenate([chosen, np.arange(layer.n - own, layer.n, dtype=np.int64)])

    def _room(self, mean: int, window: int, n_protected: int) -> int:
        """Tokens at the end that stay: fewer where the protected ones need the room."""
        return max(window, min(self.window_of(mean, window), mean - n_protected))

    def _forced(self, layer: Layer, window: int, budget: int) -> Bools:
        """Tokens before the window that stay whatever their score: the protected ones, then as many sinks as fit."""
        n_before = layer.n - window
        forced = np.zeros(n_before, dtype=bool) if layer.protected is None else layer.protected[:n_before].copy()
        n_free = budget - window - int(forced.sum())
        if n_free < 0:
            raise BudgetError(
                f"budget of layer {layer.index} is {budget} tokens, less than the {int(forced.sum())} protected tokens "
                f"and the window of {window}: raise the budget or protect fewer tokens"
            )
        sinks = np.flatnonzero((layer.positions[:n_before] < self.sinks) & ~forced)[:n_free]
        forced[sinks] = True
        return forced

    def keep_all(self, layers: Iterable[Layer], budgets: Sequence[int], mean: int, *, window: int) -> List[Indices]:
        """`keep` for all layers; each selection serves `reuse` neighbouring layers of the same budget."""
        kept: List[Indices] = []
        last: Any = None
        for i, (layer, budget) in enumerate(zip(layers, budgets)):
            if i % self.reuse == 0 or last is None or last != (budget, layer.n):
                kept.append(self.keep(layer, budget, mean, window=window))
            else:
                kept.append(kept[-1])
            last = (budget, layer.n)
        return kept
