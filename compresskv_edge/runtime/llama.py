"""`Llama`: llama_cpp.Llama with a KV cache that keeps what matters."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import os
from typing import Any, Generator, List, Mapping, Optional, Sequence, Union
from weakref import WeakValueDictionary

from ..engine import library, memory, native, rpc
from ..errors import (
    BudgetError,
    CompressKVError,
    EngineError,
    PolicyError,
    TokenError,
    UnsupportedModelError,
)
from ..model.profile import Profile
from ..model.resolve import resolve
from . import automatic, binding
from .binding import llama_cpp as llama_cpp
from .compression import Compression
from .conversation import Conversing
from .ending import WindowEnd, of_window
from .kv import KVControl
from .kv import KVStats as KVStats
from .positions import Positions, check_window
from .prefill import Reader
from .rebase import Rebase
from .settings import GUIDE_TOKENS, TAIL_TOKENS, KVSettings, check_sizes
from .tokens import check_bias, checked
from .turn import CacheTurn

_COMPLETION = list(inspect.signature(llama_cpp.Llama.create_completion).parameters)[2:]  # behind self and the prompt

ProfileSource = Union[str, "os.PathLike[str]", Mapping[str, Any], Profile]


class Llama(Conversing, KVControl, llama_cpp.Llama):
    """`llama_cpp.Llama` that compresses its KV cache after each prompt (CompressKV, arXiv:2508.02401).

    Without `kv_profile` it is the stock class. With one, `n_ctx` is the number of positions, no longer the memory:
    the cache grows with the prompt and shrinks to its budget at the prompt's end.
    """

    _compression: Optional[Compression] = None  # until the model is loaded, then the reader's

    def __init__(
        self,
        model_path: str,
        *,
        kv_profile: Optional[ProfileSource] = None,
        kv_budget: Union[int, float, None] = None,
        kv_tail: int = TAIL_TOKENS,
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
            ModelError: a name of the catalogue that was not pulled, or one that is neither there nor a file; a chat
                template that does not compile, where no chat_format is given.
            LibraryError: another llama.cpp is loaded.
            ProfileError: the profile is invalid or belongs to another model.
            PolicyError: there is no such policy, or it cannot run with these arguments.
            BudgetError: the budget is below the observation window, or not a budget at all.
            ContextError: n_ctx, n_batch, n_ubatch or a number of threads is one that llama.cpp cannot hold.
            UnsupportedModelError: the architecture or an option cannot be compressed.
            EngineError: a server of `rpc_servers` does not answer.
            ValueError: as `llama_cpp.Llama`.
        """
        self._turn, self._calls = CacheTurn(), WeakValueDictionary()
        check_sizes(kwargs)
        model_path = resolve(model_path)
        library.load()
        self._rpc_servers = rpc.add_servers(rpc_servers)
        self._n_lost = rpc.n_lost()
        if kv_profile is None and kv_policy != "compresskv":
            kv_profile = Profile.uniform(model_path)
        if kv_profile is not None:
            options, kwargs = {**kwargs, "rpc_servers": rpc_servers}, _options(kwargs)
            profile = _load_profile(kv_profile, model_path, allow_calibration, options)
            budget = profile.default_budget if kv_budget is None else kv_budget
            self._compression = Compression(
                KVSettings(profile, budget, kv_tail, kv_prefill, kv_memory, kv_policy, kv_rebase, kv_protect, kv_guide)
            )
        elif kv_budget is not None:
            raise BudgetError(f"kv_budget={kv_budget!r} needs kv_profile: a profile, or Profile.uniform(model_path)")
        elif kv_rebase:
            raise BudgetError("kv_rebase=True needs kv_profile: a profile, or Profile.uniform(model_path)")
        try:
            super().__init__(model_path, **kwargs)
        except ValueError as error:
            ours = self._compression is not None and "llama_context" in str(error) and native.last_error()
            if isinstance(error, CompressKVError) or not ours:
                raise
            raise EngineError(f"{error}: {native.last_error()}") from error
        self._check_template(kwargs.get("chat_format") or kwargs.get("chat_handler"))
        if self._reader is not None:
            self._reader.positions.install()

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
            self._reader = self._attach(self._compression, model)

    def _attach(self, compression: Compression, model: Any) -> Reader:
        """What of the profile hangs on the model, and how large the context is going to be."""
        compression.attach(model)
        places = (self.model_params, self.context_params, len(compression.layers))
        compression.free_bytes = functools.partial(memory.free_for_cache, *places)
        if not binding.keeps_all_logits(self):  # one output a decode: no buffer for n_ubatch rows of logits
            self.context_params.n_outputs_max = 1
        positions = Positions(self)
        if compression.settings.rebase:
            positions = Rebase(self, compression.profile.model.architecture)
            _check_rebase(compression)
        return Reader(self, compression, positions)

    def n_ctx(self) -> int:
        """Tokens of the text that fit, as asked for; with kv_rebase more than the context has positions."""
        fits = None if self._reader is None else self._reader.positions.n_ctx
        return binding.asked_positions(self) if fits is None else fits

    def eval(self, tokens: Sequence[int]) -> None:
        """As llama_cpp.Llama.eval: decode tokens at the next positions.

        Called directly it does not compress (compress() does), but for kv_prefill="chunked" and "guided", which never
        hold more than budget and tail. Raises ContextError if the tokens do not fit n_ctx, EngineError if `n_tokens`
        was set back into compressed tokens, or if an RPC server is lost, TokenError for what is no token.
        """
        tokens = checked(tokens, self.n_vocab())
        with self._turn.call(), rpc.watch(self.ctx, self._rpc_servers, self._n_lost):
            if tokens:
                self._restored_logits = None
            if self._reader is None:
                check_window(self.n_tokens + len(tokens), self.n_ctx())
                super().eval(tokens)
            else:
                self._reader.eval(tokens)

    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        """As llama_cpp.Llama.generate. With a profile, the cache is compressed once the prompt is decoded.

        Other calls wait for it, or end it, as for a stream of create_completion. Raises TokenError, also for no tokens
        at all, and what `eval` raises.
        """
        return self._turn.stream(self._generate(tokens, *args, **kwargs))

    def _generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        tokens = checked(tokens, self.n_vocab())
        if not tokens:
            raise TokenError("the prompt is empty: give at least one token")
        prompt = self._begun(tokens)
        if self._reader is None:
            yield from self._sampled(tokens, *args, **kwargs)
            return
        with self._reader.generating(prompt):
            self._say_if_run_again(self._reader.compression, prompt.tokens)
            yield from self._sampled(tokens, *args, **kwargs)

    def _sampled(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        end = kwargs.get("stopping_criteria")
        if not isinstance(end, WindowEnd):
            yield from super().generate(tokens, *args, **kwargs)
            return
        sampled = super().generate(tokens, *args, **{**kwargs, "stopping_criteria": end.own})
        yield from end.until(lambda: self.n_tokens >= self.n_ctx(), sampled)

    def create_completion(self, prompt: Union[str, List[int]], *args: Any, **kwargs: Any) -> Any:
        """As llama_cpp.Llama.create_completion.

        Calls of other threads wait until this one, or its stream, is over. A stream that is left open ends with the
        next call of its thread, and raises EngineError where it is resumed after that. Raises ContextError if the
        prompt does not fit n_ctx, TokenError for a token or a logit_bias of no token.
        """
        options = {**dict(zip(_COMPLETION, args)), **kwargs}
        end = options["stopping_criteria"] = WindowEnd(options.get("stopping_criteria"))
        check_bias(options.get("logit_bias") or {}, self.n_vocab())
        if not isinstance(prompt, str):
            prompt = checked(prompt, self.n_vocab())
        try:
            with contextlib.nullcontext() if options.get("stream") else self._turn.call():
                answer = super().create_completion(prompt, **options)
        except ValueError as error:
            raise of_window(error, self.n_ctx()) from error
        return end.named(answer) if isinstance(answer, dict) else self._turn.stream(end.chunks(answer, self.n_ctx()))

    def close(self) -> None:
        """As llama_cpp.Llama.close; also after a constructor that raised."""
        if binding.was_opened(self):
            super().close()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state["rpc_servers"] = ",".join(self._rpc_servers) or None
        if self.kv_settings is not None:
            state.update(self.kv_settings.arguments(), n_ctx=self.n_ctx())
        return state


def _check_rebase(compression: Compression) -> None:
    if not compression.run.recorder.idle:
        raise PolicyError(
            f"kv_rebase=True: kv_policy={compression.settings.policy!r} writes queries down, which cannot be re-based: "
            "use 'compresskv', or kv_rebase=False"
        )


def _load_profile(
    source: ProfileSource, model_path: str, allow_calibration: bool, options: Mapping[str, Any]
) -> Profile:
    if source != "auto":
        return Profile.load(source)
    return automatic.profile(model_path, allow_calibration, options)


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The caller's options for llama_cpp.Llama, with what a compressed cache needs."""
    if kwargs.get("vocab_only"):
        raise UnsupportedModelError("vocab_only=True loads no layers to compress: load the model without kv_profile")
    if kwargs.get("embedding"):
        raise UnsupportedModelError("embedding=True keeps no cache to compress: load the model without kv_profile")
    if kwargs.get("flash_attn") is False:
        raise UnsupportedModelError("a compressed KV cache needs flash attention: leave out flash_attn=False")
    return {"swa_full": False, **kwargs, "flash_attn": True}
