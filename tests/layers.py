"""Layers of random numbers for the tests of the policies: everything that a policy may ask for is there."""

from __future__ import annotations

from typing import Any, List

import numpy as np

from compresskv_edge.model.measurement import ErrorCurves
from compresskv_edge.model.profile import Profile
from compresskv_edge.policies import Layer
from compresskv_edge.policies.allocation import Curves
from compresskv_edge.runtime.recorder import column_sums

N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 2, 16


def random_layer(n: int, *, index: int = 0, seed: int = 0, **fields: Any) -> Layer:
    """One layer of n tokens, all queries known; keys of a few tokens are loud, so that attention is uneven."""
    rng = np.random.default_rng([seed, index, n])
    loud = 1.0 + 3.0 * (rng.random((1, n, 1)) < 0.1)
    k = (rng.standard_normal((N_HEAD_KV, n, HEAD_DIM)) * loud).astype(np.float32)
    q = (rng.standard_normal((N_HEAD, n, HEAD_DIM)) + 0.5).astype(np.float32)
    known: dict[str, Any] = {
        "positions": np.arange(n),
        "mass": column_sums(q, k, np.arange(1, n + 1)),
        "sample": q[:, ::5],
        "ends": rng.random(n) < 0.08,
    }
    return Layer(index=index, k=k, queries=q, **{**known, **fields})


def made_up_curves(n_layer: int) -> ErrorCurves:
    """Error curves that fall, each layer's in another way; the second matters most."""
    tokens = (1, 4, 16, 64, 256)
    errors = [tuple(10.0 * (1 + (il == 1)) / n ** (0.2 + 0.3 * il) for n in tokens) for il in range(n_layer)]
    return ErrorCurves(tokens=tokens, asked=tuple(errors), later=tuple(errors[::-1]))


def curves_of(layers: List[Any]) -> Curves:
    """Made-up error curves as a policy gets them."""
    curves = made_up_curves(len(layers))
    return (curves.tokens, *curves.arrays())


def curved(path: str) -> Profile:
    """An uncalibrated profile of a GGUF, with error curves so that every policy can run."""
    profile = Profile.uniform(path)
    return profile.model_copy(update={"error_curves": made_up_curves(profile.model.n_layer)})


def random_layers(n: int, n_layer: int = 4, **fields: Any) -> List[Layer]:
    """Layers of one model, each with other numbers."""
    return [random_layer(n, index=index, **fields) for index in range(n_layer)]
