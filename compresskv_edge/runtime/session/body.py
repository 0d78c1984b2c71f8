"""Tokens, logits and budgets of a session against the model that they are for: a digest finds damage, not forgery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..compression import Compression
from ..prefill import Opened, compression_of
from .header import Header


class Content(Protocol):
    """A session, as far as it is looked into here."""

    @property
    def header(self) -> Header: ...
    @property
    def tokens(self) -> npt.NDArray[np.int32]: ...
    @property
    def logits(self) -> npt.NDArray[np.float32]: ...


def problems(llm: Opened, session: Content) -> Iterator[str]:
    """What cannot be of this model, each as a sentence."""
    header, n_vocab = session.header, llm.n_vocab()
    if len(session.tokens) != header.n_tokens:
        yield f"it holds {len(session.tokens)} tokens, its header says {header.n_tokens}"
    if ((session.tokens < 0) | (session.tokens >= n_vocab)).any():
        yield f"it holds tokens outside the vocabulary of {n_vocab}"
    if len(session.logits) not in (0, n_vocab):
        yield f"it has logits of {len(session.logits)} tokens, the vocabulary {n_vocab}"
    elif not _can_be_drawn_from(session):
        yield "its logits are not numbers"
    if header.protected and header.protected[-1] >= llm.n_ctx():
        yield f"it protects position {header.protected[-1]}, n_ctx is {llm.n_ctx()}"
    if header.system_tokens and max(header.system_tokens) >= n_vocab:
        yield f"its system prompt is outside the vocabulary of {n_vocab}"
    if not _budgets_fit(compression_of(llm), header.budgets):
        yield f"its budgets {header.budgets[:8]} are not those of this model's layers"


def _can_be_drawn_from(session: Content) -> bool:
    """A forbidden token may be minus infinity."""
    logits = session.logits
    return not len(logits) or not (np.isnan(logits).any() or np.isposinf(logits).any() or np.isneginf(logits).all())


def _budgets_fit(compression: Compression | None, budgets: list[int]) -> bool:
    if compression is None or not budgets:
        return not budgets
    layers = compression.layers
    return len(budgets) == len(layers) and all(
        budget >= compression.window if layer.evictable else budget == 0 for budget, layer in zip(budgets, layers)
    )
