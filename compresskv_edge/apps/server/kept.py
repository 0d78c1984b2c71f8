"""Which words of a conversation the cache still holds: for each piece of text, the number of layers that keep it."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import numpy.typing as npt

from ...runtime.prompt import common_prefix
from .errors import ApiError
from .load import SlotLlama
from .pool import Pool


def report(pool: Pool, tokens: npt.NDArray[np.int32]) -> Dict[str, Any]:
    """The slot that remembers most of `tokens` (n,), and what its layers keep of that common beginning.

    `pieces` are [text, layers]: together they are the text; neighbours that the same number of layers keep are one
    piece. Raises ApiError 404 if no slot remembers anything of it.
    """
    slot = pool.remembering(tokens)
    if slot is None:
        raise ApiError(404, "no slot remembers this conversation: it is run again with the next question")
    memory = slot.memory
    n = common_prefix(memory.tokens, tokens)
    return {
        "slot": slot.index,
        "n_tokens": n,
        "n_layers": memory.n_layers,
        "pieces": pieces(slot.llama, memory.tokens[:n], memory.layers[:n]),
    }


def pieces(llama: SlotLlama, tokens: npt.NDArray[np.int32], layers: npt.NDArray[np.int32]) -> List[Tuple[str, int]]:
    """Text in pieces with one number each. A character that several tokens spell takes the largest of their numbers."""
    found: List[Tuple[str, int]] = []
    pending, most = b"", 0
    for piece, count in zip(llama.pieces(tokens.tolist()), layers.tolist()):
        pending += piece
        most = max(most, count)
        text = _decoded(pending)
        if text is None:
            continue
        if found and found[-1][1] == most:
            found[-1] = (found[-1][0] + text, most)
        else:
            found.append((text, most))
        pending, most = b"", 0
    return found


def _decoded(data: bytes) -> Any:
    """Text, or None while a character is incomplete."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace") if len(data) > 4 else None
