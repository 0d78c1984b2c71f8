"""The end of an answer where the context is full.

The binding ends an answer before that, but for one: while its last letter is a part of one in UTF-8 it asks for more
tokens, and would evaluate those that do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Dict, Optional

from ..errors import ContextError
from . import binding
from .positions import too_long


class WindowEnd:
    """The stopping criteria of one completion, and one more: there is no room for another token.

    The binding asks its criteria before it has counted the token, which fails for a prompt of one; so `until` ends the
    tokens, and the binding, which asks once more behind them, finds that this was an end.
    """

    def __init__(self, own: Optional[Callable[[Any, Any], bool]]) -> None:
        self.own, self.reached = own, False

    def __call__(self, input_ids: Any, logits: Any) -> bool:
        return self.reached or (self.own is not None and self.own(input_ids, logits))

    def until(self, is_full: Callable[[], bool], tokens: Iterator[int]) -> Iterator[int]:
        """The tokens, as long as the one before was evaluated or can be."""
        for token in tokens:
            yield token
            if is_full():
                self.reached = True
                return

    def named(self, answer: Dict[str, Any]) -> Dict[str, Any]:
        """The answer, or a chunk of one, with the reason why it ended: the binding calls this one "stop"."""
        if self.reached and answer["choices"][0]["finish_reason"] is not None:
            answer["choices"][0]["finish_reason"] = "length"
        return answer

    def chunks(self, answer: Iterator[Dict[str, Any]], n_ctx: int) -> Generator[Dict[str, Any], None, None]:
        """Those of a stream. Raises ContextError if the prompt does not fit n_ctx."""
        try:
            yield from map(self.named, answer)
        except ValueError as error:
            raise of_window(error, n_ctx) from error


def of_window(error: ValueError, n_ctx: int) -> ValueError:
    """The binding's error for a prompt that is too long, as ours; another one as it is."""
    n_tokens = None if isinstance(error, ContextError) else binding.n_too_long(error)
    return error if n_tokens is None else too_long(n_tokens, n_ctx)
