"""What one prompt under one policy and budget came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Union

Budget = Union[int, float]

FULL = "full"  # the policy that keeps all


@dataclass(frozen=True)
class Score:
    """One turn under one policy. agreement, KL and the like: `extra`."""

    task: str
    score: float
    counted: bool
    answer: str = ""
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """One sample under one policy and budget. Times in ms: `prefill_ms` of the prompt (shared), `decode_ms` a token.

    decode_ms: None if no token came by itself. n_kept: tokens a layer after the prompt, mean. kv_bytes: as allocated
    then, tail included. held: share of the marked passages' tokens in each layer that can evict (n_layer,), empty where
    none are marked.
    """

    sample: str
    policy: str
    budget: Budget
    scores: tuple[Score, ...]
    n_prompt: int
    n_kept: float
    kv_bytes: int
    prefill_ms: float
    evict_ms: float
    decode_ms: Optional[float]
    held: tuple[float, ...] = ()
