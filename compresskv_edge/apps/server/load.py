"""Several contexts over one set of weights, built by llama-cpp-python's own loader from its own settings."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Dict, List, Optional, Tuple

from ...model.gguf_file import GGUF
from ...model.profile import Profile
from ...runtime.llama import Llama, llama_cpp
from .settings import MAX_DEFAULT_CTX, ModelSettings


class Aborted(Exception):
    """A generation that was told to stop."""


class SlotLlama(Llama):
    """A `Llama` that another thread may stop, also in the middle of a long prompt."""

    def __init__(self, model_path: str, *, n_ctx: int, **kwargs: Any) -> None:
        super().__init__(model_path, n_ctx=n_ctx or _default_ctx(model_path), **kwargs)
        # called in the thread that generates
        self.before_prompt: Callable[[Sequence[int]], object] = lambda _: None
        self.before_decode: Callable[[], object] = lambda: None
        self.after_token: Callable[[int], object] = lambda _: None
        self._spelled: Tuple[List[int], bytes] = ([], b"")  # the answer so far, and its text
        self._stop = ctypes.create_string_buffer(2)
        self._stoppable()

    def stop(self) -> None:
        """End the running call with Aborted, soon. From any thread; stays in force until `go`."""
        self._stop[0] = b"\1"

    def go(self) -> None:
        """Calls may run again."""
        self._stop[0] = b"\0"

    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        """As Llama.generate, and whoever watches is told."""
        self.before_prompt(tokens)
        self._spelled = ([], b"")
        for token in super().generate(tokens, *args, **kwargs):
            self.after_token(token)
            yield token

    def detokenize(self, tokens: List[int], prev_tokens: Optional[List[int]] = None, special: bool = False) -> bytes:
        """As Llama.detokenize; create_completion asks for the whole answer with every token: the new one is spelled."""
        known, text = self._spelled
        new = tokens[len(known) :]
        plain = not special and isinstance(self.tokenizer_, llama_cpp.LlamaTokenizer)
        begins = self.token_bos() in (*tokens[:1], *new[:1])  # a space after it is dropped
        if not plain or begins or tokens[: len(known)] != known:
            return bytes(super().detokenize(tokens, prev_tokens, special))
        text += bytes(super().detokenize(new))
        if len(new) == 1:
            self._spelled = (list(tokens), text)
        return text

    def _stoppable(self) -> None:
        # ggml asks after every node of a graph. A Python callback would have to wait for the interpreter's lock each
        # time, which other slots may hold; strlen is a C function that reads one byte: 0 goes on, "\1" stops.
        c_library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
        asks = ctypes.cast(c_library.strlen, llama_cpp.ggml_abort_callback)
        llama_cpp.llama_set_abort_callback(self.ctx, asks, ctypes.cast(self._stop, ctypes.c_void_p))
        decode = self._ctx.decode

        @functools.wraps(decode)
        def guarded(batch: Any) -> None:
            if self._stop[0] != b"\0":
                raise Aborted
            self.before_decode()
            try:
                decode(batch)
            except RuntimeError:
                if self._stop[0] != b"\0":
                    raise Aborted from None
                raise

        self._ctx.decode = guarded


def load_slots(settings: ModelSettings) -> List[SlotLlama]:
    """The model of `settings`, once, and n_slots contexts of it. Raises what `compresskv_edge.Llama` raises."""
    slots: List[SlotLlama] = []
    try:
        for _ in range(settings.n_slots):
            slots.append(_load(settings, slots[0]._model if slots else None))
    except BaseException:
        close_slots(slots)
        raise
    return slots


def close_slots(slots: List[SlotLlama]) -> None:
    """Free all contexts, then the weights, which belong to the first."""
    for slot in reversed(slots):
        slot.close()


def _load(settings: ModelSettings, weights: Optional[Any]) -> SlotLlama:
    from llama_cpp.server import model as loader

    ours = type("SlotLlama", (SlotLlama,), {"__init__": functools.partialmethod(_init, settings.kv_options())})
    with contextlib.ExitStack() as stack:
        # the loader calls llama_cpp.Llama by that name; nobody else sees the exchange
        stack.enter_context(_replaced(loader, "llama_cpp", _Namespace(llama_cpp, Llama=ours)))
        if weights is not None:
            stack.enter_context(_replaced(llama_cpp._internals, "LlamaModel", lambda **_: _Shared(weights)))
        llama: SlotLlama = loader.LlamaProxy.load_llama_from_model_settings(settings)
    return llama


def _init(self: SlotLlama, kv_options: Dict[str, Any], model_path: str, **kwargs: Any) -> None:
    if kv_options.get("kv_profile") == "uniform":
        kv_options = {**kv_options, "kv_profile": Profile.uniform(model_path)}
    SlotLlama.__init__(self, model_path, **kwargs, **kv_options)


def _default_ctx(model_path: str) -> int:
    metadata = GGUF.open(model_path).metadata
    trained = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return min(int(trained or MAX_DEFAULT_CTX), MAX_DEFAULT_CTX)


@contextlib.contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


class _Namespace:
    """A module with other values for some of its names."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Shared:
    """Weights that another context owns: closing this does nothing."""

    def __init__(self, weights: Any) -> None:
        self._weights = weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._weights, name)

    def close(self) -> None:
        """Whoever loaded them frees them."""
