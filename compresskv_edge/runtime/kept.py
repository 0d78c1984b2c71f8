"""Which tokens a cache holds, as a share of its layers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .llama import Llama


def kept_share(llm: Llama) -> npt.NDArray[np.float64]:
    """Share of the compressible layers that hold each position: (n_tokens,); all 1 for a full cache."""
    compression = llm._compression
    if compression is None:
        return np.ones(llm.n_tokens)
    layers = [i for i, layer in enumerate(compression.layers) if layer.evictable]
    held = np.zeros(llm.n_tokens)
    for layer in layers:
        positions = llm.kv_kept(layer)
        held[positions[positions < llm.n_tokens]] += 1
    return held / max(len(layers), 1)
