"""All that we use of llama-cpp-python beyond its public interface: a new version of it is this file's work.

Import `llama_cpp` from here: by then the environment names our library.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Dict, List, Optional, Protocol

import numpy as np
import numpy.typing as npt

from ..engine import library
from ..errors import SchemaError

library.offer()

import llama_cpp as llama_cpp  # noqa: E402
from llama_cpp import llama_chat_format as llama_chat_format  # noqa: E402

StockLlama = llama_cpp.Llama  # now: replace_llama() may put ours in its place
_TOO_LONG = re.compile(r"Requested tokens \((\d+)\) exceed context window of \d+$")
Logits = npt.NDArray[np.float32]


class LoadedModel(Protocol):
    """What this room asks of a `llama_cpp.Llama`, all of it public."""

    n_tokens: int
    input_ids: npt.NDArray[np.intc]  # of the text: (n_ctx,), the first n_tokens of them
    n_batch: int
    metadata: Dict[str, str]
    context_params: Any

    @property
    def ctx(self) -> Any: ...
    @property
    def model(self) -> Any: ...
    def n_ctx(self) -> int: ...
    def n_vocab(self) -> int: ...
    def token_eos(self) -> int: ...
    def reset(self) -> None: ...
    def set_seed(self, seed: int) -> None: ...
    def eval(self, tokens: Sequence[int]) -> None: ...
    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> List[int]: ...
    def detokenize(
        self, tokens: List[int], prev_tokens: Optional[List[int]] = None, special: bool = False
    ) -> bytes: ...


#
# the cache
#


def remove_from(llm: Any, n_tokens: int) -> bool:
    """Take the tokens from the n-th on out of the cache; False if some of them cannot be."""
    return bool(llm._ctx.kv_cache_seq_rm(-1, n_tokens, -1))


def clear_cache(llm: Any) -> None:
    """Take everything out of the cache."""
    llm._ctx.kv_cache_clear()


def n_positions(llm: Any) -> int:
    """Positions of the context as it was created."""
    return int(llm._ctx.n_ctx())


def asked_positions(llm: Any) -> int:
    """Positions that the caller asked for: llama.cpp pads them to a multiple of 256, its binding does not."""
    return int(llm.context_params.n_ctx) or n_positions(llm)


def n_too_long(error: ValueError) -> Optional[int]:
    """Tokens of a prompt that llama_cpp.Llama refuses because it is longer than the context; None: another error."""
    found = _TOO_LONG.match(str(error))
    return int(found[1]) if found else None


def wrap(llm: Any, context: Callable[[Any], Any], batch: Callable[[Any, Any], Any]) -> None:
    """Put objects of ours in the places of the binding's LlamaContext and LlamaBatch."""
    llm._ctx = context(llm._ctx)
    llm._batch = batch(llm._batch, llm._ctx)


def guard_decoding(llm: Any, guard: Callable[[Callable[[Any], None], Any], None]) -> None:
    """From now on `guard(decode, batch)` is called for each batch, and calls `decode(batch)`."""
    decode = llm._ctx.decode
    llm._ctx.decode = lambda batch: guard(decode, batch)


def stock_eval(llm: Any, tokens: Sequence[int]) -> None:
    """llama_cpp.Llama.eval, whatever class the model is of."""
    StockLlama.eval(llm, tokens)


def text_of(llm: LoadedModel) -> npt.NDArray[np.intc]:
    """The tokens in the cache, evicted ones as well: (n_tokens,), a view."""
    return llm.input_ids[: llm.n_tokens]


#
# what the next token is drawn from
#


def is_evaluated(llm: Any) -> bool:
    """The logits of the last token are there."""
    return not llm._requires_eval


def set_evaluated(llm: Any, evaluated: bool) -> None:
    """Say whether the logits of the last token are there."""
    llm._requires_eval = not evaluated


def keeps_all_logits(llm: Any) -> bool:
    """The model was loaded with logits_all."""
    return bool(llm._logits_all)


def last_logits(llm: Any) -> Logits:
    """Of the last token that was decoded, a copy: (n_vocab,), or (0,) if it has to be evaluated again."""
    pointer = llm._ctx.get_logits_ith(-1) if is_evaluated(llm) else None
    if not pointer:
        return np.zeros(0, np.float32)
    return np.array(np.ctypeslib.as_array(pointer, shape=(llm.n_vocab(),)), dtype=np.float32)


def seed(llm: Any) -> int:
    """What the next sampler is seeded with."""
    return int(llm._seed)


def sampler(llm: Any, **options: Any) -> Any:
    """A new sampler, by the arguments of llama_cpp.Llama.sample."""
    return llm._init_sampler(**options)


def sampler_at_work(llm: Any, *args: Any, **options: Any) -> Any:
    """That of the generation that is running, or a new one."""
    return llm._sampler or llm._init_sampler(*args, **options)


def sample(llm: Any, sampler: Any) -> int:
    """Draw the next token."""
    return int(sampler.sample(llm._ctx, -1))


#
# the model
#


def adds_bos(llm: LoadedModel) -> bool:
    """A text starts with the start token."""
    return bool(llama_cpp.llama_vocab_get_add_bos(_vocab(llm)))


def is_end(llm: LoadedModel, token: int) -> bool:
    """The token ends an answer."""
    return bool(llama_cpp.llama_vocab_is_eog(_vocab(llm), token))


def pieces(llm: Any, tokens: Sequence[int]) -> List[bytes]:
    """What each token reads, special ones included."""
    known = {token: _piece(llm, token) for token in {int(token) for token in tokens}}
    return [known[int(token)] for token in tokens]


def is_control(llm: LoadedModel, token: int) -> bool:
    """The token is no text: it marks a turn, or an end."""
    return bool(llama_cpp.llama_vocab_is_control(_vocab(llm), token))


def _piece(llm: Any, token: int) -> bytes:
    if not isinstance(llm.tokenizer_, llama_cpp.LlamaTokenizer):
        return bytes(llm.detokenize([token], special=True))
    buffer = ctypes.create_string_buffer(64)
    n = llama_cpp.llama_token_to_piece(_vocab(llm), token, buffer, len(buffer), 0, True)
    if n < 0:  # a long one
        buffer = ctypes.create_string_buffer(-n)
        n = llama_cpp.llama_token_to_piece(_vocab(llm), token, buffer, len(buffer), 0, True)
    return buffer.raw[: max(n, 0)]


def _vocab(llm: LoadedModel) -> Any:
    return llama_cpp.llama_model_get_vocab(llm.model)


def closes_first(llm: Any, close: Callable[[], None]) -> None:
    """Call `close` before the weights are freed."""
    llm._model._exit_stack.callback(close)


def was_opened(llm: Any) -> bool:
    """The constructor came far enough for close()."""
    return "_stack" in llm.__dict__


def weights_of(llm: Any) -> Any:
    """The binding's LlamaModel, for `sharing`."""
    return llm._model


@contextlib.contextmanager
def sharing(weights: Any) -> Iterator[None]:
    """A model that is loaded in this block takes these weights instead of reading its file."""
    before = llama_cpp._internals.LlamaModel
    llama_cpp._internals.LlamaModel = lambda **_: _Shared(weights)
    try:
        yield
    finally:
        llama_cpp._internals.LlamaModel = before


class _Shared:
    """Weights that another context owns: closing this does nothing."""

    def __init__(self, weights: Any) -> None:
        self._weights = weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._weights, name)

    def close(self) -> None:
        """Whoever loaded them frees them."""


#
# chats
#

# the code that all handlers share which the binding makes from a formatter
_FORMATTED = llama_chat_format.chat_formatter_to_chat_completion_handler(lambda **_: None).__code__
_CHAT = inspect.signature(StockLlama.create_chat_completion)


def formatter_of(llm: Any) -> Optional[Callable[..., Any]]:
    """What renders a chat as text, by the GGUF's template or a named format; None for handlers that do all themselves.

    Raises what the binding raises for a format that it does not know.
    """
    handler = (
        llm.chat_handler
        or llm._chat_handlers.get(llm.chat_format)
        or llama_chat_format.get_chat_completion_handler(llm.chat_format)
    )
    if getattr(handler, "__code__", None) is not _FORMATTED:
        return None
    formatter: Callable[..., Any] = inspect.getclosurevars(handler).nonlocals["chat_formatter"]
    return formatter


def chat_options(*args: Any, **kwargs: Any) -> Dict[str, Any]:
    """Arguments of llama_cpp.Llama.create_chat_completion behind the messages, with its defaults."""
    bound = _CHAT.bind(None, None, *args, **kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name not in ("self", "messages")}


def json_grammar(*, verbose: bool) -> Any:
    """The grammar of an answer in JSON."""
    return llama_chat_format._grammar_for_json(verbose=verbose)


def schema_grammar(schema: str, *, verbose: bool) -> Any:
    """The grammar of answers that obey a schema. Raises SchemaError where the binding cannot translate it."""
    try:
        return llama_chat_format._grammar_for_json_schema(schema, verbose=verbose, fallback_to_json=False)
    except Exception as error:  # assertions, a KeyError for a recursive $ref, and more
        raise SchemaError(
            f"the schema cannot be enforced, leave this out: {str(error) or type(error).__name__:.200}"
        ) from error


def grammar_parses(llm: LoadedModel, grammar: Any) -> bool:
    """llama.cpp answers a grammar that it cannot parse with NULL, and the binding would sample with that: a crash."""
    rules, root = (text.encode("utf-8") for text in (grammar._grammar, grammar._root))
    made = llama_cpp.llama_sampler_init_grammar(_vocab(llm), rules, root)
    if made:
        llama_cpp.llama_sampler_free(made)
    return bool(made)


def as_chat(completion: Any, tool: Optional[str], *, stream: bool) -> Any:
    """A completion, or the chunks of one, as that of a chat, perhaps as the call of a tool."""
    if tool is not None:
        return llama_chat_format._convert_completion_to_chat_function(tool, completion, stream)
    return llama_chat_format._convert_completion_to_chat(completion, stream=stream)
