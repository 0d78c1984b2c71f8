"""How much the rows of a cache stand for after merging (policies/merging.py)."""

from __future__ import annotations

from typing import Dict, Tuple

import numpy as np
import numpy.typing as npt

from ..policies.layer import Indices

Float64 = npt.NDArray[np.float64]


class RowCounts:
    """Rows that each row of a layer stands for, by the positions that they had when it was written down."""

    def __init__(self) -> None:
        self._known: Dict[int, Tuple[Indices, Float64]] = {}  # positions (n,), counts (n_head_kv, n)

    def of(self, il: int, positions: Indices, n_head_kv: int) -> Float64:
        """Of the rows of a layer at these positions: (n_head_kv, n), one where nothing joined."""
        counts = np.ones((n_head_kv, len(positions)))
        if il in self._known:
            known_at, known = self._known[il]
            _, here, there = np.intersect1d(positions, known_at, assume_unique=True, return_indices=True)
            counts[:, here] = known[:, there]
        return counts

    def set(self, il: int, positions: Indices, counts: Float64) -> None:
        """All that the layer holds now: positions (n,), counts (n_head_kv, n)."""
        self._known[il] = positions, counts
