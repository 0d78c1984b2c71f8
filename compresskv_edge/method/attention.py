"""Attention of a few queries to many keys, and what a head's score and a layer's error need of it. Pure NumPy.

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
    n_head, n_steps, head_dim = queries.shape
    n_head_kv, n_rows, _ = keys.shape
    group = n_head // n_head_kv
    hidden = np.arange(n_rows) >= np.asarray(n_visible)[:, None]
    for g in range(n_head_kv):
        rows = queries[g * group : (g + 1) * group].reshape(group * n_steps, head_dim)
        logits = (rows @ keys[g].T / np.float32(np.sqrt(head_dim))).reshape(group, n_steps, n_rows)
        if softcap:
            logits = softcap * np.tanh(logits / softcap)
        logits[:, hidden] = -np.inf
        logits -= logits.max(axis=-1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=-1, keepdims=True)
        yield logits


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
