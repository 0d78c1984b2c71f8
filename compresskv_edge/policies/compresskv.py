"""CompressKV, arXiv:2508.02401: the semantic retrieval heads decide, layers get budgets by their measured error."""

from __future__ import annotations

import numpy as np

from ..method.budget import allocate
from ..method.scoring import window_attention
from .allocation import Spread, Wish
from .layer import Array, Layer
from .policy import Policy


def policy() -> Policy:
    """Attention of the window (8) through the profile's retrieval heads (4 a layer), average pooling (5).

    Window, kernel and pooling are the profile's. The library scores; scoring.py and budget.py of ../method are its
    statement, to which this one is equal.
    """
    return Policy(
        title="CompressKV",
        source="arXiv:2508.02401",
        score=score,
        kernel=5,
        spread=Spread(share),
        recent=8,
        heads="profile",
        native=True,
    )


def score(layer: Layer, window: int) -> Array:
    """(n_heads, n - window)."""
    queries = layer.queries[:, -window:]
    heads = layer.heads or range(layer.n_head)
    return np.stack([window_attention(queries, layer.k, head).sum(axis=0)[: layer.n - window] for head in heads])


def share(wish: Wish) -> list[float]:
    """The paper's allocation by the profile's layer errors, no layer beyond the prompt: (n_layer,)."""
    settings = wish.settings
    cap = max(min(round(settings.cap_factor * wish.mean), max(wish.n_tokens)), wish.mean)
    errors = wish.errors or [1.0] * wish.n_layer
    return [float(n) for n in allocate(errors, wish.mean, floor=settings.floor, cap=cap)]
