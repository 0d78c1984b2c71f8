"""CAKE, arXiv:2503.12491: attention that is strong or changes, budgets by how spread and how restless a layer looks."""

from __future__ import annotations

import math

import numpy as np

from .allocation import Spread, Wish, in_proportion
from .layer import Array, Layer
from .policy import Policy
from .probes import Window
from .scores import AttentionScore


def policy(*, gamma: float = 200.0, tau1: float = 1.0, tau2: float = 1.0, window: int = 32, kernel: int = 5) -> Policy:
    """Mean plus gamma times variance of the window's attention, average pooling; budgets in proportion to
    (entropy of the attention)^(1/tau1) x (its variance over the queries)^(1/tau2), measured on this prompt.

    The paper tunes tau1 and tau2 for each model and budget (Llama 3.1: 1.6 and 0.4 at 1024 tokens); 1 and 1 are not
    tuned. It selects per KV head and evicts while the prompt is read (its cascade, which ends with the same tokens);
    here heads are averaged and the eviction comes at the end of the prompt.
    """

    probe = Window(window)

    def strong_or_changing(attention: Array) -> Array:
        return np.asarray(attention.mean(axis=0) + gamma * _variance(attention))

    def share(wish: Wish) -> list[float]:
        return in_proportion(wish, [_power(h, tau1) * _power(v, tau2) for h, v in wish.measures])

    return Policy(
        title="CAKE",
        source="arXiv:2503.12491",
        score=AttentionScore(probe, strong_or_changing),
        kernel=kernel,
        window=window,
        spread=Spread(share, preference, probe.needs),
    )


def preference(layer: Layer, window: int) -> tuple[float, float]:
    """Entropy and variance of the window's attention to the tokens before it, each summed over heads and tokens."""
    n_before = layer.n - window
    entropy = variance = 0.0
    for attention in layer.attention(window):
        before = attention[:, :n_before]
        entropy -= float((before * np.log(before + 1e-10)).sum())
        variance += float(_variance(before).sum())
    return entropy, variance


def _power(value: float, tau: float) -> float:
    return math.pow(max(value, 0.0), 1.0 / tau)


def _variance(attention: Array) -> Array:
    """Over the queries, unbiased; zero for one query."""
    n = attention.shape[0]
    return np.asarray(attention.var(axis=0, ddof=1) if n > 1 else np.zeros(attention.shape[1]))
