"""What a policy sees of one layer: arrays, no engine. needs.py has the kinds of inputs and their shapes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from ..errors import PolicyError
from ..method.attention import of_head
from .needs import HEADS, KEYS, QUERIES, Need

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """One layer's n tokens, in order of position. `inputs`: what the policy needs, by its kind."""

    index: int  # of the model's layers
    positions: Indices  # (n,)
    inputs: Mapping[str, Any]
    protected: Optional[Bools] = None  # (n,) never evicted

    def __getitem__(self, need: Need) -> Array:
        """`layer[KEYS]`. Raises PolicyError for what is not there."""
        if need.kind not in self.inputs:
            raise PolicyError(f"layer {self.index} comes without {need.kind!r}: let the policy's `needs` name it")
        found: Array = self.inputs[need.kind]
        return found

    @property
    def n(self) -> int:
        """Tokens that the layer holds."""
        return len(self.positions)

    @property
    def n_seen(self) -> int:
        """Tokens of the text so far, evicted ones included."""
        return int(self.positions[-1]) + 1

    @property
    def n_queries(self) -> int:
        """Last tokens whose queries are there."""
        return int(self[QUERIES].shape[1])

    @property
    def heads(self) -> Sequence[int]:
        """Query heads that score: the profile's, all without one."""
        return self.inputs.get(HEADS.kind) or range(self[QUERIES].shape[0])

    def visible(self, window: int) -> Bools:
        """Which tokens the queries of the last `window` tokens may see: (window, n). Evicted ones leave gaps."""
        at = np.arange(self.n_seen - window, self.n_seen)
        return np.asarray(self.positions <= at[:, None])

    def attention(self, window: int, heads: Optional[Sequence[int]] = None) -> Iterator[Float64]:
        """Attention of the last `window` tokens' queries, one query head after the other: (window, n), rows sum to 1.

        heads: None: all. As `scoring.window_attention`, also where tokens of the window are gone. Raises PolicyError if
        fewer queries are there.
        """
        if not 0 < window <= self.n_queries:
            raise PolicyError(f"layer {self.index} has the queries of {self.n_queries} tokens, not {window}")
        queries, hidden = self[QUERIES], ~self.visible(window)
        group = queries.shape[0] // self[KEYS].shape[0]
        for g, members in itertools.groupby(
            range(queries.shape[0]) if heads is None else heads, lambda head: head // group
        ):
            keys = self[KEYS][g].astype(np.float64)
            for head in members:
                query = queries[head, -window:].astype(np.float64)
                yield np.asarray(of_head(query, keys, hidden), dtype=np.float64)
