"""Attention that is computed once for all policies and budgets of a prompt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Optional

from ..policies.layer import Float64, Layer

_ATTENTION_BYTES = 1 << 28  # of a prompt, that are kept for the next policy or budget


@dataclass
class Attention:
    """What the windows of one prompt attend to, computed once for all policies and budgets.

    saved_s: seconds that were not spent again since it was set to 0; they belong to what a policy costs.
    """

    known: dict[tuple[int, int], tuple[float, list[Float64]]] = field(default_factory=dict)  # (layer, window)
    n_bytes: int = 0
    saved_s: float = 0.0

    def of(self, key: tuple[int, int], compute: Iterator[Float64]) -> Iterator[Float64]:
        """compute's arrays, which must not be written to; while there is room they are kept."""
        if key in self.known:
            self.saved_s += self.known[key][0]
            return iter(self.known[key][1])
        if self.n_bytes > _ATTENTION_BYTES:
            return compute
        start = time.perf_counter()
        arrays = list(compute)
        self.known[key] = time.perf_counter() - start, arrays
        self.n_bytes += sum(array.nbytes for array in arrays)
        return iter(arrays)


@dataclass(frozen=True)
class RememberingLayer(Layer):
    """A layer of a prompt that many policies look at."""

    shared: Attention = field(default_factory=Attention)

    def attention(self, window: int, heads: Optional[Sequence[int]] = None) -> Iterator[Float64]:
        """As Layer.attention; that of some heads, which few policies ask for, is computed each time."""
        found = super().attention(window, heads)
        return found if heads is not None else self.shared.of((self.index, window), found)
