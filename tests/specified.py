"""The tokens that the NumPy statement keeps of what the engine holds."""

from __future__ import annotations

from typing import Any, List

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.method import scoring


def specified(llm: Llama, profile: Profile, budgets: List[int]) -> List[Any]:
    """(indices, scores) that the NumPy statement gives, from the queries and keys that the engine holds; None: not
    evictable."""
    settings = profile.settings
    how = {"kernel": settings.kernel, "pooling": settings.pooling}
    res: List[Any] = []
    for il, layer in enumerate(llm._compression.layers):
        if not layer.evictable:
            res.append(None)
            continue
        q = native.read_queries(llm.ctx, il, layer, settings.window)
        k, _ = native.read_kv(llm.ctx, il, layer)
        heads = profile.heads_used()[il]
        kept = scoring.select_tokens(q, k, heads, budgets[il], window=settings.window, **how)
        res.append((kept, scoring.token_scores(q, k, heads, **how)))
    return res
