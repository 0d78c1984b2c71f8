"""Scores: what a token is worth. Each is called with (layer, window) and gives (n_rows, n - window), a row a head or
one in all; rows are pooled, then averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Protocol

import numpy as np

from .layer import Array, Float64, Layer
from .needs import NOTHING, Needs
from .probes import Probe, Window


class Scorer(Protocol):
    """Anything that scores the tokens before the window."""

    @property
    def needs(self) -> Needs:
        """What it reads of a layer."""

    @property
    def native(self) -> bool:
        """csrc computes the same."""

    def __call__(self, layer: Layer, window: int) -> Array:
        """(n_rows, n - window)."""


def summed(attention: Float64) -> Float64:
    """Over the queries: (r, n) -> (n,)."""
    return np.asarray(attention.sum(axis=0))


@dataclass(frozen=True)
class AttentionScore:
    """Attention of a probe's queries, a row a head. `row` makes one number a token of what r queries gave it."""

    probe: Probe
    row: Callable[[Float64], Array] = summed

    @property
    def needs(self) -> Needs:
        """The probe's."""
        return self.probe.needs

    @property
    def native(self) -> bool:
        """The window's attention, summed."""
        return isinstance(self.probe, Window) and self.row is summed

    def __call__(self, layer: Layer, window: int) -> Array:
        """See Scorer."""
        n_before = layer.n - window
        return np.stack([self.row(attention)[:n_before] for attention in self.probe.attention(layer, window)])


@dataclass(frozen=True)
class Rule:
    """Any function of a layer and the number of tokens that stay at its end."""

    function: Callable[[Layer, int], Array]
    needs: Needs = NOTHING
    native: bool = False

    def __call__(self, layer: Layer, window: int) -> Array:
        """See Scorer."""
        return self.function(layer, window)
