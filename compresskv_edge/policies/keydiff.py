"""KeyDiff, arXiv:2504.15364: keys that differ from the mean key."""

from __future__ import annotations

import numpy as np

from .layer import Array, Layer
from .needs import KEYS
from .policy import Policy
from .scores import Rule


def policy() -> Policy:
    """Minus the cosine between a key and the mean of the normalised keys. No attention is computed.

    The paper selects per KV head and evicts block by block while the prompt is read, and the anchor is that of the
    tokens in the cache; here cosines are averaged over the KV heads and the prompt is read in full first.
    """
    return Policy(title="KeyDiff", source="arXiv:2504.15364", score=Rule(difference, frozenset({KEYS})), decodes=True)


def difference(layer: Layer, window: int) -> Array:
    """(G, n - window)."""
    keys = layer[KEYS].astype(np.float64)
    unit = keys / np.maximum(np.linalg.norm(keys, axis=-1, keepdims=True), 1e-12)
    anchor = unit.mean(axis=1, keepdims=True)
    anchor /= np.maximum(np.linalg.norm(anchor, axis=-1, keepdims=True), 1e-12)
    return np.asarray(-(unit * anchor).sum(axis=-1)[:, : layer.n - window])
