"""Endless text: re-based positions behind a Llama that goes on counting its tokens from the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Sequence

from ..engine import native
from ..errors import ContextError, PolicyError, UnsupportedModelError

if TYPE_CHECKING:
    from .llama import Llama

_MAX_TOKENS = 1 << 24  # llama_cpp keeps 4 bytes a token of n_ctx
_ROPE_OPTIONS = ("rope_freq_base", "rope_freq_scale", "yarn_orig_ctx")  # 0: as the model says


def trained_limit(llm: Llama) -> int:
    """Positions that a model may use: what it was trained for, or n_ctx if the caller scales RoPE."""
    import llama_cpp

    params = llm.context_params
    scaled = params.rope_scaling_type > 0 or any(getattr(params, name) for name in _ROPE_OPTIONS)
    trained = int(llama_cpp.llama_model_n_ctx_train(llm.model))
    return (int(params.n_ctx) or trained) if scaled or trained <= 0 else trained


def check_positions(n_total: int, limit: int) -> None:
    """Raise ContextError if tokens would get positions that the model was not trained for."""
    if n_total > limit:
        raise ContextError(
            f"Requested tokens ({n_total}) exceed the {limit} positions that the model was trained for: load it with "
            "kv_rebase=True, which re-bases positions there, or scale RoPE (rope_scaling_type, rope_freq_scale)"
        )


class Rebase:
    """What kv_rebase=True adds to a Llama. `n_ctx` stays the tokens of the text; the context has `limit` positions."""

    def __init__(self, llm: Llama) -> None:
        """Before the context is created: size it. Raises UnsupportedModelError, PolicyError, ContextError."""
        import llama_cpp

        self._llm = llm
        self.n_ctx = int(llm.context_params.n_ctx) or trained_limit(llm)
        if self.n_ctx > _MAX_TOKENS:
            raise ContextError(f"n_ctx is {self.n_ctx}: with kv_rebase=True use up to {_MAX_TOKENS} tokens of text")
        if llama_cpp.llama_model_rope_type(llm.model) < 0:
            name = llm._model.metadata().get("general.architecture", "")
            raise UnsupportedModelError(f"kv_rebase=True: architecture {name!r} has no rotary positions to re-base")
        compression = llm._compression
        if compression is not None and not compression.run.recorder.idle:
            raise PolicyError(
                f"kv_rebase=True: kv_policy={compression.policy!r} writes queries down, which cannot be re-based: use "
                "'compresskv', or kv_rebase=False"
            )
        self.limit = min(self.n_ctx, trained_limit(llm))
        llm.context_params.n_ctx = self.limit

    def install(self) -> None:
        """After the context is created: its tokens and removals go by the text, the engine's by position."""
        self.limit = min(self.limit, int(self._llm._ctx.n_ctx()))
        self._llm._ctx = _Context(self._llm._ctx)
        self._llm._batch = _Batch(self._llm._batch, self._llm._ctx)

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
