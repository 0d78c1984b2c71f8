"""Where each kind of input of a policy (policies/needs.py) comes from: read of the cache and the text, or recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable, Tuple

import numpy as np
import numpy.typing as npt

from ..engine import native
from ..policies.layer import Array, Bools, Indices, Layer
from ..policies.needs import AHEAD, ENDS, KEYS, MASS, QUERIES, QUESTION, SAMPLE, VALUES, Needs
from . import binding
from .ahead import NOT_ASKED, Asked
from .recorder import Recorder

Float32 = npt.NDArray[np.float32]

_SENTENCE_ENDS = (".", "!", "?", ";", "\u3002", "\uff01", "\uff1f", "\uff1b")  # the wide ones are Chinese and Japanese
_CLOSERS = " \"')]\u00bb\u201d\u2019"  # may follow an end


@dataclass(frozen=True)
class LayerReading:
    """One layer that is read now."""

    llm: Any
    il: int
    recorder: Recorder
    asked: Asked = NOT_ASKED

    @property
    def shape(self) -> native.LayerShape:
        """Of the layer."""
        return self.recorder.shapes[self.il]

    @cached_property
    def positions(self) -> Indices:
        """(n,) of the tokens that it holds."""
        return native.positions(self.llm.ctx, self.il)

    @cached_property
    def rows(self) -> Tuple[Float32, Float32]:
        """Keys and values: (n_head_kv, n, head_dim) each."""
        return native.read_kv(self.llm.ctx, self.il, self.shape)


def _queries(reading: LayerReading) -> Array:
    """Those recorded, else the library's window; none of a text that is shorter than that."""
    recorder, shape = reading.recorder, reading.shape
    if reading.llm.n_tokens < recorder.window:
        return np.zeros((shape.n_head, 0, shape.head_dim_k), dtype=np.float32)
    if not recorder.idle:
        return recorder.value(reading.il, QUERIES)
    return native.read_queries(reading.llm.ctx, reading.il, shape, recorder.window)


def _ahead(reading: LayerReading) -> Array:
    shape = reading.shape
    nothing = np.zeros((shape.n_head, 0, shape.head_dim_k), dtype=np.float32)
    return reading.asked.drafted.get(reading.il, nothing)


PROVIDERS: Mapping[str, Callable[[LayerReading], Array]] = {
    KEYS.kind: lambda reading: reading.rows[0],
    VALUES.kind: lambda reading: reading.rows[1],
    QUERIES.kind: _queries,
    MASS.kind: lambda reading: reading.recorder.value(reading.il, MASS),
    SAMPLE.kind: lambda reading: reading.recorder.value(reading.il, SAMPLE),
    QUESTION.kind: lambda reading: np.asarray(reading.asked.n_question),
    AHEAD.kind: _ahead,
    ENDS.kind: lambda reading: sentence_ends(reading.llm, reading.positions),
}


def of_text(needs: Needs) -> Needs:
    """Those that belong to the text: the others are a profile's."""
    return frozenset(need for need in needs if need.kind in PROVIDERS)


def read_layer(llm: Any, il: int, recorder: Recorder, needs: Needs, asked: Asked = NOT_ASKED) -> Layer:
    """What layer il holds, as arrays: the needs that belong to the text."""
    reading = LayerReading(llm, il, recorder, asked)
    inputs = {need.kind: PROVIDERS[need.kind](reading) for need in of_text(needs)}
    return Layer(il, reading.positions, inputs)


def sentence_ends(llm: Any, positions: Indices) -> Bools:
    """Tokens at these positions that end a sentence or a line: (n,)."""
    tokens = binding.text_of(llm)[positions]
    ends = {int(token): _ends_sentence(llm.detokenize([int(token)], special=True)) for token in np.unique(tokens)}
    return np.asarray([ends[int(token)] for token in tokens], dtype=bool)


def _ends_sentence(piece: bytes) -> bool:
    text = piece.decode(errors="replace")
    return "\n" in text or text.rstrip(_CLOSERS).endswith(_SENTENCE_ENDS)
