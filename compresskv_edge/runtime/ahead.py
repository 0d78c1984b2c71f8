"""What is asked of a text before it is evicted: how long the question is, and a draft of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Dict

from ..engine import native
from ..errors import EngineError
from ..policies.layer import Array
from ..policies.needs import AHEAD, Needs
from . import binding


@dataclass(frozen=True)
class Asked:
    """n_question: last tokens of the text that are the question and what follows it, 0: not known. drafted: by layer,
    the queries (n_head, a, head_dim) of the answer's first tokens.
    """

    n_question: int = 0
    drafted: Mapping[int, Array] = field(default_factory=dict)


NOT_ASKED = Asked()


def n_wanted(needs: Needs) -> int:
    """Tokens of the answer that a policy wants drafted."""
    return next((need.n for need in needs if need.kind == AHEAD.kind), 0)


def draft(llm: Any, n: int, shapes: Sequence[native.LayerShape], window: int) -> Dict[int, Array]:
    """The queries of the first n tokens of the greedy answer, by layer; they are taken out of the cache again.

    window: tokens whose queries the library holds, no more are drafted. {}: nothing was, the answer is empty or a
    layer cannot be set back. The logits of the last token are as before. Raises EngineError.
    """
    if not all(shape.evictable for shape in shapes):
        return {}
    n_before, logits = llm.n_tokens, llm.last_logits()
    n = min(n, window, binding.n_positions(llm) - n_before)
    if n > 0:
        native.prompt_begin(llm.ctx, n)
    try:
        return _decoded(llm, n, shapes)
    finally:
        n_drafted, llm.n_tokens = llm.n_tokens - n_before, n_before
        if n_drafted and not binding.remove_from(llm, n_before):
            raise EngineError(f"a draft of {n_drafted} tokens cannot be taken out of the cache again")
        llm._restored_logits = logits


def _decoded(llm: Any, n: int, shapes: Sequence[native.LayerShape]) -> Dict[int, Array]:
    n_before = llm.n_tokens
    logits = llm.last_logits()
    for _ in range(n):
        token = int(logits.argmax())
        if binding.is_end(llm, token):
            break
        binding.stock_eval(llm, [token])
        logits = binding.last_logits(llm)
    m = llm.n_tokens - n_before
    return {il: native.read_queries(llm.ctx, il, shape, m) for il, shape in enumerate(shapes)} if m else {}
