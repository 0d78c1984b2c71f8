"""What a layer loses when all but a few tokens are evicted (section 3.3 of arXiv:2508.02401). Pure NumPy.

Shapes: outputs (n_steps, n_head * head_dim) as of `attention.attend`; w_o (n_embd, n_head * head_dim); errors
(n_layer,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from ..method.attention import attend

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


@dataclass
class Losses:
    """Of several answers, by layer: attention's outputs with all tokens and with few, of the steps in n_steps."""

    pairs: dict[int, list[tuple[Array, Array]]] = field(default_factory=dict)
    n_steps: int = 0

    def sums(self, n_layer: int, projection: Callable[[int], tuple[Array, Optional[Array]]]) -> Float64:
        """Errors of each layer summed over the steps: (n_layer,). projection: w_o and bias of a layer."""
        sums = np.zeros(n_layer)
        for layer, pairs in self.pairs.items():
            full, less = (np.concatenate([pair[i] for pair in pairs]) for i in range(2))
            sums[layer] = relative_errors(full, less, *projection(layer)).sum()
        return sums


def outputs_of_kept(
    queries: Array, keys: Array, values: Array, kept: Array, n_prompt: int, *, softcap: float = 0.0
) -> tuple[Array, Array]:
    """Attention's outputs with all rows and with the rows `kept` of the prompt's, for the steps after the prompt.

    queries: (n_head, n_steps, head_dim) of the full run; step i sees the n_prompt rows of the prompt and i + 1 more.
    """
    n_steps = queries.shape[1]
    rows = np.concatenate([np.asarray(kept), np.arange(n_prompt, keys.shape[1])])
    steps = np.arange(1, n_steps + 1)
    full = attend(queries, keys, values, n_prompt + steps, softcap=softcap)
    less = attend(queries, keys[:, rows], values[:, rows], len(kept) + steps, softcap=softcap)
    return full, less


def relative_errors(full: Array, less: Array, w_o: Array, bias: Optional[Array] = None) -> Float64:
    """||W_o less - W_o full|| / ||W_o full + bias|| of each step: (n_steps,). No bias in a difference."""
    difference = (less - full) @ w_o.T
    output = full @ w_o.T + (0.0 if bias is None else bias)
    norms = [np.sqrt(np.square(x, dtype=np.float64).sum(axis=-1)) for x in (difference, output)]
    return np.asarray(norms[0] / np.maximum(norms[1], np.finfo(np.float64).tiny), dtype=np.float64)


def combine(sums: Mapping[str, Array]) -> Float64:
    """One error a layer from the sums over each data set: normalised to sum 1, averaged, normalised again."""
    shares = [total / total.sum() for total in sums.values() if total.sum() > 0.0]
    if not shares:
        return np.zeros_like(next(iter(sums.values())), dtype=np.float64)
    mean = np.mean(shares, axis=0)
    return np.asarray(mean / mean.sum(), dtype=np.float64)
