"""How a budget is spread over the layers: what a policy wishes, and the whole numbers that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple

import numpy as np
import numpy.typing as npt

from ..errors import BudgetError
from .layer import Layer
from .needs import NOTHING, Needs

Float64 = npt.NDArray[np.float64]
Curves = Tuple[Sequence[int], Float64, Float64]  # tokens (n_points,); errors if asked, if later: (n_layer, n_points)


@dataclass(frozen=True)
class Known:
    """What was measured before any prompt: a profile's, for the layers that can evict. Defaults are the paper's."""

    errors: Tuple[float, ...] = ()  # (n_layer,); empty: all layers are equal
    floor: int = 32  # tokens that every layer keeps at least
    cap_factor: float = 3.0  # no layer keeps more than this times the mean budget
    curves: Optional[Curves] = None


NOTHING_KNOWN = Known()


@dataclass(frozen=True)
class Wish:
    """What a spread may look at."""

    mean: int  # tokens a layer on average
    window: int  # of them, the most recent ones
    n_tokens: Tuple[int, ...]  # (n_layer,) that each layer holds
    measures: Tuple[Any, ...] = ()  # (n_layer,) what `measure` returned
    known: Known = NOTHING_KNOWN

    @property
    def n_layer(self) -> int:
        """Layers that can evict."""
        return len(self.n_tokens)


@dataclass(frozen=True)
class Spread:
    """measure: (layer, window) -> anything, before the eviction. share: wished tokens a layer, (n_layer,)."""

    share: Callable[[Wish], Sequence[float]]
    measure: Optional[Callable[[Layer, int], Any]] = None
    needs: Needs = NOTHING  # what `measure` reads of a layer, and `share` of what is known


def in_proportion(wish: Wish, weights: Sequence[float]) -> List[float]:
    """The window for each layer, and the rest of the budget in proportion to `weights`: (n_layer,).

    Weights that say nothing (all zero, or not finite) mean equal layers.
    """
    w = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(w).all() or w.sum() <= 0.0:
        w = np.ones(wish.n_layer)
    return list(wish.window + (wish.mean - wish.window) * wish.n_layer * w / w.sum())


def settle(wished: Sequence[float], total: int, low: int, high: Sequence[int]) -> List[int]:
    """Whole numbers near `wished`: sum `total`, none below `low` or above `high` (n_layer,).

    What a bound takes or gives goes in equal parts to the layers that may still move; then the largest fractions are
    rounded up, first layers first. If all layers at their highest make less than `total`, they get that.

    Raises BudgetError if the lowest make more than `total`.
    """
    top = np.asarray(high, dtype=np.float64)
    bottom = np.minimum(low, top)
    if bottom.sum() > total:
        raise BudgetError(f"{total} tokens for {len(top)} layers are fewer than {low} a layer: raise the budget")
    goal = min(float(total), float(top.sum()))
    return _round(_fill(np.clip(np.asarray(wished, dtype=np.float64), bottom, top), goal, bottom, top), int(goal), top)


def _fill(x: Float64, goal: float, bottom: Float64, top: Float64) -> Float64:
    for _ in range(2 * len(x) + 2):  # every round but the last takes a layer to a bound
        missing = goal - x.sum()
        free = x < top if missing > 0 else x > bottom
        if abs(missing) < 1e-9 or not free.any():
            break
        x = np.clip(x + free * (missing / free.sum()), bottom, top)
    return x


def _round(x: Float64, goal: int, top: Float64) -> List[int]:
    whole = np.floor(x + 1e-9)
    order = np.argsort(-(x - whole), kind="stable")
    for layer in [layer for layer in order if whole[layer] < top[layer]][: goal - int(whole.sum())]:
        whole[layer] += 1
    return [int(value) for value in whole]


uniform = Spread(lambda wish: [wish.mean] * wish.n_layer)
