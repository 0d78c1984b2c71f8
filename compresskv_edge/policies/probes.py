"""Probes: whose attention counts. Each gives that of one query head after the other: (r, n), r queries, n tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .layer import Array, Float64, Layer
from .needs import HEADS, KEYS, MASS, QUERIES, SAMPLE, Needs, last


class Probe(Protocol):
    """What a score that looks at attention is built on."""

    @property
    def needs(self) -> Needs:
        """What it reads of a layer."""

    def attention(self, layer: Layer, window: int) -> Iterator[Float64]:
        """window: tokens at the end that stay."""


@dataclass(frozen=True)
class Window:
    """Queries of all tokens that stay: the observation window, as long as the budget lets it be."""

    n: int  # of them are asked for
    of_profile: bool = False  # only the heads that the profile names
    or_fewer: bool = False  # of a longer window, those that were recorded

    @property
    def needs(self) -> Needs:
        """Keys and the window's queries."""
        return frozenset({KEYS, last(self.n), *([HEADS] if self.of_profile else [])})

    def attention(self, layer: Layer, window: int) -> Iterator[Float64]:
        """See Probe."""
        n = min(window, layer.n_queries) if self.or_fewer else window
        return layer.attention(n, layer.heads if self.of_profile else None)


@dataclass(frozen=True)
class Last:
    """The last n queries, whatever stays; all that there are of a shorter text."""

    n: int

    @property
    def needs(self) -> Needs:
        """Keys and n queries."""
        return frozenset({KEYS, last(self.n)})

    def attention(self, layer: Layer, window: int) -> Iterator[Float64]:
        """See Probe."""
        return layer.attention(min(self.n, layer.n_queries))


@dataclass(frozen=True)
class AllQueries:
    """Every query of the text: one row, the sum over the queries and the mean over the heads."""

    needs: Needs = frozenset({MASS})

    def attention(self, layer: Layer, window: int) -> Iterator[Float64]:
        """See Probe."""
        yield layer[MASS][None]


def sampled(n: int) -> Needs:
    """Queries from all over the text, for `of_the_text`; the last n of a text that is too short to be sampled."""
    return frozenset({SAMPLE, last(n)})


def of_the_text(layer: Layer) -> Array:
    """(H, s, head_dim)."""
    sample = layer[SAMPLE]
    return sample if sample.shape[1] else layer[QUERIES]
