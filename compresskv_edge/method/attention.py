"""Attention of queries to keys, and what a head's score and a layer's error need of it. Pure NumPy.

Shapes: queries (n_head, n_steps, head_dim), after RoPE; keys, values (n_head_kv, n_rows, head_dim); head h reads KV
head h // (n_head / n_head_kv). Step i sees the rows before n_visible[i]. Attention is in memory for one KV head at a
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def attention(queries: Array, keys: Array, n_visible: Array, *, softcap: float = 0.0) -> Iterator[Float32]:
    """softmax(q k^T / sqrt(head_dim)) of one KV head after the other: (group, n_steps, n_rows), rows sum to 1.

    softcap: logits become softcap * tanh(logits / softcap), as in Gemma 2; 0: they stay.
    """
    group = len(queries) // len(keys)
    hidden = np.arange(keys.shape[1]) >= np.asarray(n_visible)[:, None]
    for g, own in enumerate(keys):
        yield of_head(queries[g * group : (g + 1) * group], own, hidden, softcap=softcap)


def of_head(queries: Array, keys: Array, hidden: Array, *, softcap: float = 0.0) -> Array:
    """As `attention`, for the query heads of one KV head, in the precision of the arrays: (..., n_steps, n_rows).

    queries: (..., n_steps, head_dim). keys: (n_rows, head_dim). hidden: (n_steps, n_rows), what a step may not see.
    """
    head_dim = queries.shape[-1]
    logits = queries.reshape(-1, head_dim) @ keys.T / queries.dtype.type(np.sqrt(head_dim))
    logits = logits.reshape(*queries.shape[:-1], len(keys))
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    logits[..., hidden] = -np.inf
    return softmax(logits)


def softmax(logits: Array) -> Array:
    """Over the last axis, in the array itself; where all logits are -inf, zeros."""
    highest = logits.max(axis=-1, keepdims=True)
    logits -= np.where(np.isfinite(highest), highest, 0.0).astype(logits.dtype)
    np.exp(logits, out=logits)
    total = logits.sum(axis=-1, keepdims=True)
    logits /= np.where(total > 0.0, total, 1.0).astype(logits.dtype)
    return logits


def attend(queries: Array, keys: Array, values: Array, n_visible: Array, *, softcap: float = 0.0) -> Float32:
    """What attention hands to the output projection: (n_steps, n_head * head_dim), heads in order."""
    parts = [a @ v for a, v in zip(attention(queries, keys, n_visible, softcap=softcap), values)]
    heads = np.concatenate(parts)  # (n_head, n_steps, head_dim)
    return np.ascontiguousarray(heads.transpose(1, 0, 2).reshape(heads.shape[1], -1))


def look_at(
    queries: Array, keys: Array, n_visible: Array, span: tuple[int, int], *, softcap: float = 0.0
) -> tuple[Float32, Indices]:
    """How each head looks at the rows span[0]..span[1]-1: their attention mass, and the row that it attends to most.

    Both (n_head, n_steps).
    """
    seen = [
        (a[:, :, span[0] : span[1]].sum(axis=-1), a.argmax(axis=-1))
        for a in attention(queries, keys, n_visible, softcap=softcap)
    ]
    mass, top = (np.concatenate(parts) for parts in zip(*seen))
    return mass, top.astype(np.int64)
