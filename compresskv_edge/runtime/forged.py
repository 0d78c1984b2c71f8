"""Messages that spell control tokens: `<|im_end|>` in a document must not end the turn it stands in.

A stand-in, one character for each such spelling, goes through the template in its place; what it stands for is
tokenised as plain text. A chat without such spellings is rendered and tokenised as ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Dict, List, Optional, Tuple

from . import binding

_FIRST_STAND_IN = 0xF0000  # Unicode's private characters: 65,534 from here on


def control_texts(llm: Any) -> List[str]:
    """How the control tokens of a model are spelled; asked once, a vocabulary is large."""
    known: Optional[List[str]] = llm.__dict__.get("_control_texts")
    if known is None:
        ids = [token for token in range(llm.n_vocab()) if binding.is_control(llm, token)]
        known = [piece.decode("utf-8", errors="ignore") for piece in binding.pieces(llm, ids)]
        llm.__dict__["_control_texts"] = known
    return known


def spelled_tokens(llm: Any, texts: Iterable[str]) -> Dict[int, bytes]:
    """The control tokens that some texts spell, but for those that end an answer: an answer's text shows them not."""
    wanted = [text for text in texts if text]
    if not any(spelled and spelled in text for spelled in control_texts(llm) for text in wanted):
        return {}
    tokens = {token for text in wanted for token in llm.tokenize(text.encode("utf-8"), add_bos=False, special=True)}
    shown = [token for token in tokens if binding.is_control(llm, token) and not binding.is_end(llm, token)]
    return dict(zip(shown, binding.pieces(llm, shown)))


class StandIns:
    """Control tokens that some messages spell, each with its stand-in."""

    def __init__(self, messages: Sequence[Any], controls: Sequence[str]) -> None:
        texts = list(_texts(list(messages)))
        used = {text for text in controls if text and any(text in each for each in texts)}
        taken = set().union(*texts) if used else set()
        free = (char for char in map(chr, range(_FIRST_STAND_IN, _FIRST_STAND_IN + 0xFFFE)) if char not in taken)
        self._char_of: Dict[str, str] = dict(zip(sorted(used, key=len, reverse=True), free))
        self._text_of = {char: text for text, char in self._char_of.items()}
        self._spelled = re.compile("|".join(map(re.escape, self._char_of)))

    def hide(self, value: Any) -> Any:
        """Messages, or a part of them, with the stand-ins."""
        if not self._char_of:
            return value
        if isinstance(value, str):
            return self._spelled.sub(lambda found: self._char_of[found.group()], value)
        if isinstance(value, Mapping):
            return {name: self.hide(part) for name, part in value.items()}
        return [self.hide(part) for part in value] if isinstance(value, (list, tuple)) else value

    def parts(self, text: str) -> List[Tuple[str, bool]]:
        """A rendered text as (part, whether control tokens in it are the template's)."""
        if not self._char_of:
            return [(text, True)]
        parts = re.split(f"([{''.join(self._text_of)}])", text)
        return [(self._text_of.get(part, part), part not in self._text_of) for part in parts if part]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
