"""SAGE-KV, arXiv:2503.08879: sinks, recent tokens, and what the prompt's last token attends to."""

from __future__ import annotations

from .policy import Policy
from .probes import Last
from .scores import AttentionScore


def policy(*, sinks: int = 4, recent_share: float = 0.25) -> Policy:
    """One top-k by the last token's attention after the prompt, between sinks and recent tokens.

    The paper selects per head; here the attention is averaged over the heads. There the choice is made once, and while
    generating each new token pushes the oldest recent one out; here the rule is applied again at each eviction. How it
    divides the budget we could not check: a quarter for recent tokens is ours, four sinks are StreamingLLM's.
    """
    return Policy(
        title="SAGE-KV",
        source="arXiv:2503.08879",
        score=AttentionScore(Last(1)),
        window=1 << 30,
        window_share=recent_share,
        sinks=sinks,
    )
