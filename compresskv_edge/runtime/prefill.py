"""Decode and evict: how tokens get into a compressed cache.

One loop (`read_bounded`) serves a `Llama`, each of several sequences and a document that is digested; they differ in
what `Text` says.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, List, Optional, Protocol, Sequence

from ..engine import native
from ..errors import EngineError
from . import binding
from .binding import LoadedModel
from .compression import Compression
from .positions import Positions, check_window
from .prompt import Prompt
from .settings import FULL, GUIDED


class Text(Protocol):
    """A text that is being read into a cache."""

    def room(self) -> int:
        """Tokens that can be decoded before a compression is due."""

    def make_room(self, n_tokens: int) -> None:
        """Positions for n_tokens more."""

    def decode(self, tokens: Sequence[int]) -> None:
        """Run tokens at the next positions."""

    def evict(self, guide: Sequence[int]) -> None:
        """Compress. guide: tokens that run ahead to score the others, and are taken out again."""


def read_bounded(text: Text, tokens: Sequence[int], guide: Sequence[int] = ()) -> None:
    """Decode tokens, compressing whenever the tail is full."""
    while len(tokens) > (room := text.room()):
        ahead = guide if len(guide) <= room else ()  # else the tail would have to grow for it
        n_chunk = room - len(ahead)
        text.make_room(room)
        text.decode(tokens[:n_chunk])
        tokens = tokens[n_chunk:]
        text.evict(ahead)
    text.make_room(len(tokens))
    text.decode(tokens)


@dataclass
class Generation:
    """One prompt and its answer, from generate()'s call to its end."""

    prompt: Prompt
    is_read: bool = False  # the prompt is in the cache: what comes now is the answer


class Reader:
    """The text in a `Llama`'s own context: a `Text` of the whole cache."""

    def __init__(self, llm: LoadedModel, compression: Compression, positions: Positions) -> None:
        self.llm: LoadedModel = weakref.proxy(llm)  # which has us: a circle would keep its memory when it is dropped
        self.compression = compression
        self.positions = positions
        self.generation: Optional[Generation] = None

    @contextlib.contextmanager
    def generating(self, prompt: Prompt) -> Iterator[None]:
        """Within the block the first tokens that are evaluated end the prompt, and later ones are its answer."""
        generation = self.generation = Generation(prompt)
        self.compression.begin(prompt)
        try:
            yield
        finally:
            if self.generation is generation:
                self.generation = None

    def eval(self, tokens: Sequence[int]) -> None:
        """As Llama.eval."""
        self.check(len(tokens))
        generation = self.generation
        if generation is not None and not generation.is_read:
            generation.is_read = True
            self._read_prompt(generation.prompt, list(tokens))
            return
        tokens = self.compression.run.taken_up(self.llm, list(tokens)) or list(tokens)
        if generation is not None or self.compression.settings.always_bounded or not self.positions.fits(len(tokens)):
            self._read_more(tokens)
        else:
            native.prompt_begin(self.llm.ctx, len(tokens))
            self.decode(tokens)

    def check(self, n_tokens: int) -> None:
        """Take out what is behind the text, for n_tokens more. Raises ContextError, EngineError."""
        n_total = self.llm.n_tokens + n_tokens
        check_window(n_total, self.llm.n_ctx())
        self.positions.check(n_total)
        if not binding.remove_from(self.llm, self.llm.n_tokens):
            raise EngineError(
                f"n_tokens was set back to {self.llm.n_tokens}, where tokens are compressed already: "
                "call reset() and evaluate the prompt again"
            )

    def _read_prompt(self, prompt: Prompt, tokens: List[int]) -> None:
        """Decode the rest of a prompt and compress if a layer is over its budget then."""
        compression, ctx = self.compression, self.llm.ctx
        tokens = compression.run.whole_text(self.llm, tokens)
        n_total = self.llm.n_tokens + len(tokens)
        compression.current = compression.budgets(n_total)
        native.protect(ctx, compression.protected)
        before = native.stats(ctx)
        mode = self.mode(n_total, len(tokens))
        if mode == FULL:
            native.prompt_begin(ctx, len(tokens))
            self.decode(tokens)
        else:
            native.reserve(ctx, compression.current)
            read_bounded(self, tokens, compression.guide(tokens, prompt.n_question) if mode == GUIDED else ())
        if not compression.tail_holds(before, native.stats(ctx)):
            compression.current = compression.run.at_prompt_end(self.llm, compression.mean_budget(n_total))

    def _read_more(self, tokens: List[int]) -> None:
        """Tokens behind a prompt, or a text that is evaluated in parts and must stay bounded."""
        compression, ctx = self.compression, self.llm.ctx
        if not compression.current:
            compression.current = compression.budgets(self.llm.n_tokens + len(tokens))
            native.protect(ctx, compression.protected)
            native.reserve(ctx, compression.current)
        read_bounded(self, tokens)

    def mode(self, n_total: int, n_new: int) -> str:
        """How a prompt of n_total tokens runs, of which n_new are not in the cache: see settings.PREFILL_MODES."""
        compression = self.compression
        mode = compression.choose_prefill(n_total, binding.n_positions(self.llm), native.stats(self.llm.ctx))
        return compression.bounded_prefill if mode == FULL and not self.positions.fits(n_new) else mode

    #
    # as a Text
    #

    def room(self) -> int:
        """Tokens that can be decoded before a compression is due."""
        stats = native.stats(self.llm.ctx)
        return self.compression.room(self.compression.current, stats.n_frozen, stats.n_tail_used, stats.n_tail)

    def make_room(self, n_tokens: int) -> None:
        """Re-base if n_tokens more would not fit."""
        self.positions.make_room(n_tokens, lambda: self.evict(()))

    def decode(self, tokens: Sequence[int]) -> None:
        """Run tokens through the policy, which may have to see queries before they are gone."""
        self.compression.run.decode(self.llm, tokens, lambda some: binding.stock_eval(self.llm, some))

    def evict(self, guide: Sequence[int]) -> None:
        """Compress to the budgets of the text."""
        compression = self.compression
        if not guide:
            compression.run.compress(self.llm, compression.current)
            return
        self.decode(guide)
        self.llm.n_tokens -= len(guide)
        compression.run.compress(self.llm, compression.current, len(guide))


class Opened(LoadedModel, Protocol):
    """A `Llama`, as the modules below it know it."""

    _reader: Optional[Reader]  # None: the stock cache
    _restored_logits: Any  # of the last token, until one is decoded

    def __getattr__(self, name: str) -> Any:
        """What llama_cpp.Llama has beside it, public."""


def compression_of(llm: Opened) -> Optional[Compression]:
    """None for the stock cache."""
    return None if llm._reader is None else llm._reader.compression
