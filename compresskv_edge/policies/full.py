"""Full: keeps all, what every other policy is measured against."""

from __future__ import annotations

import numpy as np

from .policy import Policy
from .scores import Rule


def policy() -> Policy:
    """The cache as llama.cpp has it; grows with the text."""
    return Policy(
        title="Full",
        source="llama.cpp",
        score=Rule(lambda layer, window: np.ones((1, layer.n - window))),
        evicts=False,
    )
