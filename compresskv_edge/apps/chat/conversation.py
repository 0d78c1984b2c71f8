"""A conversation with a model, perhaps about a document: what was said, and what the cache holds of it."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional, Union

from ...errors import ChatError, EngineError
from ...runtime.llama import Llama
from ...runtime.prompt import Prompt, common_prefix
from ...runtime.session.snapshot import Snapshot
from . import template
from .document import Document
from .interrupt import Stop
from .timing import Timing

Message = dict[str, str]

_log = logging.getLogger(__name__)


class Conversation:
    """Messages and a model. The document stands before the first question that comes after it was attached.

    fresh: every question sees the whole document: its full cache waits on disk (snapshot.py) and is compressed anew for
    each; in bounded memory it is read anew. Otherwise questions see what was kept for the one before. sampling:
    arguments of create_chat_completion. `timing` is that of the last answer, `thoughts` what a reasoning model thought
    before it: they are shown, and are no part of the conversation, as the models' templates want it. thinks: False asks
    such a model to answer at once; None leaves it to the template.
    """

    def __init__(
        self,
        llm: Llama,
        document: Optional[Document] = None,
        system: str = "",
        sampling: Optional[Mapping[str, Any]] = None,
        *,
        fresh: bool = True,
        thinks: Optional[bool] = None,
    ) -> None:
        self.llm = llm
        self.fresh = fresh
        self.template_options = {} if thinks is None else {"enable_thinking": thinks}
        self.thoughts = ""
        self.snapshot = Snapshot()
        self._is_bounded = False  # the document does not fit the memory
        self._reading_seconds = 0.0  # before the question that comes next
        self.n_expected = self.n_cached = 0  # tokens of the prompt at hand, and of it in the cache: for a progress bar
        self.system = system
        self.sampling = dict(sampling or {})
        if self.sampling.get("seed") is None:
            llm.set_seed(secrets.randbits(32))  # the binding's default is the same in every process
        self.document = document
        self.timing = Timing()
        self.stop = Stop()
        self.clear()

    def clear(self) -> None:
        """Forget what was said; the document stays and is read again."""
        self.messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        self._to_attach = self.document
        self.timing = Timing()

    def attach(self, document: Document) -> None:
        """Put a document before the next question."""
        self.document = self._to_attach = document

    def restore(self, messages: list[Message], document: Optional[Document], system: str, *, attached: bool) -> None:
        """Another conversation in place of this one. attached: the document stands in the messages already."""
        self.system, self.document = system, document
        self.clear()
        self.messages = list(messages)
        self._is_bounded = False  # what is saved is what later questions see
        if attached:
            self._to_attach = None

    def close(self) -> None:
        """Free the model, and the file that waits."""
        self.snapshot.drop()
        self.llm.close()

    @property
    def is_attached(self) -> bool:
        """The document, if any, stands in the messages."""
        return self._to_attach is None

    #
    # the model
    #

    def n_ahead(self) -> int:
        """Tokens of the prompt that are known before the next question."""
        return len(self._shared_prefix()) if self._to_attach else 0

    def read_ahead(self) -> int:
        """Run the document before a question is there, where all of it may be in memory. Returns tokens in the cache.

        In bounded memory nothing is read: the question has to score the document. A stop ends the reading early; the
        rest is read with the question. Raises ChatError if the document does not fit the context.
        """
        if self._to_attach is None or self.stop.requested:
            return 0
        return self._read(self._shared_prefix())

    def _read(self, tokens: list[int]) -> int:
        """Run what comes before the next question, see `read_ahead`."""
        if not tokens:
            return 0
        start = time.perf_counter()
        n_read = self._read_all(tokens)
        self._reading_seconds += time.perf_counter() - start
        return n_read

    def _read_all(self, tokens: list[int]) -> int:
        self._check_fits(len(tokens))
        self._is_bounded = self.llm.kv_prefill_of(len(tokens)) != "full"
        if self._is_bounded:
            return 0
        if self.snapshot.fits(tokens):
            self.snapshot.put_back(self.llm)
        self._go_back_to(tokens)
        self._run(lambda: self.llm.eval(tokens[self.llm.n_tokens :]))
        if self.fresh and self.llm.kv_settings and not self.stop.requested:
            self._keep_for_later()
        return int(self.llm.n_tokens)

    def _go_back_to(self, tokens: list[int]) -> None:
        """What the cache holds of these tokens stays, say after a reading that was stopped."""
        n = common_prefix(self.llm.input_ids[: self.llm.n_tokens], tokens[:-1])
        frozen = self.llm.kv_stats().n_frozen
        self.llm.reset()
        if n and not frozen:
            self.llm.n_tokens = n  # eval() removes what lies behind

    def _keep_for_later(self) -> None:
        try:
            self.snapshot.take(self.llm)
        except EngineError as error:
            _log.warning("%s; later questions see what the first one kept", error)

    def ask(self, question: str) -> Iterator[str]:
        """Pieces of the answer as they come. `stop.request()` ends it; what was said until then stays in the chat.

        Raises ChatError if the conversation no longer fits the context, EngineError if the engine fails; the
        conversation is then as it was before the question.
        """
        message, prompt = self._message(question), self._prompt(question)
        tokens = prompt.tokens if prompt else ()  # not known before a handler of its own runs
        self._check_fits(len(tokens))
        if self.snapshot.fits(tokens):
            self.snapshot.put_back(self.llm)
        self.n_expected, self.n_cached = len(tokens), int(self.llm.n_tokens)
        if self.fresh and not self.snapshot.fits(tokens):
            self._make_fresh(self._before(prompt, question))
        pieces: list[str] = []
        complete = False
        try:
            for piece in self._answer(prompt or [*self.messages, message]):
                pieces.append(piece)
                yield piece
            complete = not self.timing.stopped
        finally:
            if pieces or complete:
                self.messages += [message, {"role": "assistant", "content": "".join(pieces)}]
                self._to_attach = None

    def _make_fresh(self, tokens: list[int]) -> None:
        """tokens: before the question."""
        if self._to_attach:
            self._read([] if self.stop.requested else tokens)
        elif self._is_bounded:
            self.llm.reset()
            self.n_cached = 0

    def again(self) -> str:
        """Take back the last question and all that was read, so that asking it again reads everything. Returns it."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise ChatError("there is no question yet: ask one first")
        *self.messages, question, _ = self.messages
        text = question["content"]
        if self.document is not None and text.startswith(self.document.text):
            self._to_attach, text = self.document, text[len(self.document.text) :].lstrip("\n")
        self.llm.reset()
        return text

    def set_budget(self, budget: Union[int, float]) -> str:
        """Change what the cache keeps, and say what that means now. Raises BudgetError, EngineError."""
        if self.llm.kv_settings is None:
            raise EngineError("a budget needs a compressed cache: start without --profile none")
        more = self.llm.set_kv_budget(budget)
        if self.snapshot.tokens:
            return "the next question sees the whole document with it"
        if not self.llm.kv_stats().n_evictions or not self.llm.n_tokens:
            return "holds from the next question on"
        if more < 0:
            self.llm.compress()
            return "the cache is compressed to it already"
        self.llm.reset()
        return "what was evicted is gone, so the next question reads the conversation again"

    def _message(self, question: str) -> Message:
        document = self._to_attach
        return {"role": "user", "content": question if document is None else f"{document.text}\n\n{question}"}

    def _shared_prefix(self) -> list[int]:
        """The tokens before the next question, whatever it is; none if the chat handler does not tell."""
        return self._before(self._prompt("Why?"), "Why?")

    def _before(self, prompt: Optional[Prompt], question: str) -> list[int]:
        """The tokens of a prompt before its question."""
        if prompt is None:
            return []
        n_shared = prompt.n_before_end(question.strip())
        if n_shared is None:  # a tokenizer that changes texts: what two different questions have in common
            other = self._prompt("0" if question.strip() != "0" else "1")
            n_shared = common_prefix(prompt.tokens, other.tokens if other else ())
        return list(prompt.tokens[:n_shared])

    def _prompt(self, question: str) -> Optional[Prompt]:
        return template.render(self.llm, [*self.messages, self._message(question)], self.template_options)

    def _check_fits(self, n_tokens: int) -> None:
        n_ctx = self.llm.n_ctx()
        if n_tokens >= n_ctx:
            what = "the document" if self._to_attach else "the conversation"
            trained = int(self.llm.metadata.get(f"{self.llm.metadata.get('general.architecture')}.context_length", 0))
            remedy = f"--ctx {trained} is what the model was trained for, or " if trained > n_ctx else ""
            raise ChatError(
                f"{what} has {n_tokens} tokens, the context {n_ctx}: {remedy}"
                "give a shorter one, or begin again with /new"
            )

    def _run(self, work: Callable[[], object]) -> None:
        """Do something long that a stop may end in the middle: the cache then holds what was decoded before."""
        try:
            with self.stop.flag.watching(self.llm):
                work()
        except (RuntimeError, EngineError):
            if not self.stop.requested:
                raise

    def _answer(self, asked: Union[Prompt, list[Message]]) -> Iterator[str]:
        start = first = time.perf_counter()
        begun = said = False
        self.thoughts, n_first = "", 0
        try:
            if self.stop.requested:
                return
            with contextlib.ExitStack() as prefill:
                prefill.enter_context(self.stop.flag.watching(self.llm))
                stream: Any = self.llm.create_chat_completion(asked, stream=True, **self.sampling)
                for chunk in stream:
                    if not begun:
                        prefill.close()  # what follows is one token after the other
                        begun, first, n_first = True, time.perf_counter(), int(self.llm.n_tokens)
                        self.n_expected = self.n_expected or n_first
                    delta = chunk["choices"][0]["delta"]
                    self.thoughts += delta.get("reasoning_content") or ""
                    piece = delta.get("content") or ""
                    piece = piece if said else piece.lstrip()
                    if piece:
                        said = True
                        yield piece
                    if self.stop.requested:
                        break
        except (RuntimeError, EngineError):
            if not self.stop.requested:
                self.llm.reset()  # whatever it was, the next question begins on a clean cache
                raise
        finally:
            n_now = int(self.llm.n_tokens)
            self.timing = Timing(
                n_prompt=self.n_expected - self.n_cached,
                n_generated=n_now - self.n_expected + 1 if begun else 0,  # the last one is not decoded
                n_timed=n_now - n_first if begun else 0,
                prompt_seconds=first - start,
                reading_seconds=self._reading_seconds,
                answer_seconds=time.perf_counter() - first,
                stopped=self.stop.requested,
            )
            self._reading_seconds = 0.0
