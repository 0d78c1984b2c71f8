"""SentenceKV, arXiv:2504.00970: sentences are the units that stay or go."""

from __future__ import annotations

import numpy as np

from .layer import Indices
from .needs import ENDS
from .policy import Policy
from .probes import Window
from .scores import AttentionScore
from .selection import Candidates, Selection, whole_groups


def policy(*, window: int = 32) -> Policy:
    """Whole sentences by the window's attention to their tokens, mean over tokens and heads; best sentences first.

    The paper keeps several times the budget outside the accelerator and fetches sentences again for each new token.
    An engine whose memory is the limit cannot: here one choice is made after the prompt, and what is left of the budget
    goes to the best single tokens. A sentence ends with . ! ? ; or their wide forms, or at a line's end.
    """

    def select(candidates: Candidates, k: int) -> Indices:
        return whole_groups(candidates, k, sentences(candidates))

    return Policy(
        title="SentenceKV",
        source="arXiv:2504.00970",
        score=AttentionScore(Window(window)),
        window=window,
        select=Selection(select, frozenset({ENDS})),
    )


def sentences(candidates: Candidates) -> Indices:
    """Number of the sentence that each candidate is in: (n_before,)."""
    ends = candidates.layer[ENDS]
    before = np.concatenate([[False], ends[: len(candidates.scores) - 1]])
    return np.cumsum(before).astype(np.int64)
