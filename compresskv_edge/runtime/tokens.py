"""Token ids from outside: llama.cpp ends the process at an id that its vocabulary does not have."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, List, Optional

from ..errors import TokenError
from .binding import llama_cpp


def checked(tokens: Iterable[Any], n_vocab: int) -> List[int]:
    """Token ids as plain integers. Raises TokenError for the first that is not one of 0 to n_vocab - 1."""
    try:
        ids = list(map(operator.index, tokens))
    except TypeError as error:
        raise TokenError(f"{tokens!r:.60} holds something else than token ids: give integers") from error
    if ids and not (min(ids) >= 0 and max(ids) < n_vocab):
        wrong = next(token for token in ids if not 0 <= token < n_vocab)
        raise TokenError(f"token {wrong} is not in the vocabulary: use 0 to {n_vocab - 1}")
    return ids


def check_bias(bias: Mapping[Any, float], n_vocab: int) -> None:
    """The keys of a logit_bias, which JSON makes strings. Raises TokenError."""
    for token in bias:
        text = str(token)[:20]
        if not (text.isascii() and text.isdigit() and int(text) < n_vocab):
            raise TokenError(f"logit_bias: {text!r} is no token of this model: use 0 to {n_vocab - 1}")


class CheckedTokenizer(llama_cpp.LlamaTokenizer):
    """As llama_cpp's. Raises TokenError for what is no token."""

    def __init__(self, llama: Any) -> None:
        super().__init__(llama)
        self._n_vocab = int(llama.n_vocab())

    def detokenize(self, tokens: List[int], prev_tokens: Optional[List[int]] = None, special: bool = False) -> bytes:
        """As LlamaTokenizer.detokenize."""
        return bytes(super().detokenize(checked(tokens, self._n_vocab), prev_tokens, special))
