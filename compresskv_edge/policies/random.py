"""Random: the floor. A method that does not beat it knows nothing."""

from __future__ import annotations

import numpy as np

from .layer import Array, Layer
from .policy import Policy
from .scores import Rule


def policy(*, seed: int = 0) -> Policy:
    """Any tokens before the library's window, others in each layer; the same ones for the same seed and length."""

    def score(layer: Layer, window: int) -> Array:
        return np.random.default_rng([seed, layer.index, layer.n_seen]).random((1, layer.n - window))

    return Policy(title="Random", source="none", score=Rule(score), decodes=True)
