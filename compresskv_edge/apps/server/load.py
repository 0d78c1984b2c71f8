"""Several contexts over one set of weights, built by llama-cpp-python's own loader from its own settings."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Dict, List, Optional, Tuple

from ...errors import EngineError
from ...model.gguf_file import GGUF
from ...model.profile import Profile
from ...runtime import binding
from ...runtime.llama import Llama, llama_cpp
from ...runtime.stop import StopFlag
from .settings import MAX_DEFAULT_CTX, ModelSettings

_log = logging.getLogger(__name__)


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
        self._flag = StopFlag()
        self._flag.watched_by(self)
        binding.guard_decoding(self, self._guard)

    def stop(self) -> None:
        """End the running call with Aborted, soon. From any thread; stays in force until `go`."""
        self._flag.up()

    def go(self) -> None:
        """Calls may run again."""
        self._flag.down()

    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        """As Llama.generate, and whoever watches is told."""
        self.before_prompt(tokens)
        self._spelled = ([], b"")
        try:
            for token in super().generate(tokens, *args, **kwargs):
                self.after_token(token)
                yield token
        except EngineError:  # a compression was told to end
            if self._flag.is_up:
                raise Aborted from None
            raise

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

    def _guard(self, decode: Callable[[Any], None], batch: Any) -> None:
        if self._flag.is_up:
            raise Aborted
        self.before_decode()
        try:
            decode(batch)
        except RuntimeError:
            if self._flag.is_up:
                raise Aborted from None
            raise


def load_slots(settings: ModelSettings) -> List[SlotLlama]:
    """The model of `settings`, once, and n_slots contexts of it. Raises what `compresskv_edge.Llama` raises."""
    slots: List[SlotLlama] = []
    try:
        for _ in range(settings.n_slots):
            slots.append(_load(settings, binding.weights_of(slots[0]) if slots else None))
    except BaseException:
        close_slots(slots)
        raise
    if not settings.chat_format and "tokenizer.chat_template" not in slots[0].metadata:
        name = settings.model
        _log.warning("%s has no chat template: it may not be made for chats (--chat_format names one)", name)
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
            stack.enter_context(binding.sharing(weights))
        llama: SlotLlama = loader.LlamaProxy.load_llama_from_model_settings(settings)
    llama.special_in_messages = settings.special_in_messages
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
