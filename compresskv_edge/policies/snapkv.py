"""SnapKV, arXiv:2404.14469: what the end of the prompt attends to, pooled."""

from __future__ import annotations

from typing import Literal

from .policy import Policy
from .probes import Window
from .scores import AttentionScore


def policy(*, window: int = 32, kernel: int = 7, pooling: Literal["avg", "max"] = "max") -> Policy:
    """Attention of the last `window` queries, summed, pooled; the best tokens and the window stay.

    Defaults are those of the paper's LongBench runs; the window is at most a quarter of the budget. The authors of
    CompressKV compare with window 8, kernel 5, average pooling: "snapkv:window=8:kernel=5:pooling=avg". The paper
    selects per head; here all heads are averaged after pooling.

    Scores in the library with Llama(kv_policy="snapkv"): costs what compresskv costs, with all heads.
    """
    return Policy(
        title="SnapKV",
        source="arXiv:2404.14469",
        score=AttentionScore(Window(window)),
        kernel=kernel,
        pooling=pooling,
        window=window,
    )
