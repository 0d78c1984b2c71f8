"""Knorm, arXiv:2406.11430: short keys are the ones that are attended to."""

from __future__ import annotations

import numpy as np

from .layer import Array, Layer
from .needs import KEYS
from .policy import Policy
from .scores import Rule


def policy() -> Policy:
    """Minus the length of a key. No attention is computed.

    The paper selects per KV head and leaves the first two layers whole; here lengths are averaged over the KV heads
    and all layers are equal, because all policies get the same number of tokens.
    """
    return Policy(title="Knorm", source="arXiv:2406.11430", score=Rule(shortness, frozenset({KEYS})), decodes=True)


def shortness(layer: Layer, window: int) -> Array:
    """(G, n - window)."""
    return np.asarray(-np.linalg.norm(layer[KEYS][:, : layer.n - window].astype(np.float64), axis=-1))
