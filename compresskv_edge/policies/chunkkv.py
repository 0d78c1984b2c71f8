"""ChunkKV, arXiv:2502.00299: whole chunks of neighbouring tokens, one choice for neighbouring layers."""

from __future__ import annotations

import numpy as np

from .layer import Indices
from .policy import Policy
from .probes import Window
from .scores import AttentionScore
from .selection import Candidates, Selection, whole_groups


def policy(*, chunk: int = 10, reuse: int = 2, window: int = 32) -> Policy:
    """Chunks of `chunk` tokens by the window's attention to them, all heads together; best chunks first.

    What the last chunk leaves of the budget goes to the best single tokens, so that the budget is met exactly. `reuse`
    layers in a row share the choice of the first (the paper's layer-wise index reuse). All heads share the chunks, as
    in NVIDIA's kvpress, where a chunk has 20 tokens.
    """

    def select(candidates: Candidates, k: int) -> Indices:
        return whole_groups(candidates, k, np.arange(len(candidates.scores), dtype=np.int64) // chunk)

    return Policy(
        title="ChunkKV",
        source="arXiv:2502.00299",
        score=AttentionScore(Window(window)),
        window=window,
        select=Selection(select),
        reuse=reuse,
    )
