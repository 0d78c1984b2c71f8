"""The interval of a share of right answers."""

from __future__ import annotations

import math


def wilson(n_right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 % by default: (low, high)."""
    if n == 0:
        return 0.0, 1.0
    p, denominator = n_right / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / denominator
    half = z / denominator * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def shares(n_right: int, n: int) -> dict[str, float]:
    """How many of n are right, as it stands in the files of results: rounded, with the interval."""
    low, high = wilson(n_right, n)
    rounded = {name: round(value, 4) for name, value in (("accuracy", n_right / n), ("low", low), ("high", high))}
    return {"n": n, "n_right": n_right, **rounded}
