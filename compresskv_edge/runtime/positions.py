"""Positions: which ones a model may use, and who makes room when they run out."""

from __future__ import annotations

from typing import Callable, Optional

from ..errors import ContextError
from .binding import LoadedModel, llama_cpp

_ROPE_OPTIONS = ("rope_freq_base", "rope_freq_scale", "yarn_orig_ctx")  # 0: as the model says


def trained_limit(llm: LoadedModel) -> int:
    """Positions that a model may use: what it was trained for, or n_ctx if the caller scales RoPE."""
    params = llm.context_params
    scaled = params.rope_scaling_type > 0 or any(getattr(params, name) for name in _ROPE_OPTIONS)
    trained = int(llama_cpp.llama_model_n_ctx_train(llm.model))
    return (int(params.n_ctx) or trained) if scaled or trained <= 0 else trained


def check_window(n_total: int, n_ctx: int) -> None:
    """Raise ContextError if a text would get longer than n_ctx."""
    if n_total > n_ctx:
        raise too_long(n_total, n_ctx)


def too_long(n_total: int, n_ctx: int) -> ContextError:
    """For a text of n_total tokens."""
    return ContextError(f"Requested tokens ({n_total}) exceed context window of {n_ctx}: raise n_ctx")


class Positions:
    """Those of a text that may not get longer than `trained`, what the model was trained for."""

    n_ctx: Optional[int] = None  # tokens of the text that fit, where those are more than the context has positions

    def __init__(self, llm: LoadedModel) -> None:
        """After the model is loaded, before its context is created."""
        self.trained = trained_limit(llm)

    def install(self) -> None:
        """After the context is created."""

    def check(self, n_total: int) -> None:
        """Raise ContextError if tokens would get positions that the model was not trained for."""
        if n_total > self.trained:
            raise ContextError(
                f"Requested tokens ({n_total}) exceed the {self.trained} positions that the model was trained for: "
                "load it with kv_rebase=True, which re-bases positions there, or scale RoPE (rope_scaling_type, "
                "rope_freq_scale)"
            )

    def fits(self, n_tokens: int) -> bool:
        """Whether n_tokens more can be decoded as they are."""
        return True

    def make_room(self, n_tokens: int, evict: Callable[[], None]) -> None:
        """Let n_tokens more fit, by an eviction if need be."""
