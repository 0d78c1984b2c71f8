"""What `Llama` does between prompts: chats, sessions, digests."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple, Union
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from ..engine import native
from ..errors import ModelError
from . import binding, chat, digest
from . import metadata as gguf_words
from .compression import Compression
from .positions import check_window
from .prefill import Reader
from .prompt import Message, Prompt, common_prefix
from .session import session
from .tokens import checked
from .turn import CacheTurn

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

_log = logging.getLogger(__name__)


class Conversing(_Base):
    """Part of `Llama`, above llama_cpp.Llama."""

    input_ids: npt.NDArray[np.intc]  # of the base class
    special_in_messages = False  # True: a message that spells a control token, `<|im_end|>`, is one: stock's way
    _reader: Optional[Reader]
    _template_error: Optional[ModelError] = None
    _turn: CacheTurn
    _shown: Mapping[int, bytes]
    _calls: WeakValueDictionary[Tuple[int, ...], chat.ChatCall]  # that are to run or at it, by the prompts' tokens
    _restored_logits: Optional[npt.NDArray[np.float32]] = None  # of the last token, until one is decoded

    # The base class assigns it, {} if it cannot read it, and then compiles the templates in it. An error that is raised
    # here it would swallow.
    def _get_metadata(self) -> Dict[str, str]:
        """As in llama_cpp.Llama: the GGUF's keys and values, without chat templates that do not compile."""
        known: Dict[str, str] = self.__dict__["_metadata"]
        return known

    def _set_metadata(self, _: Mapping[str, str]) -> None:
        self.__dict__["_metadata"], self._template_error = gguf_words.usable(
            gguf_words.read(self.model), self.model_path
        )

    metadata = property(_get_metadata, _set_metadata)

    def _check_template(self, named: Any) -> None:
        """Raise ModelError for a template that does not compile, if the caller named no other format."""
        if self._template_error is not None and named is None:
            self.close()
            raise self._template_error

    def _say_if_run_again(self, compression: Compression, tokens: Sequence[int]) -> None:
        """A history edited where tokens are evicted: the base class runs all of it again, maybe for minutes."""
        n_same = common_prefix(binding.text_of(self), tokens)
        n_frozen = native.stats(self.ctx).n_frozen
        is_there = n_same == len(tokens) == self.n_tokens and binding.is_evaluated(self)
        if 0 < min(n_same, len(tokens) - 1) < n_frozen and not is_there:
            # another conversation with the same system prompt is no surprise
            level = logging.INFO if n_same > compression.protection.n_first else logging.DEBUG
            text = (
                "the prompt differs from the cache at token %d, tokens before %d are compressed: all %d are run again"
            )
            _log.log(level, text, n_same, n_frozen, len(tokens))

    def chat_prompt(self, messages: Sequence[Message], **template_options: Any) -> Optional[Prompt]:
        """The prompt that create_chat_completion runs for these messages: rendered and tokenised, not run.

        Give it to create_chat_completion in the messages' place. template_options: tools and what else the chat
        template knows. None for chat handlers that make the prompt themselves, such as those of images. Raises what
        the template raises.
        """
        return chat.render(self, messages, template_options, special=self.special_in_messages)

    def create_chat_completion(self, messages: Union[List[Any], Prompt], *args: Any, **kwargs: Any) -> Any:
        """As llama_cpp.Llama.create_chat_completion. With a profile, the system prompt is never evicted.

        messages: or their prompt, of chat_prompt with the same tools. Beyond llama_cpp's arguments:
        chat_template_kwargs, a mapping for the template such as {"enable_thinking": False}; parallel_tool_calls, False
        for one call at most; reasoning_format, "none" to leave thoughts in the text. Tool calls in the form of the
        model's template are `tool_calls` of the message, and thoughts are its `reasoning_content` (docs/api.md).
        """
        with contextlib.nullcontext() if kwargs.get("stream") else self._turn.call():
            return self._chat(messages, *args, **kwargs)

    def _chat(self, messages: Union[List[Any], Prompt], *args: Any, **kwargs: Any) -> Any:
        if isinstance(messages, Prompt):
            options = chat.options(*args, **kwargs)
            return self.run_chat(chat.prepare(self, messages, options, verbose=self.verbose))
        call = self.prepare_chat(messages, *args, **kwargs)
        if call is not None:
            return self.run_chat(call)
        return super().create_chat_completion(messages, *args, **chat.without_own(kwargs))

    def prepare_chat(self, messages: Sequence[Message], *args: Any, **kwargs: Any) -> Optional[chat.ChatCall]:
        """What create_chat_completion would run with these arguments; None as chat_prompt, for `run_chat`."""
        options = chat.options(*args, **kwargs)
        prompt = self.chat_prompt(messages, **{name: options[name] for name in chat.TEMPLATE_OPTIONS})
        return None if prompt is None else chat.prepare(self, prompt, options, verbose=self.verbose)

    def run_chat(self, call: chat.ChatCall) -> Any:
        """The answer to a chat that was prepared, or its chunks."""
        self._calls[call.prompt.tokens] = call
        if call.options["stream"]:
            return self._until_over(chat.run(self, call), call)
        with self._turn.call():
            answer = chat.run(self, call)
            self._shown = {}
            return answer

    def _until_over(self, chunks: Iterator[Any], call: chat.ChatCall) -> Iterator[Any]:
        """The same chunks; `call` lives until the last of them."""
        try:
            yield from chunks
        finally:
            if self._shown is call.marks:
                self._shown = {}

    def _begun(self, tokens: Sequence[int]) -> Prompt:
        """An answer to these tokens begins: their prompt, the chat's if they are one's."""
        plain = tuple(tokens)
        call = self._calls.get(plain)
        self._shown = {} if call is None else call.marks
        return Prompt(plain) if call is None else call.prompt

    def last_logits(self) -> npt.NDArray[np.float32]:
        """Logits of the last token, a copy: (n_vocab,), or (0,) if it has to be evaluated again."""
        return session.last_logits(self)

    def sample(self, *args: Any, **kwargs: Any) -> int:
        """As llama_cpp.Llama.sample, and right after load_session as if the session had never been saved."""
        if self._restored_logits is None:
            return int(super().sample(*args, **kwargs))
        kwargs.pop("idx", None)
        return session.draw(binding.sampler_at_work(self, *args, **kwargs), self._restored_logits)

    def reset(self) -> None:
        """As llama_cpp.Llama.reset."""
        with self._turn.call():
            super().reset()
            self._restored_logits = None

    def load_state(self, state: Any) -> None:
        """As llama_cpp.Llama.load_state. Raises ContextError if the state's text does not fit n_ctx."""
        with self._turn.call():
            check_window(state.n_tokens, self.n_ctx())
            text = self.input_ids  # the base class would take the other instance's, of its length
            super().load_state(state)
            text[: state.n_tokens] = state.input_ids[: state.n_tokens]
            self.input_ids = text
            self._restored_logits = None
            if self._reader is not None:
                self._reader.compression.run.recorder.forget()

    def save_state(self) -> Any:
        """As llama_cpp.Llama.save_state."""
        with self._turn.look():
            return super().save_state()

    def embed(self, *args: Any, **kwargs: Any) -> Any:
        """As llama_cpp.Llama.embed."""
        with self._turn.call():
            return super().embed(*args, **kwargs)

    def save_session(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write what was read and said so far to a file (docs/session-format.md), a few MB of a compressed cache.

        The file is replaced at once: a kill at any moment leaves the old one or the new one. Raises SessionError, and
        PolicyError for a kv_policy that goes by more than the cache holds.
        """
        if self._reader is not None:
            self._reader.compression.run.must_not_record("save_session")
        with self._turn.look():
            captured = session.capture(self)
        captured.save(path)

    load_session = session.LoadSession()

    def digest(
        self,
        text: Union[str, Sequence[int]],
        *,
        kv_budget: Union[int, float, None] = None,
        probe: str = "ask",
        n_questions: int = digest.N_QUESTIONS,
        seed: int = 0,
    ) -> session.Session:
        """Read a document once for questions to come; afterwards ask [*session.tokens, *question] as often as you like.

        Args:
            text: the document, or its tokens.
            kv_budget: what stays of it, as in the constructor; None: the same.
            probe: what decides beside the tokens' keys. "ask": the model asks itself questions; "repeat": it repeats
                the document (KVzip, arXiv:2505.23416); "keys": nothing, the document is read once (docs/memory.md).
            n_questions: that the model asks itself for each thousand tokens, where it asks.
            seed: of these questions.

        The session is what the cache holds then: save it, or take it in again with load_session. What the cache held
        before is gone. Raises BudgetError, ContextError, PolicyError, EngineError.
        """
        reader = self._require_reader("digest")
        compression = reader.compression
        compression.run.must_not_record("digest")
        compression.run.must_not_merge("digest")
        tokens = self.tokenize(text.encode()) if isinstance(text, str) else checked(text, self.n_vocab())
        budget = compression.settings.budget if kv_budget is None else kv_budget
        budgets = compression.run.budgets(compression.mean_of(budget, len(tokens)), len(tokens))
        with self._turn.call():
            digest.digest(reader, tokens, digest.Probing(probe, n_questions, seed), budgets)
            return session.capture(self)
