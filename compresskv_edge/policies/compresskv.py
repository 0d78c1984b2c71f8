"""CompressKV, arXiv:2508.02401: the semantic retrieval heads decide, layers get budgets by their measured error."""

from __future__ import annotations

from ..method.budget import allocate
from .allocation import Spread, Wish
from .policy import Policy
from .probes import Window
from .scores import AttentionScore


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
    )


score = AttentionScore(Window(8, of_profile=True))


def share(wish: Wish) -> list[float]:
    """The paper's allocation by the profile's layer errors, no layer beyond the prompt: (n_layer,)."""
    known = wish.known
    cap = max(min(round(known.cap_factor * wish.mean), max(wish.n_tokens)), wish.mean)
    errors = known.errors or [1.0] * wish.n_layer
    return [float(n) for n in allocate(errors, wish.mean, floor=known.floor, cap=cap)]
