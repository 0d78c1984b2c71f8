"""What a policy needs of the text beside its cache, written down while it is decoded.

The library holds the queries of the last `window` tokens of its profile, and of more while it is asked to. For policies
that look at every query (`mass`) the text is decoded in steps of a block, and the queries are read after each; `recent`
ones are read once, at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import numpy.typing as npt

from ..engine import native
from ..errors import EngineError
from ..method.attention import attention
from ..policies.layer import Indices
from ..policies.policy import Policy

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_BLOCK = 256  # tokens whose queries are kept at once; the last ones of each give theirs to the sample
_FOLD = 512  # queries whose attention is computed at once


@dataclass(frozen=True)
class Needs:
    """What some policies need together. `recent`: queries of that many last tokens."""

    recent: int = 0
    mass: bool = False
    sample: bool = False

    @classmethod
    def of(cls, policies: Iterable[Policy]) -> Needs:
        """All that any of them needs."""
        all_of = list(policies)
        recent = max((policy.recent for policy in all_of), default=0)
        return cls(recent, any(policy.mass for policy in all_of), any(policy.sample for policy in all_of))

    def covers(self, other: Needs) -> bool:
        """What was recorded for these needs serves the others as well."""
        return self.recent >= other.recent and self.mass >= other.mass and self.sample >= other.sample


@dataclass
class Record:
    """One layer. Queries are (n_head, *, head_dim)."""

    recent: Float32  # of the last tokens
    sample: Float32
    mass: Float64  # (n,) of the tokens that the layer holds: attention so far, mean over the heads
    unfolded: List[Float32] = field(default_factory=list)  # queries whose attention is not in the mass yet
    merged_at: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # positions of count
    count: Optional[Float64] = None  # (n_head_kv, n) rows that each row stands for, see merging.py


class Recorder:
    """The records of all layers that can evict, for one text at a time."""

    def __init__(self, layers: Sequence[native.LayerShape], window: int, needs: Needs) -> None:
        """layers: of the model. window: tokens whose queries the library holds."""
        self.shapes = {il: shape for il, shape in enumerate(layers) if shape.evictable}
        self.window = window
        self.needs = needs
        self.clear()

    @property
    def idle(self) -> bool:
        """The library's own window is all that is needed."""
        return not (self.needs.mass or self.needs.sample or self.needs.recent > self.window)

    def clear(self) -> None:
        """A new text begins."""
        self.n_seen = 0  # tokens decoded
        self.n_unread = 0  # of them, the last ones, whose queries were not read
        self.n_unfolded = 0
        self.records: Dict[int, Record] = {
            il: Record(_none(shape), _none(shape), np.zeros(0)) for il, shape in self.shapes.items()
        }

    def forget(self) -> None:
        """The cache was replaced: nothing recorded belongs to it."""
        self.clear()
        self.n_seen = -1

    def copy(self, needs: Needs) -> Recorder:
        """One that goes on by itself, for no more than `needs`."""
        other = copy.deepcopy(self)
        other.needs = needs
        return other

    #
    # decoding
    #

    def feed(self, llm: Any, tokens: Sequence[int], decode: Callable[[List[int]], None]) -> None:
        """Decode tokens with `decode` and record. Raises EngineError if the cache is not where the record ends."""
        if llm.n_tokens == 0:
            self.clear()
        self.check(llm)
        if not self.idle and self.n_unread + len(tokens) > self.window:
            self._read(llm, self.n_unread)
        if self.idle or len(tokens) <= self.window:
            self._decode(llm, tokens, decode)
            return
        n_kept = min(self._n_kept(), len(tokens))
        native.keep_queries(llm.ctx, n_kept if n_kept > self.window else 0)
        try:
            for step in self._steps(tokens):
                self._decode(llm, step, decode)
                self._read(llm, min(n_kept, len(step)))
        finally:
            native.keep_queries(llm.ctx, 0)

    def _decode(self, llm: Any, tokens: Sequence[int], decode: Callable[[List[int]], None]) -> None:
        """A few tokens, or those between two reads."""
        decode(list(tokens))
        self.n_seen += len(tokens)
        self.n_unread += len(tokens)

    def _n_kept(self) -> int:
        """Tokens whose queries are read after a step."""
        return max(self.window, self.needs.recent, _BLOCK if self.needs.mass else 0)

    def _steps(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        """Tokens between two reads: up to the ends of the blocks, whose queries are all or partly needed."""
        if not (self.needs.mass or self.needs.sample):
            yield tokens
            return
        first = _BLOCK - self.n_seen % _BLOCK
        for at in (0, *range(first, len(tokens), _BLOCK)):
            yield tokens[at : at + _BLOCK if at else first]

    def check(self, llm: Any) -> None:
        """Raise EngineError if the cache holds another text than the record."""
        if self.n_seen != llm.n_tokens and not self.idle:
            raise EngineError(
                f"the policy has seen {max(self.n_seen, 0)} tokens but the cache is at {llm.n_tokens}: "
                "call reset() and evaluate the prompt again"
            )

    def _read(self, llm: Any, n: int) -> None:
        if n == 0:
            return
        positions = np.arange(self.n_seen - n, self.n_seen)
        sampled = positions % _BLOCK >= _BLOCK - self.window
        for il, record in self.records.items():
            queries = native.read_queries(llm.ctx, il, self.shapes[il], n)
            self._write(record, queries, queries[:, sampled])
        self.n_unread = 0
        self.n_unfolded += n if self.needs.mass else 0
        if self.n_unfolded >= _FOLD:
            self._fold(llm)

    def _write(self, record: Record, queries: Float32, sampled: Float32) -> None:
        if self.needs.recent:
            record.recent = np.concatenate([record.recent, queries], axis=1)[:, -self.needs.recent :]
        if self.needs.sample and sampled.shape[1]:
            record.sample = np.concatenate([record.sample, sampled], axis=1)
        if self.needs.mass:
            record.unfolded.append(queries)

    #
    # evicting
    #

    def finish(self, llm: Any) -> None:
        """Read and count what is left, before rows leave or records are used."""
        self.check(llm)
        if self.idle:
            return
        self._read(llm, self.n_unread)
        if self.n_unfolded:
            self._fold(llm)

    def keep(self, kept: Dict[int, Indices]) -> None:
        """The layers hold these of their tokens from now on."""
        for il, indices in kept.items():
            if self.needs.mass:
                self.records[il].mass = self.records[il].mass[indices]

    def count(self, il: int, positions: Indices) -> Float64:
        """How many rows those of a layer at these positions stand for: (n_head_kv, n), one where nothing joined."""
        record, count = self.records[il], np.ones((self.shapes[il].n_head_kv, len(positions)))
        if record.count is not None:
            _, here, there = np.intersect1d(positions, record.merged_at, assume_unique=True, return_indices=True)
            count[:, here] = record.count[:, there]
        return count

    def merged(self, il: int, positions: Indices, count: Float64) -> None:
        """The rows at these positions, all that the layer holds, stand for `count` rows: (n_head_kv, n)."""
        self.records[il].merged_at, self.records[il].count = positions, count

    def _fold(self, llm: Any) -> None:
        """Count the attention of the queries read so far, while the rows that they saw are still there."""
        for il, record in self.records.items():
            queries = np.concatenate(record.unfolded, axis=1)
            keys, _ = native.read_kv(llm.ctx, il, self.shapes[il])
            positions = native.positions(llm.ctx, il)
            at = np.arange(self.n_seen - self.n_unread - queries.shape[1], self.n_seen - self.n_unread)
            new = np.zeros(len(positions))
            new[: len(record.mass)] = record.mass
            record.mass = new + column_sums(queries, keys, np.searchsorted(positions, at, side="right"))
            record.unfolded = []
        self.n_unfolded = 0


def column_sums(queries: Float32, keys: Float32, n_visible: Indices) -> Float64:
    """Attention that each row gets from all queries, mean over the heads: (n_rows,).

    queries: (n_head, n, head_dim); keys: (n_head_kv, n_rows, head_dim); query i sees the rows before n_visible[i].
    """
    sums = [group.sum(axis=(0, 1), dtype=np.float64) for group in attention(queries, keys, n_visible)]
    return np.asarray(np.sum(sums, axis=0) / queries.shape[0], dtype=np.float64)


def _none(shape: native.LayerShape) -> Float32:
    return np.zeros((shape.n_head, 0, shape.head_dim_k), dtype=np.float32)
