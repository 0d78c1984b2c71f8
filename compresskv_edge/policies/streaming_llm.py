"""StreamingLLM, arXiv:2309.17453: attention sinks and the most recent tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import BudgetError
from .layer import Array, Layer
from .policy import Policy
from .scores import Rule


def policy(*, sinks: int = 4) -> Policy:
    """The first `sinks` tokens and the most recent ones, in the prompt and while decoding; the same in all layers.

    The paper gives kept tokens new positions inside the cache; positions here stay as they were, as for every method
    of this package, so that methods differ in nothing but the tokens. Costs nothing: no query or key is read.
    """
    return Policy(title="StreamingLLM", source="arXiv:2309.17453", score=Rule(recency), sinks=sinks, decodes=True)


def recency(layer: Layer, window: int) -> Array:
    return layer.positions[None, : layer.n - window].astype(np.float64)


def keep(n_tokens: int, budget: int, *, n_sink: int = 4) -> npt.NDArray[np.int64]:
    """Ascending indices of the first `n_sink` and the most recent tokens, `budget` in all: (min(budget, n_tokens),).

    The method on token counts alone. Raises BudgetError if the budget leaves no room for a recent token.
    """
    if n_sink < 0:
        raise BudgetError(f"n_sink must not be negative, got {n_sink}")
    if budget <= n_sink:
        raise BudgetError(f"budget is {budget} tokens but {n_sink} are attention sinks: use {n_sink + 1} or more")
    if n_tokens <= budget:
        return np.arange(n_tokens, dtype=np.int64)
    recent = np.arange(n_tokens - (budget - n_sink), n_tokens, dtype=np.int64)
    return np.concatenate([np.arange(n_sink, dtype=np.int64), recent])
