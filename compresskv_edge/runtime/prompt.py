"""A chat as the model reads it: rendered once, tokenised once, and known by all that handle it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Iterator, List, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

Message = Mapping[str, Any]
Tokens = Union[Sequence[int], npt.NDArray[np.integer]]
Span = Tuple[int, int]  # first character, last + 1

_SYSTEM = ("system", "developer")


@dataclass(frozen=True)
class Prompt:
    """A text in tokens, and what is known of it.

    n_system: tokens that are the system prompt.
    question: token with which the last user message begins; None: not known.
    text: what the tokens were made of.
    contents: where the messages' own words stand in it, in order and as far as they were found.
    asked_end: the character where the last user message ends.
    ends: characters of `text` up to the end of each token, (n_tokens,); None if the tokenizer changes texts.
    stop, stopping_criteria: the chat format's own.
    """

    tokens: Tuple[int, ...]
    n_system: int = 0
    question: Optional[int] = None
    text: str = ""
    contents: Tuple[Span, ...] = ()
    asked_end: int = 0
    ends: Optional[npt.NDArray[np.int64]] = field(default=None, compare=False, repr=False)
    stop: Tuple[str, ...] = ()
    stopping_criteria: Any = field(default=None, compare=False, repr=False)

    @property
    def n_question(self) -> int:
        """Tokens from the last user message on; 0: not known."""
        return 0 if self.question is None else len(self.tokens) - self.question

    @property
    def n_asked(self) -> int:
        """Tokens from the last paragraph of the last user message on, which may begin with a document; 0: not known."""
        if self.question is None:
            return 0
        paragraph = self.text[: self.asked_end].rstrip().rfind("\n\n")
        n_before = self.n_before(paragraph + 2) if paragraph >= 0 else None
        return len(self.tokens) - max(n_before or 0, self.question)

    def n_before_end(self, words: str) -> Optional[int]:
        """Tokens before the words with which the last user message ends; None: not known."""
        if self.question is None or not self.text[: self.asked_end].endswith(words):
            return None
        return self.n_before(self.asked_end - len(words))

    def n_before(self, at: int) -> Optional[int]:
        """Tokens that lie wholly before a character of the text; None: not known."""
        return None if self.ends is None else int(np.searchsorted(self.ends, at, side="right"))


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Number of equal tokens at the start of both."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n


def located(
    tokens: Sequence[int],
    pieces: Sequence[bytes],
    text: str,
    messages: Sequence[Message],
    *,
    stop: Sequence[str] = (),
    stopping_criteria: Any = None,
) -> Prompt:
    """A prompt that was rendered from messages. pieces: what each token reads."""
    spans = contents(text, messages)
    ends = token_ends(pieces, text)
    asked = _question(spans, messages)
    bare = Prompt(tuple(map(int, tokens)), ends=ends)

    def first_token(span: Optional[Span]) -> Optional[int]:
        return bare.n_before(span[0]) if span else None

    return replace(
        bare,
        n_system=first_token(_after_system(spans, messages)) or 0,
        question=first_token(asked[0] if asked else None),
        text=text,
        contents=tuple(span for each in spans for span in each),
        asked_end=asked[-1][1] if asked else 0,
        stop=tuple(stop),
        stopping_criteria=stopping_criteria,
    )


def _after_system(spans: Sequence[Sequence[Span]], messages: Sequence[Message]) -> Optional[Span]:
    """The first words behind the system prompt, if there is one."""
    roles = [message.get("role") for message in messages]
    n_leading = next((i for i, role in enumerate(roles) if role not in _SYSTEM), len(roles))
    return spans[n_leading][0] if 0 < n_leading < len(roles) and spans[n_leading] else None


def _question(spans: Sequence[Sequence[Span]], messages: Sequence[Message]) -> Sequence[Span]:
    """The words of the last user message."""
    asked = [each for each, message in zip(spans, messages) if message.get("role") == "user"]
    return asked[-1] if asked else ()


#
# characters
#


def contents(text: str, messages: Sequence[Message]) -> List[List[Span]]:
    """Where each message's words stand in the rendered text, one after the other; templates may strip or drop them."""
    found: List[List[Span]] = []
    at = 0
    for message in messages:
        spans = []
        for words in _words(message):
            start = text.find(words, at)
            if start >= 0:
                at = start + len(words)
                spans.append((start, at))
        found.append(spans)
    return found


def _words(message: Message) -> Iterator[str]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    for part in parts:
        words = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(words, str):
            yield words.strip()


def token_ends(pieces: Sequence[bytes], text: str) -> Optional[npt.NDArray[np.int64]]:
    """Characters of the text up to the end of each token: (n_tokens,); None if the tokens do not spell the text.

    A tokenizer may put a space before words and tokens of its own around the text, and may drop white space.
    """
    data = text.encode("utf-8", errors="surrogatepass")
    ends = np.empty(len(pieces), dtype=np.int64)
    at = 0
    for i, piece in enumerate(pieces):
        end = _end(data, at, piece)
        if end is None and i not in (0, len(pieces) - 1):
            return None
        ends[i] = at = at if end is None else end
    if data[at:].strip():
        return None
    return ends if len(data) == len(text) else _characters(data, ends)


def _end(data: bytes, at: int, piece: bytes) -> Optional[int]:
    """Where a token ends that begins at a byte, or behind white space there."""
    while not data.startswith(piece, at):
        if piece[:1] == b" " and data.startswith(piece[1:], at):
            return at + len(piece) - 1
        if not data[at : at + 1].isspace():
            return None
        at += 1
    return at + len(piece)


def _characters(data: bytes, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bytes as characters; the parts of one character lie before it, but the last."""
    begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    n_begun = np.concatenate([[0], np.cumsum(begins)])
    whole = np.concatenate([begins, [True]])[ends]  # the next byte begins a character
    counts: npt.NDArray[np.int64] = n_begun[ends] - ~whole
    return counts
