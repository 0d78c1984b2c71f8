"""The full cache's answer, fed to a smaller cache in one batch: whether and how far its predictions move.

`agreement`: the smaller cache would have given the same answer, token by token. `kl`: KL(full || smaller) in nats, mean
over the answer's tokens. The first token of an answer comes from the full prompt in both and is left out. The reference
is fed in a batch of the same shape, since sums differ in the last digits between shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Greedy:
    """An answer that was chosen greedily. tokens: less the one that ended it. end: that one, None at max_tokens."""

    tokens: tuple[int, ...]
    text: str
    end: int | None = None

    @property
    def fed(self) -> tuple[int, ...]:
        """Tokens after which the next one is known: (n,)."""
        return self.tokens if self.end is not None else self.tokens[:-1]

    @property
    def expected(self) -> tuple[int, ...]:
        """The next one: (n,)."""
        return self.tokens[1:] if self.end is None else (*self.tokens[1:], self.end)[: len(self.fed)]


class Reference:
    """What the full cache predicts after each token that it is fed."""

    def __init__(self, answer: Greedy, logits: Logits) -> None:
        """logits: (n, n_vocab) after answer.fed."""
        self.answer = answer
        self._shifted = logits - logits.max(axis=1, keepdims=True)
        weights = np.exp(self._shifted)
        sums = weights.sum(axis=1, dtype=np.float64)
        self._log_sums = np.log(sums)
        self._p = weights / sums[:, None].astype(np.float32)

    def n_agreed(self, logits: Logits) -> int:
        """Tokens up to the first that differs from the answer's."""
        chosen = logits.argmax(axis=1)
        other = np.flatnonzero(chosen != np.asarray(self.answer.expected, dtype=np.int64))
        return int(other[0]) if other.size else len(chosen)

    def kl(self, logits: Logits) -> float:
        """Mean KL(full || logits) over the tokens, 0 for none. logits: (n, n_vocab)."""
        if not len(logits):
            return 0.0
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))
        moved = np.einsum("nv,nv->n", self._p, self._shifted - shifted, dtype=np.float64)
        return float(np.maximum(moved - self._log_sums + log_sums, 0.0).mean())


def kept_shares(marked: Sequence[int], kept: Sequence[npt.NDArray[np.int64]]) -> tuple[list[float], float]:
    """Share of the marked positions that each layer holds, and that any layer holds. kept: positions, by layer."""
    held = np.stack([np.isin(marked, positions) for positions in kept])
    return [float(share) for share in held.mean(axis=1)], float(held.any(axis=0).mean())
