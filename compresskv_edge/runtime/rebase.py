"""Endless text: re-based positions behind a Llama that goes on counting its tokens from the start."""

from __future__ import annotations

import weakref
from typing import Any, Callable, Sequence

from ..engine import native
from ..errors import ContextError, UnsupportedModelError
from . import binding
from .binding import LoadedModel, llama_cpp
from .positions import Positions

_MAX_TOKENS = 1 << 24  # llama_cpp keeps 4 bytes a token of n_ctx


class Rebase(Positions):
    """What kv_rebase=True makes of them. `n_ctx` stays the tokens of the text; the context has `limit` positions."""

    n_ctx: int

    def __init__(self, llm: LoadedModel, architecture: str) -> None:
        """Sizes the context that is about to be created. Raises UnsupportedModelError, ContextError."""
        super().__init__(llm)
        self._llm: LoadedModel = weakref.proxy(llm)
        self.n_ctx = int(llm.context_params.n_ctx) or self.trained
        if self.n_ctx > _MAX_TOKENS:
            raise ContextError(f"n_ctx is {self.n_ctx}: with kv_rebase=True use up to {_MAX_TOKENS} tokens of text")
        if llama_cpp.llama_model_rope_type(llm.model) < 0:
            raise UnsupportedModelError(
                f"kv_rebase=True: architecture {architecture!r} has no rotary positions to re-base"
            )
        self.limit = min(self.n_ctx, self.trained)
        llm.context_params.n_ctx = self.limit

    def install(self) -> None:
        """From now on tokens and removals go by the text, the engine's by position."""
        self.limit = min(self.limit, binding.n_positions(self._llm))
        binding.wrap(self._llm, _Context, _Batch)

    def check(self, n_total: int) -> None:
        """Any number of tokens is fine."""

    def position(self) -> int:
        """The position of the next token."""
        return int(self._llm.n_tokens) - native.seq_stats(self._llm.ctx).n_rebased

    def fits(self, n_tokens: int) -> bool:
        """Whether n_tokens more need no re-base."""
        return self.position() + n_tokens <= self.limit

    def make_room(self, n_tokens: int, evict: Callable[[], None]) -> None:
        """Re-base if n_tokens more do not fit, after an eviction, so that there are gaps to close."""
        if self.fits(n_tokens):
            return
        evict()
        native.rebase(self._llm.ctx, self.limit - max(n_tokens, self.limit // 4))


class _Context:
    """llama_cpp's LlamaContext, whose removals are given in tokens of the text."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def kv_cache_seq_rm(self, seq_id: int, p0: int, p1: int) -> bool:
        stats = native.seq_stats(self._inner.ctx)
        if p0 <= 0 and p1 < 0:
            return bool(self._inner.kv_cache_seq_rm(seq_id, p0, p1))
        if p0 < stats.n_frozen:
            return False  # the engine would say so too, but for a position that the subtraction made negative
        return bool(self._inner.kv_cache_seq_rm(seq_id, p0 - stats.n_rebased, p1 if p1 < 0 else p1 - stats.n_rebased))


class _Batch:
    """llama_cpp's LlamaBatch, filled by the tokens of the text."""

    def __init__(self, inner: Any, context: Any) -> None:
        self._inner = inner
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def set_batch(self, batch: Sequence[int], n_past: int, logits_all: bool) -> None:
        n_rebased = native.seq_stats(self._context.ctx).n_rebased
        self._inner.set_batch(batch=batch, n_past=n_past - n_rebased, logits_all=logits_all)
