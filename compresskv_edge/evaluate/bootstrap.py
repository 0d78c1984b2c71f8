"""Confidence intervals by resampling prompts (percentile bootstrap, Efron 1979), with a fixed seed.

Prompts of one document are no independent draws: with `groups`, a name for each value, whole groups are drawn.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Optional

import numpy as np
import numpy.typing as npt

N_DRAWS = 2000
LEVEL = 0.95

_SEED = 2508
_BLOCK = 1 << 22  # numbers drawn at a time


Groups = Optional[Sequence[Hashable]]


def interval(values: Sequence[float], groups: Groups = None) -> tuple[float, float]:
    """95 % interval of the mean. One value, or one group, has none: (mean, mean)."""
    means = _means(np.asarray(values, dtype=np.float64), groups)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired(values: Sequence[float], base: Sequence[float], groups: Groups = None) -> tuple[float, float, float]:
    """(mean difference, low, high) of values - base, prompt by prompt."""
    differences = np.asarray(values, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    return (float(differences.mean()), *interval(list(differences), groups))


def ratio(values: Sequence[float], base: Sequence[float], groups: Groups = None) -> tuple[float, float, float]:
    """(mean of values / mean of base, low, high), prompts drawn together; NaN where base is 0 throughout."""
    a, b = (_means(np.asarray(each, dtype=np.float64), groups) for each in (values, base))
    if not np.any(np.asarray(base)):
        return float("nan"), float("nan"), float("nan")
    quotients = a[b > 0] / b[b > 0]
    low, high = np.quantile(quotients, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.mean(values) / np.mean(base)), float(low), float(high)


def _means(values: npt.NDArray[np.float64], groups: Groups) -> npt.NDArray[np.float64]:
    """Means of N_DRAWS resamples: (N_DRAWS,). The same draws for every call of the same groups, so that pairs stay."""
    names = range(len(values)) if groups is None else groups
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    member = [number[name] for name in names]
    sums, sizes = np.bincount(member, weights=values), np.bincount(member)
    rng = np.random.default_rng(_SEED)
    n = len(sums)
    per_block = max(_BLOCK // n, 1)
    blocks = (min(per_block, N_DRAWS - start) for start in range(0, N_DRAWS, per_block))
    draws = (rng.integers(0, n, size=(rows, n)) for rows in blocks)
    return np.concatenate([sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1) for drawn in draws])
