"""Which passages of a text the cache kept: share of layers that hold each token, and the sentences where they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import numpy.typing as npt

from ...runtime.llama import Llama
from .document import Document

_LEAST_TOKENS = 4  # shorter sentences do not count as more than their tokens

_SENTENCE = re.compile(r"\S.*?(?:[.!?][\"')\]]*(?=\s)|\n\s*\n|$)", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """A token of the text: what it reads, where (characters), and the share of layers that hold it, 0 to 1."""

    text: str
    at: int
    share: float


@dataclass(frozen=True)
class Passage:
    """A sentence. `depth` is where it lies, 0 at the start of the text and 1 at its end; `page` 0 if it has none."""

    pieces: tuple[Piece, ...]
    depth: float
    page: int
    share: float


def pieces(llm: Llama, document: Optional[Document] = None) -> list[Piece]:
    """The tokens in the cache, or those of the document among them. Characters count from the document's start.

    A tokenizer that changes the text (some normalise it) hides where the document lies: then it is all of them.
    """
    tokens, share = llm.input_ids[: llm.n_tokens].tolist(), llm.kv_share()
    parts = llm.pieces(tokens)
    whole = b"".join(parts)
    wanted = document.text.strip().encode() if document else whole
    start = whole.find(wanted)
    if start < 0:
        start, wanted = 0, whole
    ends = np.cumsum([len(part) for part in parts])
    first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, start + len(wanted))
    return list(_pieces(parts[first : last + 1], share[first : last + 1]))


def _pieces(parts: Sequence[bytes], share: npt.NDArray[np.float64]) -> Iterator[Piece]:
    """Characters may be spread over tokens: they count for the last of theirs."""
    at, pending = 0, b""
    for part, value in zip(parts, share):
        pending += part
        try:
            text, pending = pending.decode(), b""
        except UnicodeDecodeError as error:
            if len(pending) > 4 or error.reason != "unexpected end of data":
                text, pending = pending.decode(errors="replace"), b""
            else:
                continue
        yield Piece(text, at, float(value))
        at += len(text)


def passages(found: Sequence[Piece], document: Optional[Document] = None, most: Optional[int] = 8) -> list[Passage]:
    """The sentences of which most was kept, `most` of them, in the order of the text; None: all sentences."""
    text = "".join(piece.text for piece in found)
    starts = np.array([piece.at for piece in found])
    every = [_passage(found, starts, match.span(), len(text), document) for match in _SENTENCE.finditer(text)]
    best = [passage for passage in every if passage.pieces]
    if most is not None:
        best = [p for p in sorted(best, key=lambda p: -p.share)[:most] if p.share > 0]
    return sorted(best, key=lambda p: p.depth)


def _passage(
    found: Sequence[Piece],
    starts: npt.NDArray[np.int64],
    span: tuple[int, int],
    n_chars: int,
    document: Optional[Document],
) -> Passage:
    first, last = np.searchsorted(starts, span[0], "right") - 1, np.searchsorted(starts, span[1])
    inside = tuple(found[max(int(first), 0) : int(last)])
    share = sum(piece.share for piece in inside) / max(len(inside), _LEAST_TOKENS)
    page = document.page(span[0]) if document else 0
    return Passage(inside, span[0] / max(n_chars, 1), page, share)
