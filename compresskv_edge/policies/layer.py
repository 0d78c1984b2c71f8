"""What a policy sees of one layer: arrays, no engine.

Shapes: G KV heads, H query heads (head h reads KV head h // (H / G)), n tokens that the layer holds, r queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from ..method.attention import of_head

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """One layer's tokens, in order of position. Keys and queries are those after RoPE, as attention sees them.

    What a policy does not ask for (see `Policy`) may be missing.
    """

    index: int  # of the model's layers
    k: Array  # (G, n, head_dim)
    queries: Array  # (H, r, head_dim), of the last r tokens, oldest first
    positions: Indices  # (n,)
    heads: Sequence[int] = ()  # semantic retrieval heads of the profile, best first; empty: all heads
    mass: Optional[Array] = None  # (n,) attention that a token got from all queries so far, mean over the heads
    sample: Optional[Array] = None  # (H, s, head_dim) queries spread over the whole prompt
    ends: Optional[Bools] = None  # (n,) a sentence ends with this token
    protected: Optional[Bools] = None  # (n,) never evicted

    @property
    def n(self) -> int:
        """Tokens that the layer holds."""
        return int(self.k.shape[1])

    @property
    def n_seen(self) -> int:
        """Tokens of the text so far, evicted ones included."""
        return int(self.positions[-1]) + 1

    @property
    def n_head(self) -> int:
        """Query heads."""
        return int(self.queries.shape[0])

    def visible(self, window: int) -> Bools:
        """Which tokens the queries of the last `window` tokens may see: (window, n). Evicted ones leave gaps."""
        at = np.arange(self.n_seen - window, self.n_seen)
        return np.asarray(self.positions <= at[:, None])

    def attention(self, window: int) -> Iterator[Float64]:
        """Attention of the last `window` tokens' queries, one query head after the other: (window, n), rows sum to 1.

        As `scoring.window_attention`, also where tokens of the window are gone. Raises ValueError if fewer queries are
        there.
        """
        if not 0 < window <= self.queries.shape[1]:
            raise ValueError(f"layer {self.index} has the queries of {self.queries.shape[1]} tokens, not {window}")
        hidden = ~self.visible(window)
        group = self.n_head // self.k.shape[0]
        keys = self.k.astype(np.float64)
        for head in range(self.n_head):
            query = self.queries[head, -window:].astype(np.float64)
            yield np.asarray(of_head(query, keys[head // group], hidden), dtype=np.float64)

    def of_all_queries(self) -> Array:
        """`mass`, for the policies that need it. Raises ValueError if it was not recorded."""
        if self.mass is None:
            raise ValueError(f"the attention of all queries of layer {self.index} was not recorded")
        return self.mass

    def of_the_text(self) -> Array:
        """`sample`, or the last queries where a short prompt left no sample."""
        return self.queries if self.sample is None or self.sample.shape[1] == 0 else self.sample
