"""`native.scores`: the window's attention to every token, against NumPy."""

from __future__ import annotations

from typing import Callable

import devices
import numpy as np
import pytest
from logits import TYPES, Case, prompt

from compresskv_edge import Llama
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError
from compresskv_edge.method import scoring

pytestmark = pytest.mark.every_device

BY_NUMPY = {"sum": lambda a: a.sum(axis=1).mean(axis=0), "max": lambda a: a.max(axis=(0, 1))}


@pytest.mark.parametrize("type_kv", ["f16", "q8_0"])
@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("n_after", [0, 30])
def test_scores(n_after: int, reduce: str, type_kv: str, load: Callable[..., Llama]) -> None:
    """Of a prompt, and of a compressed one with a tail behind it."""
    llm = load(type_k=TYPES[type_kv], type_v=TYPES[type_kv])
    llm.eval(prompt(Case("", 300)))
    if n_after:
        llm.compress()
        llm.eval(prompt(Case("", n_after)))
    for il, layer in enumerate(llm._compression.layers):
        q = native.read_queries(llm.ctx, il, layer, 8)
        k, _ = native.read_kv(llm.ctx, il, layer)
        heads = llm._compression.profile.heads_used()[il]
        attention = np.stack([scoring.window_attention(q, k, head) for head in heads])
        scores = native.scores(llm.ctx, il, reduce)
        assert scores.shape == llm.kv_kept(il).shape
        rtol = devices.TIE if devices.current.error else 2e-3
        np.testing.assert_allclose(scores, BY_NUMPY[reduce](attention), rtol=rtol, atol=1e-6)


def test_scores_need_queries(load: Callable[..., Llama]) -> None:
    llm = load()
    with pytest.raises(EngineError, match="decode tokens first"):
        native.scores(llm.ctx, 0)
