"""SentenceKV, arXiv:2504.00970: sentences are the units that stay or go."""

from __future__ import annotations

import numpy as np

from .layer import Indices
from .policy import Policy
from .scorers import window_attention
from .selection import Candidates, whole_groups


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
        score=window_attention,
        window=window,
        select=select,
        recent=window,
        sentences=True,
    )


def sentences(candidates: Candidates) -> Indices:
    """Number of the sentence that each candidate is in: (n_before,). Raises ValueError if the text is not known."""
    ends = candidates.layer.ends
    if ends is None:
        raise ValueError(f"the sentences of layer {candidates.layer.index} are not known")
    before = np.concatenate([[False], ends[: len(candidates.scores) - 1]])
    return np.cumsum(before).astype(np.int64)
