"""The merge option: what is evicted is not lost but mixed into the kept token that is most like it.

Evict-then-merge is the idea of EMS (arXiv:2412.08521) and ZeroMerge (arXiv:2503.10714, later ZSMerge). Both work per
head, and so do we: tokens are shared by the heads of a layer, but each KV head mixes its own rows.

Positions: keys are mixed as the cache holds them, after RoPE, and the mixed key stays at the kept token's position.
The code that ZeroMerge's authors published does the same: keys go into its cache after the rotation. So a row joins
where content and distance agree; equal tokens far apart have keys that were turned apart.

Where we differ: EMS weighs by its own scores; ZeroMerge merges one row at a time, into the row of the largest dot
product, and adds the logarithm of a row's count to its logits, a bias that llama.cpp's attention does not take for each
layer. Without it a kept row answers as one token for all that it has taken up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional, Tuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_BLOCK = 1024  # evicted rows that look for their kept one at once


@dataclass(frozen=True)
class Merge:
    """Options of "+merge": "snapkv+merge:threshold=0.8:strength=0.5"."""

    threshold: float = 0.6  # of the cosine of two keys; below it an evicted row is lost
    strength: float = 1.0  # what an evicted row counts beside a kept one


@dataclass(frozen=True)
class Merged:
    """Rows of the kept tokens with the evicted ones in them. G KV heads."""

    k: Float32  # (G, n_kept, head_dim)
    v: Float32  # (G, n_kept, head_dim_v)
    count: Float64  # (G, n_kept) rows that each stands for
    changed: Indices  # (m,) kept rows that took something up, in some head


def merge(
    k: Array,
    v: Array,
    kept: Indices,
    options: Merge = Merge(),
    *,
    fixed: Optional[Bools] = None,
    count: Optional[Array] = None,
) -> Merged:
    """The statement.

    k: (G, n, head_dim) after RoPE, v: (G, n, head_dim_v), kept: (n_kept,) ascending. Every evicted row joins the kept
    row whose key has the largest cosine with its own, if that is `threshold` or more, else it is lost (EMS's class
    of zeros). A row and those that joined it become their mean, weighted by the rows that each stands for
    (ZeroMerge's weights): count (G, n), None: one each; an evicted one counts `strength` of that. Nothing joins a
    `fixed` row (n_kept,).
    """
    free = np.flatnonzero(np.ones(len(kept), dtype=bool) if fixed is None else ~fixed)
    evicted = np.setdiff1d(np.arange(k.shape[1]), kept)
    counts = np.ones(k.shape[:2]) if count is None else count
    heads = [_merge_head(*rows, kept, evicted, free, options) for rows in zip(k, v, counts)]
    mixed_k, mixed_v, new = (np.stack(parts) for parts in zip(*heads))
    changed = np.flatnonzero((new != counts[:, kept]).any(axis=0))
    return Merged(mixed_k.astype(np.float32), mixed_v.astype(np.float32), new, changed)


def _merge_head(
    k: Array, v: Array, count: Array, kept: Indices, evicted: Indices, free: Indices, options: Merge
) -> Tuple[Array, Array, Array]:
    """One KV head: k (n, head_dim), v (n, head_dim_v), count (n,)."""
    total = count[kept].astype(np.float64)
    sum_k, sum_v = (total[:, None] * rows[kept] for rows in (k, v))
    for rows, where in _joins(k, kept[free], evicted, options.threshold):
        weight = options.strength * count[rows]
        np.add.at(sum_k, free[where], weight[:, None] * k[rows])
        np.add.at(sum_v, free[where], weight[:, None] * v[rows])
        np.add.at(total, free[where], weight)
    return sum_k / total[:, None], sum_v / total[:, None], total


def _joins(k: Array, targets: Indices, evicted: Indices, threshold: float) -> Iterator[Tuple[Indices, Indices]]:
    """Evicted rows that join, and which of the targets each does."""
    if not len(targets):
        return
    to = _unit(k[targets])
    for at in range(0, len(evicted), _BLOCK):
        rows = evicted[at : at + _BLOCK]
        cosine = _unit(k[rows]) @ to.T
        nearest = cosine.argmax(axis=1)
        joins = cosine[np.arange(len(rows)), nearest] >= threshold
        yield rows[joins], nearest[joins]


def _unit(rows: Array) -> Float64:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12))
