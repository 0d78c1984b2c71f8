"""`Llama`: llama_cpp.Llama with a KV cache that keeps what matters."""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from typing import Any, Generator, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from ..engine import library, memory, native, rpc

library.offer()

import llama_cpp as llama_cpp  # noqa: E402  (after the environment names our library; others import it from here)
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from ..errors import BudgetError, CompressKVError, ContextError, EngineError, UnsupportedModelError  # noqa: E402
from ..model.profile import Profile  # noqa: E402
from ..model.resolve import resolve  # noqa: E402
from . import automatic  # noqa: E402
from .compression import GUIDE_TOKENS, Compression  # noqa: E402
from .conversation import Conversation  # noqa: E402
from .protection import named_positions  # noqa: E402
from .rebase import Rebase, check_positions, trained_limit  # noqa: E402

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


class Llama(Conversation, llama_cpp.Llama):
    """`llama_cpp.Llama` that compresses its KV cache after each prompt (CompressKV, arXiv:2508.02401).

    Without `kv_profile` it is the stock class. With one, `n_ctx` is the number of positions, no longer the memory:
    the cache grows with the prompt and shrinks to its budget at the prompt's end.
    """

    _compression: Optional[Compression] = None
    _rebase: Optional[Rebase] = None
    _n_positions = 0  # that the model may use: (set when it is loaded)

    def __init__(
        self,
        model_path: str,
        *,
        kv_profile: Optional[ProfileSource] = None,
        kv_budget: Union[int, float, None] = None,
        kv_tail: int = 512,
        kv_prefill: Optional[str] = None,
        kv_memory: Union[int, str, None] = None,
        kv_policy: str = "compresskv",
        kv_rebase: bool = False,
        kv_protect: bool = True,
        kv_guide: int = GUIDE_TOKENS,
        allow_calibration: bool = True,
        rpc_servers: Optional[str] = None,
        **kwargs: Any,
    ) -> None:
        """Load a GGUF.

        Args:
            model_path: path of the GGUF file, or a name of the catalogue that was pulled ("compresskv pull").
            kv_profile: path of a profile (.json), name of a shipped one, dict or Profile; None: the stock cache.
                "auto": the shipped profile of this model, or the user's own, or one that is measured now, once, in
                about three minutes.
            kv_budget: tokens that a layer keeps on average (int), or that as a fraction of the prompt (float in
                (0, 1]); None: the profile's default.
            kv_tail: rows for tokens that come after a compression, allocated beside the budget. When they are full
                while generating, the cache is compressed again.
            kv_prefill: "full": the whole prompt is in memory until its end (the paper). "chunked": compress whenever
                the tail is full, so that memory stays at budget and tail. "guided": as chunked, and the prompt's end
                runs ahead to score each chunk (Finch, arXiv:2408.00167). None: full if that fits `kv_memory`.
            kv_memory: bytes for the KV cache, as an int or "2GB"; None: what is free where it lies, less 256 MB.
            kv_policy: which tokens stay, by name: docs/policies.md. All but "compresskv" do without kv_profile.
            kv_rebase: go on where the positions end that the model was trained for: those that no layer holds any more
                are taken out and the kept keys rotated. `n_ctx` is then how long the text may get, up to 16 million
                tokens. False: ContextError there.
            kv_protect: never evict the first 4 tokens (fewer of a budget below 64) and a chat's system prompt; they
                count in the budget.
            kv_guide: tokens of the prompt's end that "guided" runs ahead at most, of a chat no more than the last user
                message.
            allow_calibration: False: kv_profile="auto" raises CalibrationError where it would have to calibrate.
            rpc_servers: "host:port,host:port": machines that take layers (with n_gpu_layers), as llama.cpp's --rpc;
                each runs `compresskv rpc-server`.
            **kwargs: as `llama_cpp.Llama`. With a profile flash attention is on, and sliding-window layers
                hold their window only (swa_full=False) unless asked otherwise.

        Raises:
            ModelError: a name of the catalogue that was not pulled, or one that is neither there nor a file.
            LibraryError: another llama.cpp is loaded.
            ProfileError: the profile is invalid or belongs to another model.
            PolicyError: there is no such policy, or it cannot run with these arguments.
            BudgetError: the budget is below the observation window, or not a budget at all.
            UnsupportedModelError: the architecture or an option cannot be compressed.
            EngineError: a server of `rpc_servers` does not answer.
            ValueError: as `llama_cpp.Llama`.
        """
        model_path = resolve(model_path)
        library.load()
        self._rpc_servers = rpc.add_servers(rpc_servers)
        self._n_lost = rpc.n_lost()
        if kv_profile is None and kv_policy != "compresskv":
            kv_profile = Profile.uniform(model_path)
        if kv_profile is not None:
            options = {**kwargs, "rpc_servers": rpc_servers}
            profile = _load_profile(kv_profile, model_path, allow_calibration, options)
            self._compression = Compression(
                profile, kv_budget, kv_tail, kv_prefill, kv_memory, kv_policy, kv_protect, kv_guide
            )
            kwargs = _options(kwargs)
        elif kv_budget is not None:
            raise BudgetError(f"kv_budget={kv_budget!r} needs kv_profile: a profile, or Profile.uniform(model_path)")
        elif kv_rebase:
            raise BudgetError("kv_rebase=True needs kv_profile: a profile, or Profile.uniform(model_path)")
        self._kv_rebase = kv_rebase
        try:
            super().__init__(model_path, **kwargs)
        except ValueError as error:
            ours = self._compression is not None and "llama_context" in str(error) and native.last_error()
            if isinstance(error, CompressKVError) or not ours:
                raise
            raise EngineError(f"{error}: {native.last_error()}") from error
        if self._rebase is not None:
            self._rebase.install()

    # Assigned by the base class before it loads the model. llama.cpp would ask every server of the process, of other
    # models as well.
    @property
    def model_params(self) -> Any:
        """llama_model_params, as in llama_cpp.Llama."""
        return self.__dict__["_model_params"]

    @model_params.setter
    def model_params(self, params: Any) -> None:
        self.__dict__["_model_params"] = params
        self._devices = rpc.devices(self._rpc_servers)  # kept: C holds a pointer to it
        if self._devices is not None:
            params.devices = ctypes.cast(self._devices, ctypes.c_void_p)

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
            places = (self.model_params, self.context_params, len(self._compression.layers))
            self._compression.free_bytes = functools.partial(memory.free_for_cache, *places)
            if not self._logits_all:  # one output a decode: no buffer for n_ubatch rows of logits
                self.context_params.n_outputs_max = 1
            self._n_positions = trained_limit(self)
            self._rebase = Rebase(self) if self._kv_rebase else None

    def n_ctx(self) -> int:
        """Tokens of the text that fit; with kv_rebase more than the context has positions."""
        return self._rebase.n_ctx if self._rebase is not None else int(super().n_ctx())

    def eval(self, tokens: Sequence[int]) -> None:
        """As llama_cpp.Llama.eval: decode tokens at the next positions.

        Called directly it does not compress (compress() does), but for kv_prefill="chunked" and "guided", which never
        hold more than budget and tail. Raises ContextError if the tokens do not fit n_ctx, EngineError if `n_tokens`
        was set back into compressed tokens, or if an RPC server is lost.
        """
        with rpc.watch(self._ctx.ctx, self._rpc_servers, self._n_lost):
            self._eval(tokens)

    def _eval(self, tokens: Sequence[int]) -> None:
        compression = self._compression
        if tokens:
            self._restored_logits = None
        if compression is None:
            super().eval(tokens)
            return
        self._check_room(tokens)
        if compression.prompt_pending:
            compression.prompt_pending = False
            self._eval_prompt(compression, list(tokens))
            compression.generating = True
        elif compression.generating or compression.always_bounded or not self._fits(len(tokens)):
            self._eval_bounded(compression, list(tokens))
        else:
            native.prompt_begin(self._ctx.ctx, len(tokens))
            self._decode(tokens)

    def _decode(self, tokens: Sequence[int]) -> None:
        """Decode through the policy, which may have to see queries before they are gone."""
        self._require("a policy").run.decode(self, tokens, super().eval)

    def _check_room(self, tokens: Sequence[int]) -> None:
        n_total = self.n_tokens + len(tokens)
        if n_total > self._n_ctx:
            raise ContextError(f"Requested tokens ({n_total}) exceed context window of {self._n_ctx}: raise n_ctx")
        if self._rebase is None:
            check_positions(n_total, self._n_positions)
        if not self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1):
            raise EngineError(
                f"n_tokens was set back to {self.n_tokens}, where tokens are compressed already: "
                "call reset() and evaluate the prompt again"
            )

    def _fits(self, n_tokens: int) -> bool:
        """Whether n_tokens more need no re-base."""
        return self._rebase is None or self._rebase.fits(n_tokens)

    def _eval_prompt(self, compression: Compression, tokens: List[int]) -> None:
        """Decode the rest of a prompt and compress if a layer is over its budget then."""
        tokens = compression.run.whole_text(self, tokens)
        n_total = self.n_tokens + len(tokens)
        compression.current = compression.budgets(n_total)
        native.protect(self._ctx.ctx, compression.protected)
        before = native.stats(self._ctx.ctx)
        mode = compression.choose_prefill(n_total, self._n_ctx, before)
        if mode == "full" and not self._fits(len(tokens)):
            mode = compression.bounded_prefill
        if mode == "full":
            native.prompt_begin(self._ctx.ctx, len(tokens))
            self._decode(tokens)
        else:
            native.reserve(self._ctx.ctx, compression.current)
            self._eval_bounded(compression, tokens, compression.guide(tokens) if mode == "guided" else [])
        if not compression.tail_holds(before, native.stats(self._ctx.ctx)):
            compression.current = compression.run.at_prompt_end(self, compression.mean_budget(n_total))

    def _eval_bounded(self, compression: Compression, tokens: List[int], guide: Sequence[int] = ()) -> None:
        """Decode tokens, compressing whenever the tail is full."""
        if not compression.current:
            compression.current = compression.budgets(self.n_tokens + len(tokens))
            native.protect(self._ctx.ctx, compression.protection.positions())
            native.reserve(self._ctx.ctx, compression.current)
        while len(tokens) > (room := compression.room(native.stats(self._ctx.ctx))):
            ahead = guide if len(guide) <= room else ()  # else the tail would have to grow for it
            n_chunk = room - len(ahead)
            self._rebase_for(compression, room)
            self._decode(tokens[:n_chunk])
            tokens = tokens[n_chunk:]
            self._evict(compression, ahead)
        self._rebase_for(compression, len(tokens))
        self._decode(tokens)

    def _rebase_for(self, compression: Compression, n_tokens: int) -> None:
        if self._rebase is not None:
            self._rebase.make_room(n_tokens, lambda: self._evict(compression, ()))

    def _evict(self, compression: Compression, guide: Sequence[int]) -> None:
        if not guide:
            compression.run.compress(self, compression.current)
            return
        self._decode(guide)
        self.n_tokens -= len(guide)
        compression.run.compress(self, compression.current, len(guide))

    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        """As llama_cpp.Llama.generate. With a profile, the cache is compressed once the prompt is decoded."""
        if self._compression is None:
            yield from super().generate(tokens, *args, **kwargs)
            return
        tokens = list(tokens)
        self._compression.begin(self._prompt_of(tokens))
        self._say_if_run_again(self._compression, tokens)
        try:
            yield from super().generate(tokens, *args, **kwargs)
        finally:
            self._compression.prompt_pending = self._compression.generating = False

    def compress(self, kv_budget: Union[int, float, None] = None) -> None:
        """Compress now, for callers of `eval`; `generate` and all completions do it by themselves.

        kv_budget: as in the constructor; None: the same. Every token but the observation window becomes frozen, even
        if all are kept. Raises BudgetError, EngineError.
        """
        compression = self._require("compress")
        budget = compression.budget if kv_budget is None else kv_budget
        mean = compression.mean_of(budget, self.n_tokens, evicts=compression.run.policy.evicts)
        native.protect(self._ctx.ctx, compression.protected)
        compression.run.at_prompt_end(self, mean, force=True)

    def protect(self, positions: Iterable[Union[int, range]]) -> None:
        """Never evict the tokens at these positions and ranges; they count in the budget.

        Replaces an earlier set; [] ends it. Sinks and system prompt are protected beside it (kv_protect). Raises
        ContextError for what is no position; a budget that they do not fit is a BudgetError of the next prompt.
        """
        compression = self._require("protect")
        compression.protection.named = named_positions(positions, self._n_ctx)
        native.protect(self._ctx.ctx, compression.protected)

    def kv_stats(self) -> KVStats:
        """Tokens and bytes of the cache, now."""
        stats = native.stats(self._ctx.ctx)
        n_layer = llama_cpp.llama_model_n_layer(self.model)
        kept = tuple(len(self.kv_kept(layer)) for layer in range(n_layer))
        shared = {field: value for field, value in vars(stats).items() if field in KVStats.__dataclass_fields__}
        return KVStats(n_tokens_kept=kept, **shared)

    def kv_kept(self, layer: int) -> npt.NDArray[np.int64]:
        """Positions of the tokens that a layer holds, ascending."""
        if self._compression is None:
            return np.arange(self.n_tokens, dtype=np.int64)
        return native.positions(self._ctx.ctx, layer)

    def close(self) -> None:
        """As llama_cpp.Llama.close; also after a constructor that raised."""
        if "_stack" in self.__dict__:
            super().close()

    def _require(self, what: str) -> Compression:
        if self._compression is None:
            raise EngineError(f"{what} needs a compressed cache: load the model with kv_profile")
        return self._compression

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state["rpc_servers"] = ",".join(self._rpc_servers) or None
        if self._compression is not None:
            state["kv_profile"] = self._compression.profile
            state["kv_budget"] = self._compression.budget
            state["kv_tail"] = self._compression.tail
            state["kv_prefill"] = self._compression.prefill
            state["kv_memory"] = self._compression.memory
            state["kv_policy"] = self._compression.policy
            state["kv_rebase"] = self._rebase is not None
            state["n_ctx"] = self._rebase.n_ctx if self._rebase is not None else state["n_ctx"]
            state["kv_protect"] = self._compression.protection.automatic
            state["kv_guide"] = self._compression.guide_tokens
        return state


def _load_profile(
    source: ProfileSource, model_path: str, allow_calibration: bool, options: Mapping[str, Any]
) -> Profile:
    if source != "auto":
        return Profile.load(source)
    return automatic.profile(model_path, allow_calibration, options)


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The caller's options for llama_cpp.Llama, with what a compressed cache needs."""
    if kwargs.get("embedding"):
        raise UnsupportedModelError("embedding=True keeps no cache to compress: load the model without kv_profile")
    if kwargs.get("flash_attn") is False:
        raise UnsupportedModelError("a compressed KV cache needs flash attention: leave out flash_attn=False")
    return {"swa_full": False, **kwargs, "flash_attn": True}
