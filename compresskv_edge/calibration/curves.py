"""Error curves: what it costs the answers when one layer alone keeps few tokens, at several budgets.

The paper's layer error (layer_error.py) is local: what a layer's own output loses. A layer may lose much that no answer
needs. Here the model answers again with that one layer compressed, fed the tokens that the full cache chose (teacher
forcing), and what counts is how much probability moves: that is bounded, where a KL divergence may come from one token
that was all but impossible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import List, Optional

import numpy as np
import numpy.typing as npt

from ..engine import native
from ..method.attention import softmax
from ..method.scoring import pool
from ..policies.compresskv import score
from ..policies.keydiff import difference
from ..policies.layer import Layer
from .engine import Engine

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

# tokens beside the window at which a layer is measured
POINTS = (1, 8, 32, 128, 512)
# tokens of an answer that are followed
MAX_STEPS = 8


def asked(engine: Engine, prompt: Sequence[int], heads: Sequence[Sequence[int]]) -> Float64:
    """Probability that moves if the prompt's question chose the tokens, summed over the answer: (n_layer, n_points).

    heads: (n_layer,) those that choose, see Profile.heads_used. An answer's first token comes from the full cache in
    both, so it does not count. Zeros for layers that are not evictable.
    """
    text = _Text(engine, prompt)
    settings, orders = engine.settings, {}
    for il in engine.measured_layers():
        scores = pool(score(text.layer(il, heads[il]), settings.window), settings.kernel, settings.pooling)
        orders[il] = np.argsort(-scores.mean(axis=0), kind="stable")
    return _curves(text, orders)


def later(engine: Engine, prompt: Sequence[int], n_document: int) -> Float64:
    """As `asked`, if the first n_document tokens were compressed before the question, by their keys alone (KeyDiff)."""
    text = _Text(engine, prompt[:n_document], prompt[n_document:])
    orders = {}
    for il in engine.measured_layers():
        scores = difference(text.layer(il), engine.settings.window)
        orders[il] = np.argsort(-scores.mean(axis=0), kind="stable")
    return _curves(text, orders)


def moved(full: Logits, other: Logits) -> float:
    """Total variation distance of two predictions, 0 to 1: the share of probability that moved. Both are (n_vocab,)."""
    probabilities = [softmax(logits.astype(np.float64)) for logits in (full, other)]
    return float(np.abs(probabilities[0] - probabilities[1]).sum() / 2)


class _Text:
    """A text that was read; `rest` follows it in one piece, then the tokens that the full cache chooses."""

    def __init__(self, engine: Engine, tokens: Sequence[int], rest: Sequence[int] = ()) -> None:
        self.engine, self.n, self.rest = engine, len(tokens), list(rest)
        engine.read(tokens)
        self._state = engine.llm.save_state()
        self._rows = {il: (engine.keys_and_values(il)[0], engine.window(il)) for il in engine.measured_layers()}
        if self.rest:
            engine.llm.eval(self.rest)
        self.forced = [int(token) for token in engine.answer(MAX_STEPS).generated[:-1]]
        self.reference = self.follow()

    def layer(self, il: int, heads: Sequence[int] = ()) -> Layer:
        """What a policy sees of a layer after the text."""
        keys, queries = self._rows[il]
        return Layer(il, np.arange(self.n), {"keys": keys, "queries": queries, "heads": heads})

    def follow(self, layer: Optional[int] = None, chosen: Optional[Indices] = None) -> List[Logits]:
        """Predictions after the rest and after each token of the answer; `layer` holds `chosen` and the window only."""
        llm = self.engine.llm
        self.restore()
        if chosen is not None:
            native.keep(llm.ctx, self._kept(layer, chosen))
        found = []
        if self.rest:
            llm.eval(self.rest)
            found.append(self.engine.logits())
        return [*found, *llm.eval_all(self.forced)]

    def restore(self) -> None:
        """The cache as it was after the text, whole."""
        self.engine.llm.load_state(self._state)

    def _kept(self, layer: Optional[int], chosen: Indices) -> List[Indices]:
        few = np.concatenate([np.sort(chosen), np.arange(self.n - self.engine.settings.window, self.n)])
        whole, none = np.arange(self.n), np.empty(0, dtype=np.int64)
        shapes = enumerate(self.engine.layers)
        return [few if il == layer else whole if shape.evictable else none for il, shape in shapes]


def _curves(text: _Text, orders: dict[int, Indices]) -> Float64:
    """orders: by layer, the tokens before the window, best first."""
    errors = np.zeros((text.engine.facts.n_layer, len(POINTS)))
    for il, order in orders.items():
        for i, n_tokens in enumerate(POINTS):
            if n_tokens < len(order):
                found = text.follow(il, order[:n_tokens])
                errors[il, i] = sum(moved(*pair) for pair in zip(text.reference, found))
    text.restore()
    return errors
