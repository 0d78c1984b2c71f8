"""The observation window's queries, which tokens behind it take along when they are removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..engine import native
from . import binding


def know(llm: Any, window: int, n_ahead: int, decode: Callable[[Sequence[int]], None]) -> None:
    """Decode the last `window` tokens again if their queries are gone: after a text was cut back, or behind a guide.

    n_ahead: tokens behind `llm.n_tokens` that are in the cache too. Where sliding-window layers refuse the removal
    nothing changes, and the compression that follows raises EngineError.
    """
    stats = native.seq_stats(llm.ctx)
    if stats.n_queries >= window or stats.n_tail_used < window:  # or there is too little in the tail to compress at all
        return
    n_tokens, end = llm.n_tokens, llm.n_tokens + n_ahead
    if binding.remove_from(llm, end - window):
        llm.n_tokens = end - window
        decode(llm.input_ids[end - window : end].tolist())
        llm.n_tokens = n_tokens
