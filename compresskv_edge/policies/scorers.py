"""Scores that several methods share. Each is (layer, window) -> (n_rows, n - window): rows are heads."""

from __future__ import annotations

import numpy as np

from .layer import Array, Layer


def window_attention(layer: Layer, window: int) -> Array:
    """Attention of the window's queries to the tokens before it, summed over the queries: (H, n - window)."""
    n_before = layer.n - window
    return np.stack([attention.sum(axis=0)[:n_before] for attention in layer.attention(window)])


def last_attention(layer: Layer, window: int) -> Array:
    """Attention of the last token's query to the tokens before the window: (H, n - window)."""
    n_before = layer.n - window
    return np.stack([attention[0, :n_before] for attention in layer.attention(1)])


def mass(layer: Layer, window: int) -> Array:
    """Attention from all queries of the text, mean over the heads: (1, n - window)."""
    return layer.of_all_queries()[None, : layer.n - window]
