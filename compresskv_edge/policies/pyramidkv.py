"""PyramidKV, arXiv:2406.02069: SnapKV's scores, budgets that fall with depth."""

from __future__ import annotations

from typing import List, Literal

import numpy as np

from .allocation import Spread, Wish
from .policy import Policy
from .probes import Window
from .scores import AttentionScore


def policy(*, beta: float = 20.0, window: int = 8, kernel: int = 7, pooling: Literal["avg", "max"] = "max") -> Policy:
    """Budgets fall in equal steps from the first layer to the last, which gets 1/beta of the mean (beside the window).

    Defaults as in the authors' code. Heads are averaged, as for snapkv, and scores are computed in the library as
    well. PyramidInfer (arXiv:2405.12532) has the same shape of budgets.
    """
    return Policy(
        title="PyramidKV",
        source="arXiv:2406.02069",
        score=AttentionScore(Window(window)),
        kernel=kernel,
        pooling=pooling,
        window=window,
        spread=Spread(lambda wish: pyramid(wish, beta)),
    )


def pyramid(wish: Wish, beta: float) -> List[float]:
    """Tokens a layer: (n_layer,). A first layer that would get more than the prompt gets the prompt, the last more."""
    base = wish.mean - wish.window
    last = base / beta
    first = 2 * base - last
    n_before = max(wish.n_tokens) - wish.window
    if first > n_before:
        first, last = n_before, 2 * base - n_before
    return list(wish.window + np.linspace(first, last, wish.n_layer)) if wish.n_layer > 1 else [wish.mean]
