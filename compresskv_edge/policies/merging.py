"""The merge option: what is evicted is not lost but mixed into the kept token that is most like it.

Evict-then-merge is the idea of EMS (arXiv:2412.08521) and ZeroMerge (arXiv:2503.10714). Both work per head, and so do
we: tokens are shared by the heads of a layer, but each KV head mixes its own rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def merge(k: Array, v: Array, kept: Indices, *, threshold: float = 0.6, n_recent: int = 0) -> tuple[Float32, Float32]:
    """Keys and values of the kept tokens, the evicted ones mixed in: (G, n_kept, head_dim), (G, n_kept, head_dim_v).

    k: (G, n, head_dim) after RoPE, v: (G, n, head_dim_v), kept: (n_kept,) ascending. Every evicted row joins the kept
    row whose key has the largest cosine with its own, if that is `threshold` or more, else it is lost (EMS's class
    of zeros). A row and those that joined it become their mean: each counts once (ZeroMerge's weights). The last
    `n_recent` kept rows stay as they are. The positions of mixed keys are those of the kept ones.

    Where we differ: EMS selects and weighs by its own scores, ZeroMerge adds the logarithm of a row's count to its
    logits, a bias that llama.cpp's attention does not take for each layer.
    """
    evicted = np.setdiff1d(np.arange(k.shape[1]), kept)
    targets = len(kept) - n_recent
    heads = [_merge_head(*rows, kept, evicted, targets, threshold) for rows in zip(_wide(k), _wide(v))]
    mixed_k, mixed_v = zip(*heads)
    return np.stack(mixed_k).astype(np.float32), np.stack(mixed_v).astype(np.float32)


def _wide(rows: Array) -> Array:
    return rows.astype(np.float64)


def _merge_head(
    k: Array, v: Array, kept: Indices, evicted: Indices, targets: int, threshold: float
) -> tuple[Array, Array]:
    """One KV head: k (n, head_dim), v (n, head_dim_v)."""
    new_k, new_v, count = k[kept], v[kept], np.ones((len(kept), 1))
    if targets > 0 and len(evicted):
        cosine = _unit(k[evicted]) @ _unit(k[kept[:targets]]).T
        nearest = cosine.argmax(axis=1)
        joins = cosine[np.arange(len(evicted)), nearest] >= threshold
        where, rows = nearest[joins], evicted[joins]
        np.add.at(new_k, where, k[rows])
        np.add.at(new_v, where, v[rows])
        np.add.at(count, where, 1.0)
    return new_k / count, new_v / count


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))
