"""Layers for the tests of the policies: of random numbers, with all that a policy may ask for, and made by hand."""

from __future__ import annotations

from typing import Any, List, Sequence

import numpy as np

from compresskv_edge import policies
from compresskv_edge.model.measurement import ErrorCurves
from compresskv_edge.model.profile import Profile
from compresskv_edge.policies import Layer
from compresskv_edge.policies.allocation import Known
from compresskv_edge.runtime.records import column_sums

N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 2, 16


def random_layer(n: int, *, index: int = 0, seed: int = 0, **fields: Any) -> Layer:
    """One layer of n tokens, all queries known; keys of a few tokens are loud, so that attention is uneven."""
    rng = np.random.default_rng([seed, index, n])
    loud = 1.0 + 3.0 * (rng.random((1, n, 1)) < 0.1)
    k = (rng.standard_normal((N_HEAD_KV, n, HEAD_DIM)) * loud).astype(np.float32)
    q = (rng.standard_normal((N_HEAD, n, HEAD_DIM)) + 0.5).astype(np.float32)
    inputs = {
        "keys": k,
        "queries": q,
        "mass": column_sums(q, k, np.arange(1, n + 1)),
        "sample": q[:, ::5],
        "ends": rng.random(n) < 0.08,
        "values": rng.standard_normal((N_HEAD_KV, n, HEAD_DIM)).astype(np.float32),
        "question": np.asarray(12),
        "ahead": (rng.standard_normal((N_HEAD, 5, HEAD_DIM)) + 0.5).astype(np.float32),
    }
    return layer_of(n, inputs, index=index, **fields)


def layer_of(n: int, inputs: dict[str, Any], *, index: int = 0, **fields: Any) -> Layer:
    """A layer of n tokens; `fields` are those of Layer, or further inputs."""
    own = {key: fields.pop(key) for key in ("positions", "protected") if key in fields}
    return Layer(index, own.pop("positions", np.arange(n)), {**inputs, **fields}, **own)


def attending(rows: Any, **fields: Any) -> Layer:
    """A layer whose heads pay exactly the given attention: rows (H, r, n) of the last r queries.

    Keys are unit vectors, so that a query's components are its logits.
    """
    attention = np.asarray(rows, dtype=np.float64)
    _, r, n = attention.shape
    visible = np.arange(n) <= np.arange(n - r, n)[:, None]
    attention = np.where(visible, attention, 0.0)
    attention /= attention.sum(axis=-1, keepdims=True)
    queries = (np.log(np.maximum(attention, 1e-30)) * np.sqrt(n)).astype(np.float32)
    return layer_of(n, {"keys": np.eye(n, dtype=np.float32)[None], "queries": queries}, **fields)


def keyed(keys: Sequence[Sequence[float]], **fields: Any) -> Layer:
    """A layer of one head with these keys."""
    k = np.asarray(keys, dtype=np.float32)[None]
    return layer_of(k.shape[1], {"keys": k, "queries": np.zeros_like(k)}, **fields)


def massive(mass: Sequence[float], **fields: Any) -> Layer:
    """A layer of which only the attention from all queries is known."""
    return layer_of(len(mass), {"mass": np.asarray(mass, dtype=float)}, **fields)


def kept(name: str, layer: Layer, budget_tokens: int, window: int = 1) -> List[int]:
    """The tokens that one layer keeps."""
    return policies.get(name).keep(layer, budget_tokens, budget_tokens, window=window).tolist()


def made_up_curves(n_layer: int) -> ErrorCurves:
    """Error curves that fall, each layer's in another way; the second matters most."""
    tokens = (1, 4, 16, 64, 256)
    errors = [tuple(10.0 * (1 + (il == 1)) / n ** (0.2 + 0.3 * il) for n in tokens) for il in range(n_layer)]
    return ErrorCurves(tokens=tokens, asked=tuple(errors), later=tuple(errors[::-1]))


def curves_of(layers: List[Any]) -> Known:
    """Made-up error curves as a policy gets them."""
    curves = made_up_curves(len(layers))
    return Known(curves=(curves.tokens, *curves.arrays()))


def curved(path: str) -> Profile:
    """An uncalibrated profile of a GGUF, with error curves so that every policy can run."""
    profile = Profile.uniform(path)
    return profile.model_copy(update={"error_curves": made_up_curves(profile.model.n_layer)})


def random_layers(n: int, n_layer: int = 4, **fields: Any) -> List[Layer]:
    """Layers of one model, each with other numbers."""
    return [random_layer(n, index=index, **fields) for index in range(n_layer)]
