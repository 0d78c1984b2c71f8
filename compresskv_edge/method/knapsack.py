"""Budgets from error curves: what each layer loses with few tokens, and one total to spend. Pure NumPy.

Shapes: tokens (n_points,) ascending, kept beside the window; errors (n_layer, n_points).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, List, Tuple

import numpy as np
import numpy.typing as npt

Point = Tuple[float, float]  # tokens, error
Segment = Tuple[float, int, float]  # error saved by a token, layer, tokens


# of the largest error: a curve that is no further than this from its end is flat, the rest is noise
NOISE = 0.05


def spend(tokens: Sequence[float], errors: npt.NDArray[Any], total: float, *, noise: float = NOISE) -> List[float]:
    """Tokens for each layer, `total` in all, that make the sum of the errors least: (n_layer,).

    Each curve is replaced by the lower edge of its convex hull, so that no token saves more than the one before it.
    Then the best token is always the next one of the steepest curve, which solves the knapsack. Each layer begins with
    the tokens of the first point. What is left when all curves are flat goes to the layers half in proportion to what
    they had to lose (longer texts with more in them need more of the same), half in equal parts.
    """
    hulls = [_hull(tokens, row) for row in _without_noise(errors, noise)]
    segments = [segment for layer, hull in enumerate(hulls) for segment in _segments(layer, hull)]
    first = min(float(tokens[0]), total / len(errors))
    spent, left = np.full(len(errors), first), total - first * len(errors)
    for _, layer, n_tokens in sorted(segments, key=lambda segment: -segment[0]):  # stable: first layers first
        part = min(n_tokens, left)
        spent[layer] += part
        left -= part
    lost = np.asarray([hull[0][1] - hull[-1][1] for hull in hulls])
    equal = np.full(len(errors), 1 / len(errors))
    shares = (equal + lost / lost.sum()) / 2 if lost.any() else equal
    return [float(n) for n in spent + max(left, 0.0) * shares]


def _without_noise(errors: npt.NDArray[Any], noise: float) -> npt.NDArray[Any]:
    """An error that more tokens made larger is noise, and so is the last bit of a curve."""
    falling = np.minimum.accumulate(np.asarray(errors, dtype=np.float64), axis=1)
    ends = falling[:, -1:]
    return np.asarray(np.where(falling - ends <= noise * falling.max(), ends, falling))


def _hull(tokens: Sequence[float], errors: npt.NDArray[Any]) -> List[Point]:
    """Lower convex edge of a curve that falls."""
    hull: List[Point] = []
    for point in zip(map(float, tokens), map(float, errors)):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: Point, b: Point) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _segments(layer: int, hull: Sequence[Point]) -> List[Segment]:
    pairs = zip(hull, hull[1:])
    return [(-_slope(a, b), layer, b[0] - a[0]) for a, b in pairs if b[1] < a[1]]
