"""Merging at work: what is evicted goes into the kept rows of the cache (policies/merging.py is the statement)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import native
from ..policies.layer import Bools, Indices
from ..policies.merging import Merge, Merged, merge
from .row_counts import RowCounts


@dataclass(frozen=True)
class Fixed:
    """Kept rows that nothing joins."""

    protected: Indices  # positions
    sinks: int  # first positions
    window: int  # last rows

    def of(self, positions: Indices) -> Bools:
        """Which of the kept rows at these positions, ascending: (n_kept,)."""
        stays = np.isin(positions, self.protected) | (positions < self.sinks)
        stays[-self.window :] = True
        return stays


def merged_rows(
    llm: Any, il: int, shape: native.LayerShape, kept: Indices, n: int, options: Merge, fixed: Fixed, counts: RowCounts
) -> Merged:
    """What the kept rows of layer il become: indices (n_kept,) of its first n rows. Nothing changes yet."""
    positions = native.positions(llm.ctx, il)[:n]
    keys, values = native.read_kv(llm.ctx, il, shape)
    count = counts.of(il, positions, shape.n_head_kv)
    return merge(keys[:, :n], values[:, :n], kept, options, fixed=fixed.of(positions[kept]), count=count)


def write_merged(llm: Any, il: int, shape: native.LayerShape, merged: Merged, counts: RowCounts) -> None:
    """After the eviction: the rows that changed, and how much all of them stand for."""
    rows = merged.changed
    native.write_kv(llm.ctx, il, shape, rows, merged.k[:, rows], merged.v[:, rows])
    counts.set(il, native.positions(llm.ctx, il), merged.count)
