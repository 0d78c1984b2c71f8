"""Ahead: what the question and a draft of the answer look at. Ours; the parts are from the papers named below."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..method.attention import of_head
from . import compresskv
from .allocation import Spread
from .layer import Array, Float64, Layer
from .needs import AHEAD, KEYS, QUESTION, VALUES, drafted, last
from .policy import Policy
from .scores import Rule

UNKNOWN = 32  # last tokens that count as the question where it is not known: SnapKV's window


def policy(*, window: int = 8, question: int = 64, ahead: int = 8, sinks: int = 4) -> Policy:
    """A token is worth the most attention that any query gives it, times the length of its value, mean over the heads.

    The queries are those of the question (its last `question` tokens, with the chat template's that follow) and those
    of the answer's first `ahead` tokens, which are drafted greedily while the whole prompt is in the cache, and taken
    out again. A draft as a window: SpecKV (arXiv:2506.08373), there from a smaller model. Values: CriticalKV
    (arXiv:2502.03805), which goes through the output projection as well. Budgets are CompressKV's, by the profile's
    layer errors. Attention sinks stay, as in StreamingLLM (arXiv:2309.17453).

    Without a question that is known the last 32 tokens are looked at. There is no draft where layers have a sliding
    window, which cannot be set back, nor while decoding: the answer's own last tokens take its place.
    """

    def score(layer: Layer, window: int) -> Array:
        return np.stack(list(_worth(layer, question)))[:, : layer.n - window]

    return Policy(
        title="Ahead",
        source="none",
        score=Rule(score, frozenset({KEYS, VALUES, QUESTION, last(question), drafted(ahead)})),
        kernel=5,
        window=window,
        sinks=sinks,
        spread=Spread(compresskv.share),
        decodes=True,
    )


def _worth(layer: Layer, most: int) -> Iterator[Float64]:
    """One query head after the other: (n,)."""
    asked = int(layer[QUESTION]) or UNKNOWN
    n_asked = min(asked, most, layer.n_queries)
    lengths = np.linalg.norm(layer[VALUES].astype(np.float64), axis=-1)
    group = layer[AHEAD].shape[0] // len(lengths)
    for head, attention in enumerate(layer.attention(n_asked)):
        yield np.maximum(attention.max(axis=0), _ahead(layer, head)) * lengths[head // group]


def _ahead(layer: Layer, head: int) -> Float64:
    """The most that the drafted tokens give each token: (n,)."""
    queries = layer[AHEAD][head].astype(np.float64)
    keys = layer[KEYS]
    own = keys[head // (len(layer[AHEAD]) // len(keys))].astype(np.float64)
    attention = of_head(queries, own, np.zeros((len(queries), layer.n), dtype=bool))
    return np.asarray(attention.max(axis=0, initial=0.0), dtype=np.float64)
