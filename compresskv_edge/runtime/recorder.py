"""What policies need of the text beside its cache, written down while it is decoded (records.py).

The library holds the queries of the last `window` tokens of its profile, and of more while it is asked to. For records
that look at every block the text is decoded in such steps, and the queries are read after each; the last ones alone
are read once, at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from ..engine import native
from ..errors import EngineError
from ..policies.layer import Array, Indices
from ..policies.needs import Need, Needs
from . import binding
from .records import BLOCK, RECORDS, Record
from .row_counts import RowCounts


class Recorder:
    """The records of all layers that can evict, for one text at a time."""

    def __init__(self, layers: Sequence[native.LayerShape], window: int, needs: Needs) -> None:
        """layers: of the model. window: tokens whose queries the library holds. needs: of any kind."""
        self.shapes = {il: shape for il, shape in enumerate(layers) if shape.evictable}
        self.window = window
        self.needs = needs
        self.clear()

    @property
    def idle(self) -> bool:
        """The library's own window is all that is needed."""
        return all(record.idle for record in self._kinds)

    @property
    def _kinds(self) -> List[Record]:
        """One of each kind: layers differ in nothing but their queries."""
        return next((list(records.values()) for records in self.records.values()), [])

    def clear(self) -> None:
        """A new text begins."""
        self.n_seen = 0  # tokens decoded
        self.n_unread = 0  # of them, the last ones, whose queries were not read
        self.counts = RowCounts()
        self.records: Dict[int, Dict[str, Record]] = {il: self._new(shape) for il, shape in self.shapes.items()}

    def _new(self, shape: native.LayerShape) -> Dict[str, Record]:
        wanted = [need for need in self.needs if need.kind in RECORDS]
        return {need.kind: RECORDS[need.kind](need, shape, self.window) for need in wanted}

    def forget(self) -> None:
        """The cache was replaced: nothing recorded belongs to it."""
        self.clear()
        self.n_seen = -1

    def taken_up(self, llm: Any, n_new: int) -> Optional[List[int]]:
        """Go on behind a text that was not seen, if only queries of the last tokens matter and n_new tokens follow.

        Returns the tokens that have to be decoded again for that; they are out of the cache. None: the whole text has.
        """
        if any(record.by_block for record in self._kinds):
            return None
        n_missing = max(*(record.n_kept for record in self._kinds), self.window) - n_new
        start = max(llm.n_tokens - max(n_missing, 0), 0)
        again = [int(token) for token in binding.text_of(llm)[start:]]
        if again and not binding.remove_from(llm, start):
            return None
        llm.n_tokens = start
        self.clear()
        self.n_seen = start
        return again

    def copy(self, needs: Needs) -> Recorder:
        """One that goes on by itself, for no more than `needs`."""
        other = copy.copy(self)
        other.needs = needs
        other.counts = copy.deepcopy(self.counts)
        wanted = {need.kind: need for need in needs}
        other.records = {il: _copies(records, wanted) for il, records in self.records.items()}
        return other

    def value(self, il: int, need: Need) -> Array:
        """What was recorded of a kind."""
        return self.records[il][need.kind].value

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
            self._decode(tokens, decode)
            return
        n_kept = min(max(self.window, *(record.n_kept for record in self._kinds)), len(tokens))
        native.keep_queries(llm.ctx, n_kept if n_kept > self.window else 0)
        try:
            for step in self._steps(tokens):
                self._decode(step, decode)
                self._read(llm, min(n_kept, len(step)))
        finally:
            native.keep_queries(llm.ctx, 0)

    def _decode(self, tokens: Sequence[int], decode: Callable[[List[int]], None]) -> None:
        """A few tokens, or those between two reads."""
        decode(list(tokens))
        self.n_seen += len(tokens)
        self.n_unread += len(tokens)

    def _steps(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        """Tokens between two reads: up to the ends of the blocks, whose queries are all or partly needed."""
        if not any(record.by_block for record in self._kinds):
            yield tokens
            return
        first = BLOCK - self.n_seen % BLOCK
        for at in (0, *range(first, len(tokens), BLOCK)):
            yield tokens[at : at + BLOCK if at else first]

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
        for il, records in self.records.items():
            queries = native.read_queries(llm.ctx, il, self.shapes[il], n)
            for record in records.values():
                record.add(queries, positions)
        self.n_unread = 0
        if any(record.due for record in self._kinds):
            self._fold(llm)

    #
    # evicting
    #

    def finish(self, llm: Any) -> None:
        """Read and count what is left, before rows leave or records are used."""
        self.check(llm)
        if self.idle:
            return
        self._read(llm, self.n_unread)
        self._fold(llm)

    def keep(self, kept: Dict[int, Indices]) -> None:
        """The layers hold these of their tokens from now on."""
        for il, indices in kept.items():
            for record in self.records[il].values():
                record.keep(indices)

    def _fold(self, llm: Any) -> None:
        for il, records in self.records.items():
            for record in records.values():
                record.fold(partial(self._rows, llm, il))

    def _rows(self, llm: Any, il: int) -> Tuple[Array, Indices]:
        return native.read_kv(llm.ctx, il, self.shapes[il])[0], native.positions(llm.ctx, il)


def _copies(records: Mapping[str, Record], wanted: Mapping[str, Need]) -> Dict[str, Record]:
    copies = {kind: copy.deepcopy(record) for kind, record in records.items() if kind in wanted}
    for kind, record in copies.items():
        record.need = wanted[kind]
    return copies
