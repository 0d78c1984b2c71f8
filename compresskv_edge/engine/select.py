"""The library's selection on arrays, without a context: what its scores and top k choose, next to the specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BudgetError, EngineError
from . import library
from .call import POOLING, call

Indices = npt.NDArray[np.int64]


def select_tokens(
    q_window: npt.NDArray[Any],
    k: npt.NDArray[Any],
    heads: Sequence[int] | npt.NDArray[np.integer],
    budget: int,
    *,
    window: int = 8,
    kernel: int = 5,
    pooling: str = "avg",
) -> Indices:
    """`compresskv_edge.method.scoring.select_tokens`, done by the library: same arguments, same result, same errors."""
    ffi, _ = library.load()
    if q_window.ndim != 3 or k.ndim != 3 or q_window.shape[1] != window or q_window.shape[2] != k.shape[2]:
        raise ValueError(
            f"expected q_window (n_head, window={window}, head_dim) and k (n_head_kv, n_tokens, head_dim), "
            f"got {q_window.shape} and {k.shape}"
        )
    if pooling not in POOLING:
        raise ValueError(f'pooling must be "avg" or "max", got {pooling!r}')
    if budget < window:
        raise BudgetError(f"budget is {budget} tokens but the window alone holds {window}: use {window + 1} or more")
    q32 = np.ascontiguousarray(q_window, dtype=np.float32)
    k32 = np.ascontiguousarray(k, dtype=np.float32)
    h32 = np.ascontiguousarray(heads, dtype=np.int32)
    kept = np.empty(min(budget, k.shape[1]), dtype=np.int64)
    try:
        call(
            "select",
            *(ffi.cast("float *", q32.ctypes.data), q32.shape[0], window),
            *(ffi.cast("float *", k32.ctypes.data), k32.shape[0], k32.shape[1], k32.shape[2]),
            *(ffi.cast("int32_t *", h32.ctypes.data), h32.size),
            *(budget, kernel, POOLING[pooling]),
            ffi.cast("int64_t *", kept.ctypes.data),
        )
    except EngineError as error:
        raise ValueError(str(error)) from None
    return kept
