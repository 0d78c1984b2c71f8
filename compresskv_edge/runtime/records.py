"""What can be written down of queries while a text is decoded: one class for each kind of need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, List, Tuple

import numpy as np
import numpy.typing as npt

from ..engine.native import LayerShape
from ..method.attention import attention
from ..policies.layer import Array, Indices
from ..policies.needs import MASS, QUERIES, SAMPLE, Need

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Rows = Callable[[], Tuple[Float32, Indices]]  # keys (n_head_kv, n, head_dim) and positions (n,) that a layer holds now

BLOCK = 256  # tokens whose queries are kept at once; the last ones of each give theirs to the sample
FOLD = 512  # queries whose attention is computed at once


class Record:
    """One kind of need of one layer. Queries are (n_head, *, head_dim)."""

    by_block = True  # the text is decoded in blocks, and read after each

    def __init__(self, need: Need, shape: LayerShape, window: int) -> None:
        """window: last tokens whose queries the library holds anyway."""
        self.need = need
        self.window = window
        self._queries = np.zeros((shape.n_head, 0, shape.head_dim_k), dtype=np.float32)

    @property
    def n_kept(self) -> int:
        """Last tokens of a step whose queries are read."""
        return self.window

    @property
    def idle(self) -> bool:
        """The library's window is all that is needed."""
        return False

    @property
    def due(self) -> bool:
        """It holds as much as it should before `fold`."""
        return False

    @property
    def value(self) -> Array:
        """What a policy gets."""
        return self._queries

    def add(self, queries: Float32, positions: Indices) -> None:
        """The queries (n_head, n, head_dim) of the tokens at these positions (n,) were read."""
        self._queries = np.concatenate([self._queries, queries], axis=1)

    def fold(self, rows: Rows) -> None:
        """Do what is left to do while all rows are there that the queries saw."""

    def keep(self, indices: Indices) -> None:
        """The layer holds these of its rows from now on."""


class LastQueries(Record):
    """Queries of the last `need.n` tokens."""

    by_block = False

    @property
    def n_kept(self) -> int:
        """See Record."""
        return self.need.n

    @property
    def idle(self) -> bool:
        """See Record."""
        return self.need.n <= self.window

    def add(self, queries: Float32, positions: Indices) -> None:
        """See Record."""
        super().add(queries, positions)
        self._queries = self._queries[:, max(self._queries.shape[1] - self.need.n, 0) :]


class SampledQueries(Record):
    """Queries of the last tokens of each block."""

    def add(self, queries: Float32, positions: Indices) -> None:
        """See Record."""
        at_end = positions % BLOCK >= BLOCK - self.window
        if at_end.any():
            super().add(queries[:, at_end], positions[at_end])


class AttentionMass(Record):
    """(n,) of the rows that the layer holds: attention so far, mean over the heads."""

    def __init__(self, need: Need, shape: LayerShape, window: int) -> None:
        """See Record."""
        super().__init__(need, shape, window)
        self._mass = np.zeros(0)
        self._unfolded: List[Tuple[Float32, Indices]] = []

    @property
    def n_kept(self) -> int:
        """See Record."""
        return BLOCK

    @property
    def due(self) -> bool:
        """See Record."""
        return sum(len(positions) for _, positions in self._unfolded) >= FOLD

    @property
    def value(self) -> Array:
        """See Record."""
        return self._mass

    def add(self, queries: Float32, positions: Indices) -> None:
        """See Record."""
        self._unfolded.append((queries, positions))

    def fold(self, rows: Rows) -> None:
        """Count the attention of the queries read so far."""
        if not self._unfolded:
            return
        keys, held = rows()
        queries = np.concatenate([part for part, _ in self._unfolded], axis=1)
        at = np.concatenate([part for _, part in self._unfolded])
        new = np.zeros(len(held))
        new[: len(self._mass)] = self._mass
        self._mass = new + column_sums(queries, keys, np.searchsorted(held, at, side="right"))
        self._unfolded = []

    def keep(self, indices: Indices) -> None:
        """See Record."""
        self._mass = self._mass[indices]


RECORDS: Mapping[str, Any] = {QUERIES.kind: LastQueries, MASS.kind: AttentionMass, SAMPLE.kind: SampledQueries}


def column_sums(queries: Float32, keys: Float32, n_visible: Indices) -> Float64:
    """Attention that each row gets from all queries, mean over the heads: (n_rows,).

    queries: (n_head, n, head_dim); keys: (n_head_kv, n_rows, head_dim); query i sees the rows before n_visible[i].
    """
    sums = [group.sum(axis=(0, 1), dtype=np.float64) for group in attention(queries, keys, n_visible)]
    return np.asarray(np.sum(sums, axis=0) / queries.shape[0], dtype=np.float64)
