"""`Llama`: llama_cpp.Llama with a KV cache that keeps what matters."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Generator, List, Mapping, Optional, Sequence, Tuple, Union

from . import native

native.offer_library()

import llama_cpp  # noqa: E402  (after the environment names our library)
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from .budget import resolve_mean_budget  # noqa: E402
from .errors import BudgetError, CompressKVError, ContextError, EngineError, UnsupportedModelError  # noqa: E402
from .profile import ModelFacts, Profile  # noqa: E402

ProfileSource = Union[str, "os.PathLike[str]", Mapping[str, Any], Profile]


@dataclass(frozen=True)
class KVStats:
    """What the KV cache holds. Sizes in bytes, times in milliseconds.

    `n_tokens_kept` has one entry a layer (n_layer,); sliding-window layers count what their window holds.
    `kv_bytes_stock` is what llama.cpp allocates for the same n_ctx. `window_bytes` comes on top of `kv_bytes`: the
    queries of the observation window.
    """

    n_tokens_seen: int
    n_tokens_kept: Tuple[int, ...]
    kv_bytes: int
    kv_bytes_peak: int
    kv_bytes_stock: int
    n_evictions: int
    eviction_ms: float
    window_bytes: int = 0


class _Compression:
    """A profile on its way to one model: what the user asked for, and after loading what that means for the model."""

    def __init__(self, profile: Profile, kv_budget: Union[int, float, None], kv_tail: int) -> None:
        self.profile = profile
        self.budget = profile.default_budget if kv_budget is None else kv_budget
        self.tail = kv_tail
        self.layers: List[native.Layer] = []
        self.prompt_pending = False
        self.mean_budget(0)  # says now what is wrong with the budget
        if isinstance(kv_tail, bool) or not isinstance(kv_tail, int) or kv_tail < 2 * self.window:
            raise BudgetError(f"kv_tail is {kv_tail!r}: use at least {2 * self.window} tokens, two observation windows")

    @property
    def window(self) -> int:
        return self.profile.settings.window

    def attach(self, model: Any) -> None:
        """Check the profile against a loaded model (llama_cpp's LlamaModel) and hang it there."""
        native.check_model(model.model)
        n_layer = llama_cpp.llama_model_n_layer(model.model)
        self.layers = native.model_layers(model.model, n_layer)
        self.profile.check(_facts(model, self.layers))
        settings = self.profile.settings
        native.attach(
            model.model,
            self.profile.heads_used(),
            window=settings.window,
            kernel=settings.kernel,
            pooling=settings.pooling,
            n_tail=self.tail,
        )

    def mean_budget(self, n_tokens: int) -> int:
        return resolve_mean_budget(self.budget, n_tokens, window=self.window)

    def budgets(self, n_tokens: int) -> List[int]:
        """Tokens a layer after a prompt of n_tokens: (n_layer,), 0 where a layer is not evictable."""
        return self.profile.budgets(self.mean_budget(n_tokens), [layer.evictable for layer in self.layers])


def _facts(model: Any, layers: Sequence[native.Layer]) -> ModelFacts:
    metadata = model.metadata()
    return ModelFacts(
        architecture=metadata.get("general.architecture", ""),
        n_layer=len(layers),
        n_head=tuple(layer.n_head for layer in layers),
        n_head_kv=tuple(layer.n_head_kv for layer in layers),
        head_dim=tuple(layer.head_dim_k for layer in layers),
        name=metadata.get("general.name", ""),
    )


class Llama(llama_cpp.Llama):
    """`llama_cpp.Llama` that compresses its KV cache after each prompt (CompressKV, arXiv:2508.02401).

    Without `kv_profile` it is the stock class. With one, `n_ctx` is the number of positions, no longer the memory:
    the cache grows with the prompt and shrinks to its budget at the prompt's end.
    """

    _compression: Optional[_Compression] = None

    def __init__(
        self,
        model_path: str,
        *,
        kv_profile: Optional[ProfileSource] = None,
        kv_budget: Union[int, float, None] = None,
        kv_tail: int = 512,
        **kwargs: Any,
    ) -> None:
        """Load a GGUF.

        Args:
            model_path: path of the GGUF file.
            kv_profile: path of a profile (.json), name of a shipped one, dict or Profile; None: the stock cache.
            kv_budget: tokens that a layer keeps on average (int), or that as a fraction of the prompt (float in
                (0, 1]); None: the profile's default.
            kv_tail: rows for tokens that come after a compression, allocated beside the budget.
            **kwargs: as `llama_cpp.Llama`. With a profile flash attention is on, and sliding-window layers
                hold their window only (swa_full=False) unless asked otherwise.

        Raises:
            LibraryError: another llama.cpp is loaded.
            ProfileError: the profile is invalid or belongs to another model.
            BudgetError: the budget is below the observation window, or not a budget at all.
            UnsupportedModelError: the architecture or an option cannot be compressed.
            ValueError: as `llama_cpp.Llama`.
        """
        native.library()
        if kv_profile is not None:
            self._compression = _Compression(Profile.load(kv_profile), kv_budget, kv_tail)
            kwargs = _options(kwargs)
        elif kv_budget is not None:
            raise BudgetError(f"kv_budget={kv_budget!r} needs kv_profile: a profile, or Profile.uniform(model_path)")
        try:
            super().__init__(model_path, **kwargs)
        except ValueError as error:
            if self._compression is None or isinstance(error, CompressKVError) or not native.last_error():
                raise
            raise EngineError(f"{error}: {native.last_error()}") from error

    # The base class creates the model and then the context, in one go. The profile must hang on the model before the
    # context is created, so that the full cache is never allocated: that moment is this assignment.
    @property
    def _model(self) -> Any:
        return self.__dict__["_loaded_model"]

    @_model.setter
    def _model(self, model: Any) -> None:
        self.__dict__["_loaded_model"] = model
        if self._compression is not None:
            self._compression.attach(model)

    def eval(self, tokens: Sequence[int]) -> None:
        """As llama_cpp.Llama.eval: decode tokens at the next positions.

        Raises ContextError if they do not fit n_ctx, EngineError if `n_tokens` was set back into compressed tokens.
        """
        if self._compression is None:
            super().eval(tokens)
            return
        self._make_room(tokens)
        super().eval(tokens)
        if self._compression.prompt_pending:
            self._compression.prompt_pending = False
            native.prompt_end(self._ctx.ctx, self._compression.budgets(self.n_tokens))

    def _make_room(self, tokens: Sequence[int]) -> None:
        n_total = self.n_tokens + len(tokens)
        if n_total > self._n_ctx:
            raise ContextError(f"Requested tokens ({n_total}) exceed context window of {self._n_ctx}: raise n_ctx")
        if not self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1):
            raise EngineError(
                f"n_tokens was set back to {self.n_tokens}, where tokens are compressed already: "
                "call reset() and evaluate the prompt again"
            )
        native.prompt_begin(self._ctx.ctx, len(tokens))

    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        """As llama_cpp.Llama.generate. With a profile, the cache is compressed once the prompt is decoded."""
        if self._compression is None:
            yield from super().generate(tokens, *args, **kwargs)
            return
        self._compression.prompt_pending = True
        try:
            yield from super().generate(tokens, *args, **kwargs)
        finally:
            self._compression.prompt_pending = False

    def compress(self, kv_budget: Union[int, float, None] = None) -> None:
        """Compress now, for callers of `eval`; `generate` and all completions do it by themselves.

        kv_budget: as in the constructor; None: the same. Every token but the observation window becomes frozen, even
        if all are kept. Raises BudgetError, EngineError.
        """
        compression = self._require("compress")
        if kv_budget is not None:
            compression = _Compression(compression.profile, kv_budget, compression.tail)
            compression.layers = self._require("compress").layers
        native.compress(self._ctx.ctx, compression.budgets(self.n_tokens))

    def kv_stats(self) -> KVStats:
        """Tokens and bytes of the cache, now."""
        stats = native.stats(self._ctx.ctx)
        n_layer = llama_cpp.llama_model_n_layer(self.model)
        return KVStats(n_tokens_kept=tuple(len(self.kv_kept(layer)) for layer in range(n_layer)), **vars(stats))

    def kv_kept(self, layer: int) -> npt.NDArray[np.int64]:
        """Positions of the tokens that a layer holds, ascending."""
        if self._compression is None:
            return np.arange(self.n_tokens, dtype=np.int64)
        return native.positions(self._ctx.ctx, layer)

    def close(self) -> None:
        """As llama_cpp.Llama.close; also after a constructor that raised."""
        if "_stack" in self.__dict__:
            super().close()

    def _require(self, what: str) -> _Compression:
        if self._compression is None:
            raise EngineError(f"{what} needs a compressed cache: load the model with kv_profile")
        return self._compression

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if self._compression is not None:
            state["kv_profile"] = self._compression.profile
            state["kv_budget"] = self._compression.budget
            state["kv_tail"] = self._compression.tail
        return state


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The caller's options for llama_cpp.Llama, with what a compressed cache needs."""
    if kwargs.get("embedding"):
        raise UnsupportedModelError("embedding=True keeps no cache to compress: load the model without kv_profile")
    if kwargs.get("flash_attn") is False:
        raise UnsupportedModelError("a compressed KV cache needs flash attention: leave out flash_attn=False")
    return {"swa_full": False, **kwargs, "flash_attn": True}
