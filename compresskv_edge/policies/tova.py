"""TOVA (Token Omission Via Attention), arXiv:2401.06104: what the last token attends to."""

from __future__ import annotations

from .policy import Policy
from .probes import Last
from .scores import AttentionScore


def policy() -> Policy:
    """The last query's attention, mean over all heads of a layer, as in the paper: it shares tokens between heads too.

    The paper drops one token a step and protects none; here the library's window stays (8 tokens), the prompt is
    read in full before the first eviction, and while decoding the cache goes back to its budget when its tail is full.
    """
    return Policy(title="TOVA", source="arXiv:2401.06104", score=AttentionScore(Last(1)), decodes=True)
