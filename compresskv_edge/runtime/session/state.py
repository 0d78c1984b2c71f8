"""A walk over a state of llama.cpp before llama.cpp reads it: a file may come from a stranger.

llama.cpp compares types, row sizes and lengths, but it believes positions and sequences, and some of what it believes
ends the process. Layout: upstream's `llama_context::state_write_data` and `llama_kv_cache::state_write`, our
csrc/ckv-state.cpp. Integers are little-endian.

    architecture   string
    cache          one, or two where layers with a sliding window have their own
        streams    u32
        prefixes   of a compressed cache, see `_prefixes`
        cells      u32, then each: position i32, sequences u32, (x, y, token i32), sequences i32
        rows       of K and of V, if there are cells, see `_rows`
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from .. import binding
from ..binding import llama_cpp
from ..prefill import Opened, compression_of

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]

_MAGIC, _VERSION = 0x564B4343, 2
_MROPE = (8, 40)  # llama_rope_type: cells with x, y and token
_MAX_LAYERS = 4096
_MAX_TOKENS = 1 << 24  # as kv_rebase


class _Wrong(ValueError):
    """What is wrong with a state."""


@dataclass(frozen=True)
class Model:
    """What a state must agree with. `ring_bytes`: a token's queries, of each layer of a compressed cache."""

    architecture: str
    n_positions: int
    window: int = 0
    ring_bytes: Tuple[int, ...] = ()
    has_places: bool = False
    has_values: bool = True

    @classmethod
    def of(cls, llm: Opened) -> Model:
        """Of a loaded model."""
        compression, metadata = compression_of(llm), llm.metadata
        architecture = metadata.get("general.architecture", "")
        layers = [layer for layer in compression.layers if layer.evictable] if compression else []
        return cls(
            architecture=architecture,
            n_positions=binding.n_positions(llm),
            window=compression.window if compression else 0,
            ring_bytes=tuple(4 * layer.n_head * layer.head_dim_k for layer in layers),
            has_places=llama_cpp.llama_model_rope_type(llm.model) in _MROPE,
            has_values=f"{architecture}.attention.key_length_mla" not in metadata,
        )


@dataclass(frozen=True)
class Cache:
    """What one cache of a state holds: the tokens before `n_tokens`."""

    compressed: bool
    n_tokens: int


def problem(model: Model, state: Bytes, own: Bytes, n_tokens: int) -> Optional[str]:
    """Why a state cannot be that of n_tokens tokens, None if it can.

    own: what the instance holds now; caches that are laid out in another way than those above (recurrent models) are
    not looked into.
    """
    try:
        known = _walk(model, own)
    except _Wrong:
        return None
    try:
        found = _walk(model, state)
        if [cache.compressed for cache in found] != [cache.compressed for cache in known]:
            raise _Wrong("other caches than this model has")
        if any(cache.n_tokens < n_tokens for cache in found):
            raise _Wrong(f"fewer than {n_tokens} tokens")
    except _Wrong as error:
        return str(error)
    return None


class _Reader:
    def __init__(self, data: Bytes) -> None:
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def raw(self, n_bytes: int) -> Bytes:
        if not 0 <= n_bytes <= self.left:
            raise _Wrong("it ends too early")
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def take(self, form: str) -> Tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.raw(struct.calcsize(f"<{form}")).tobytes())

    def number(self, form: str = "I") -> int:
        return int(self.take(form)[0])

    def ints(self, n: int) -> Ints:
        return np.frombuffer(self.raw(4 * n).tobytes(), "<i4")


def _require(fine: Any, what: str) -> None:
    if not fine:
        raise _Wrong(what)


def _walk(model: Model, state: Bytes) -> List[Cache]:
    reader = _Reader(state)
    name = reader.raw(reader.number()).tobytes()
    _require(name == model.architecture.encode(), "another architecture")
    caches = [_cache(model, reader)]
    while reader.left and len(caches) < 3:
        caches.append(_cache(model, reader))
    _require(not reader.left, "more than the caches")
    return caches


def _cache(model: Model, reader: _Reader) -> Cache:
    _require(reader.number() == 1, "more than one stream")
    first = n_cells = reader.number()
    compressed = first == _MAGIC and bool(model.ring_bytes)
    frozen = n_rebased = 0
    if compressed:
        frozen, n_rebased, announced = _prefixes(model, reader)
        n_cells = reader.number()
        _require(n_cells == announced, "another number of cells than announced")
    if n_cells == 0:
        return Cache(compressed, frozen + n_rebased)
    positions = _cells(model, reader, n_cells)
    _require(int(positions.min()) >= frozen, "cells of compressed tokens")
    _rows(model, reader, n_cells)
    return Cache(compressed, int(positions.max()) + 1 + n_rebased)


def _cells(model: Model, reader: _Reader, n: int) -> Ints:
    """Positions of cells, each of sequence 0: (n,)."""
    n_words = 3 + 3 * model.has_places
    _require(n <= model.n_positions, "more cells than n_ctx")
    cells = reader.ints(n * n_words).reshape(n, n_words)
    positions = cells[:, 0]
    _require((cells[:, 1] == 1).all() and (cells[:, -1] == 0).all(), "cells of other sequences")
    _require(((positions >= 0) & (positions < model.n_positions)).all(), "positions out of range")
    _require(model.has_places or len(np.unique(positions)) == n, "a position twice")
    return positions


def _rows(model: Model, reader: _Reader, n_cells: int) -> None:
    """K of all layers, then V: type i32, bytes of a row u64, rows. Without flash attention V lies across: type i32,
    bytes of an element u32, elements of a row u32, rows.
    """
    across, n_layer = reader.take("II")
    _require(across <= 1 and 1 <= n_layer <= _MAX_LAYERS, "no layers")
    for _ in range(n_layer):
        _, n_bytes = reader.take("iQ")
        reader.raw(n_bytes * n_cells)
    for _ in range(n_layer if model.has_values else 0):
        if across:
            _, n_bytes, n_row = reader.take("iII")
            reader.raw(n_bytes * n_row * n_cells)
        else:
            _, n_bytes = reader.take("iQ")
            reader.raw(n_bytes * n_cells)


#
# what is compressed
#


def _prefixes(model: Model, reader: _Reader) -> Tuple[int, int, int]:
    """(position of the first token that is not frozen, positions taken away, cells that follow); see ckv-state.cpp."""
    n_layer = len(model.ring_bytes)
    same = reader.take("III") == (_VERSION, model.window, n_layer)
    _require(same, "another version, observation window or number of layers")
    announced, n_seqs = reader.take("II")
    _require(n_seqs <= 1, "several sequences")
    n_rebased, first_live, kept = _numbering(model, reader) if n_seqs else (0, 0, np.zeros(0, np.int32))
    n_blocks = reader.number()
    _require(n_blocks <= n_seqs, "more prefixes than sequences")
    frozen, counts = _block(model, reader, n_layer) if n_blocks else (0, [0] * n_layer)
    _require(first_live <= frozen + n_rebased, "positions that were taken away")
    for n, ring_bytes in zip(counts, model.ring_bytes):
        k_bytes, v_bytes = reader.take("QQ")
        if n_blocks:
            positions = reader.ints(n)
            _ascend(positions, frozen + n_rebased)
            early = positions[positions < first_live]
            _require(np.isin(early, kept).all(), "a token without a position")
            reader.raw(n * k_bytes)
            reader.raw(n * v_bytes)
        reader.raw(n_seqs * model.window * ring_bytes)
    return frozen, n_rebased, announced


def _numbering(model: Model, reader: _Reader) -> Tuple[int, int, Ints]:
    """(positions taken away, first token that counts on, tokens before it that have a position)."""
    seq_id, n_rebased, first_live, n_kept = reader.take("iiiI")
    _require(seq_id == 0, "another sequence")
    _require(0 <= n_rebased <= _MAX_TOKENS and 0 <= first_live <= _MAX_TOKENS, "positions out of range")
    _require(n_kept <= model.n_positions, "more positions than n_ctx")
    kept = reader.ints(n_kept)
    _ascend(kept, first_live)
    ring = reader.ints(model.window)
    rows = np.arange(model.window)
    _require(((ring == -1) | ((ring >= 0) & (ring % max(model.window, 1) == rows))).all(), "queries of no position")
    return n_rebased, first_live, kept


def _block(model: Model, reader: _Reader, n_layer: int) -> Tuple[int, Sequence[int]]:
    """(position of the first token that is not frozen, (n_layer,) tokens kept)."""
    frozen, n_members, seq_id = reader.take("iIi")
    _require(n_members == 1 and seq_id == 0, "another sequence's prefix")
    _require(0 <= frozen <= model.n_positions, "positions out of range")
    counts = reader.ints(n_layer)
    _require(((counts >= 0) & (counts <= frozen)).all(), "more tokens kept than there were")
    return frozen, [int(n) for n in counts]


def _ascend(positions: Ints, end: int) -> None:
    fine = not len(positions) or (positions[0] >= 0 and positions[-1] < end and (np.diff(positions) > 0).all())
    _require(fine, "positions that do not ascend")
