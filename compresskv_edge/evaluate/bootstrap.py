"""Confidence intervals by resampling prompts (percentile bootstrap, Efron 1979), with a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

N_DRAWS = 2000
LEVEL = 0.95

_SEED = 2508
_BLOCK = 1 << 22  # numbers drawn at a time


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean. One value has none: (value, value)."""
    low, high = np.quantile(_means(np.asarray(values, dtype=np.float64)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired(values: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """(mean difference, low, high) of values - base, prompt by prompt."""
    differences = np.asarray(values, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    return (float(differences.mean()), *interval(list(differences)))


def ratio(values: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """(mean of values / mean of base, low, high), prompts drawn together; NaN where base is 0 throughout."""
    a, b = _means(np.asarray(values, dtype=np.float64)), _means(np.asarray(base, dtype=np.float64))
    if not np.any(np.asarray(base)):
        return float("nan"), float("nan"), float("nan")
    quotients = a[b > 0] / b[b > 0]
    low, high = np.quantile(quotients, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.mean(values) / np.mean(base)), float(low), float(high)


def _means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of N_DRAWS resamples: (N_DRAWS,). The same draws for every call of the same length, so that pairs stay."""
    rng = np.random.default_rng(_SEED)
    n = len(values)
    per_block = max(_BLOCK // n, 1)
    blocks = (min(per_block, N_DRAWS - start) for start in range(0, N_DRAWS, per_block))
    return np.concatenate([values[rng.integers(0, n, size=(rows, n))].mean(axis=1) for rows in blocks])
