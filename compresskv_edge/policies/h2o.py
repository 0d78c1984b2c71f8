"""H2O (Heavy-Hitter Oracle), arXiv:2306.14048: tokens that gathered the most attention, and the most recent ones."""

from __future__ import annotations

from .policy import Policy
from .probes import AllQueries
from .scores import AttentionScore


def policy(*, recent_share: float = 0.5) -> Policy:
    """Half of the budget for the most recent tokens, half for the heavy hitters among the others (section 4).

    A heavy hitter has the largest sum of attention over all queries so far, prompt and generated ones. The paper
    selects per head and evicts token by token; here the sum is averaged over the heads, and the prompt is read in full
    before the first eviction.

    Costs: every query is read, in blocks of 256 tokens, and NumPy computes the attention of the whole text a second
    time.
    """
    return Policy(
        title="H2O",
        source="arXiv:2306.14048",
        score=AttentionScore(AllQueries()),
        window=1 << 30,
        window_share=recent_share,
        decodes=True,
    )
