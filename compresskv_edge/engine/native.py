"""The calls of the native library (csrc/ckv.h) through cffi; library.py finds and loads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from . import library
from .call import POOLING, call, context, pointer
from .call import last_error as last_error  # one of the library's calls, for whoever makes the others

_REDUCE = {"sum": 0, "max": 1}

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


#
# models
#


@dataclass(frozen=True)
class LayerShape:
    """Shape of one layer; `evictable` is false for sliding-window layers, which are bounded already."""

    n_head: int
    n_head_kv: int
    head_dim_k: int
    head_dim_v: int
    evictable: bool


def check_model(model: int) -> None:
    """Raise UnsupportedModelError, naming the architecture, if the model (llama_model *) cannot be compressed."""
    call("model_supported", pointer("struct llama_model *", model))


def model_layers(model: int, n_layer: int) -> list[LayerShape]:
    """Shapes of all layers of a model (llama_model *)."""
    ffi, _ = library.load()
    out = ffi.new("struct llama_ckv_layer *")
    layers = []
    for il in range(n_layer):
        call("model_layer", pointer("struct llama_model *", model), il, out)
        layers.append(LayerShape(out.n_head, out.n_head_kv, out.head_dim_k, out.head_dim_v, bool(out.evictable)))
    return layers


def attach(model: int, heads: Sequence[Sequence[int]], *, window: int, kernel: int, pooling: str, n_tail: int) -> None:
    """Give contexts that are created from `model` from now on a compressed cache.

    heads: per layer, the query heads that score. Raises UnsupportedModelError or EngineError.
    """
    ffi, _ = library.load()
    n_heads = max(map(len, heads))
    padded = [[*map(int, row), *[-1] * (n_heads - len(row))] for row in heads]
    flat = ffi.new("int32_t[]", [h for row in padded for h in row])
    profile = ffi.new(
        "struct llama_ckv_profile *",
        [len(heads), n_heads, flat, window, kernel, POOLING[pooling], n_tail],
    )
    call("attach", pointer("struct llama_model *", model), profile)


#
# contexts. seq_id: which of the sequences of a context
#


def prompt_begin(ctx: int, n_tokens: int, seq_id: int = 0) -> None:
    """Make room for a prompt of n_tokens more tokens in one allocation."""
    call("prompt_begin", context(ctx), seq_id, n_tokens)


def prompt_end(ctx: int, budgets: Sequence[int], seq_id: int = 0) -> None:
    """Compress if a layer holds more tokens than its budget. budgets: (n_layer,), window included."""
    _compress("prompt_end", ctx, budgets, seq_id=seq_id)


def compress(ctx: int, budgets: Sequence[int], seq_id: int = 0) -> None:
    """Compress even if every layer is within its budget: all tokens but the window become prefix."""
    _compress("compress", ctx, budgets, seq_id=seq_id)


def compress_guided(ctx: int, budgets: Sequence[int], n_guide: int, seq_id: int = 0) -> None:
    """As compress; the last n_guide tokens are a question that was decoded ahead: they score and are removed again."""
    _compress("compress_guided", ctx, budgets, n_guide, seq_id=seq_id)


def reserve(ctx: int, budgets: Sequence[int], seq_id: int = 0) -> None:
    """Allocate what compressions to these budgets need, so that memory stays flat from one to the next."""
    _compress("reserve", ctx, budgets, seq_id=seq_id)


def _compress(name: str, ctx: int, budgets: Sequence[int], *args: int, seq_id: int = 0) -> None:
    ffi, _ = library.load()
    call(name, context(ctx), seq_id, ffi.new("int32_t[]", [int(b) for b in budgets]), *args)


def rebase(ctx: int, n_max: int, seq_id: int = 0) -> int:
    """Take out the positions that no layer holds; the next position, at most n_max, for which old tokens may go."""
    return call("rebase", context(ctx), seq_id, n_max)


def protect(ctx: int, positions: Sequence[int], seq_id: int = 0) -> None:
    """Never evict the tokens at these positions; they count in the budgets. Replaces an earlier set."""
    ffi, _ = library.load()
    call("protect", context(ctx), seq_id, ffi.new("llama_pos[]", [int(p) for p in positions]), len(positions))


def keep(ctx: int, kept: Sequence[Sequence[int] | npt.NDArray[np.integer]], seq_id: int = 0) -> None:
    """Compress to a selection made elsewhere.

    kept: per layer, ascending indices into `positions(ctx, layer)` with the window among them; empty where the layer
    is not evictable.
    """
    ffi, _ = library.load()
    flat = np.ascontiguousarray(np.concatenate([np.asarray(row, dtype=np.int32) for row in kept]), dtype=np.int32)
    lengths = ffi.new("int32_t[]", [len(row) for row in kept])
    call("keep", context(ctx), seq_id, ffi.cast("int32_t *", flat.ctypes.data), lengths)


def choose(ctx: int, budgets: Sequence[int], n_guide: int = 0, seq_id: int = 0) -> list[Indices]:
    """What compress, or with n_guide > 0 compress_guided, would keep: as `keep` takes it. Nothing changes."""
    ffi, _ = library.load()
    flat = np.empty(sum(max(int(b), 0) for b in budgets), dtype=np.int32)
    lengths = np.zeros(len(budgets), dtype=np.int32)
    call(
        "choose",
        *(context(ctx), seq_id, ffi.new("int32_t[]", [int(b) for b in budgets]), n_guide),
        *(ffi.cast("int32_t *", a.ctypes.data) for a in (flat, lengths)),
    )
    ends = np.cumsum(lengths)
    return [flat[end - n : end].astype(np.int64) for n, end in zip(lengths, ends)]


@dataclass(frozen=True)
class Stats:
    """struct llama_ckv_stats: sizes in bytes, time in milliseconds."""

    n_tokens_seen: int
    n_tail_used: int
    n_tail: int
    n_frozen: int
    kv_bytes: int
    kv_bytes_peak: int
    kv_bytes_stock: int
    window_bytes: int
    n_evictions: int
    eviction_ms: float


def stats(ctx: int) -> Stats:
    """Sizes and counts of a context's cache."""
    ffi, _ = library.load()
    out = ffi.new("struct llama_ckv_stats *")
    call("get_stats", context(ctx), out)
    return Stats(**{name: getattr(out, name) for name in Stats.__dataclass_fields__})


@dataclass(frozen=True)
class SeqStats:
    """struct llama_ckv_seq_stats: counts in tokens; `n_sharing` sequences use the same prefix, 0 if there is none.

    n_queries: of the observation window, those known. Fewer after tokens behind them were removed.
    """

    n_tokens_seen: int
    n_tail_used: int
    n_frozen: int
    n_rebased: int
    n_sharing: int
    n_queries: int


def seq_stats(ctx: int, seq_id: int = 0) -> SeqStats:
    """Counts of one sequence."""
    ffi, _ = library.load()
    out = ffi.new("struct llama_ckv_seq_stats *")
    call("get_seq_stats", context(ctx), seq_id, out)
    return SeqStats(**{name: getattr(out, name) for name in SeqStats.__dataclass_fields__})


@dataclass(frozen=True)
class Allocated:
    """llama_memory_breakdown, summed over the devices: bytes that the allocators hold for a context."""

    model_bytes: int
    context_bytes: int
    compute_bytes: int


def memory(ctx: int) -> Allocated:
    """What a context has allocated, with or without a profile."""
    ffi, _ = library.load()
    out = ffi.new("struct llama_ckv_memory *")
    call("get_memory", context(ctx), out)
    return Allocated(**{name: getattr(out, name) for name in Allocated.__dataclass_fields__})


def positions(ctx: int, layer: int, seq_id: int = 0) -> Indices:
    """Positions of the tokens that a layer holds, ascending: (n,)."""
    ffi, _ = library.load()
    n = call("positions", context(ctx), seq_id, layer, ffi.NULL, 0)
    out = np.empty(n, dtype=np.int32)
    call("positions", context(ctx), seq_id, layer, ffi.cast("int32_t *", out.ctypes.data), n)
    return out.astype(np.int64)


def keep_queries(ctx: int, n_tokens: int) -> None:
    """Keep the queries of the last n_tokens tokens from now on, beside those of the window; 0 frees them."""
    call("keep_queries", context(ctx), n_tokens)


def read_queries(ctx: int, layer: int, shape: LayerShape, n: int, seq_id: int = 0) -> Float32:
    """Queries of the last n tokens as attention saw them, oldest first: (n_head, n, head_dim).

    n: up to the observation window, or to what `keep_queries` keeps. Scaled so that the logits are
    q k^T / sqrt(head_dim); in the cache's rotated basis if the cache is quantised.
    """
    ffi, _ = library.load()
    out = np.empty((shape.n_head, n, shape.head_dim_k), dtype=np.float32)
    call("read_queries", context(ctx), seq_id, layer, n, ffi.cast("float *", out.ctypes.data))
    return out


def read_kv(ctx: int, layer: int, shape: LayerShape, seq_id: int = 0) -> tuple[Float32, Float32]:
    """Keys and values of a layer, dequantised, in the order of `positions`: (n_head_kv, n, head_dim) each."""
    ffi, _ = library.load()
    n = len(positions(ctx, layer, seq_id))
    k = np.empty((shape.n_head_kv, n, shape.head_dim_k), dtype=np.float32)
    v = np.empty((shape.n_head_kv, n, shape.head_dim_v), dtype=np.float32)
    call("read_kv", context(ctx), seq_id, layer, *(ffi.cast("float *", a.ctypes.data) for a in (k, v)))
    return k, v


def write_kv(
    ctx: int,
    layer: int,
    shape: LayerShape,
    rows: npt.NDArray[np.integer],
    k: Optional[npt.NDArray[Any]] = None,
    v: Optional[npt.NDArray[Any]] = None,
    seq_id: int = 0,
) -> None:
    """Replace keys and values of some rows, quantised as the cache is; what `read_kv` read changes nothing.

    rows: (n_rows,) ascending indices into `positions(ctx, layer)`. k, v: (n_head_kv, n_rows, head_dim); None: they
    stay. A sequence that shares rows with a fork gets a copy of its own first. Raises EngineError.
    """
    ffi, _ = library.load()
    for name, array, head_dim in (("k", k, shape.head_dim_k), ("v", v, shape.head_dim_v)):
        want = (shape.n_head_kv, len(rows), head_dim)
        if array is not None and array.shape != want:
            raise EngineError(f"{name} of {len(rows)} rows of layer {layer} is {array.shape}, not {want}")
    parts = [None if a is None else np.ascontiguousarray(a, dtype=np.float32) for a in (k, v)]
    at = np.ascontiguousarray(rows, dtype=np.int32)
    call(
        "write_kv",
        *(context(ctx), seq_id, layer, ffi.cast("int32_t *", at.ctypes.data), len(at)),
        *(ffi.NULL if a is None else ffi.cast("float *", a.ctypes.data) for a in parts),
    )


def scores(ctx: int, layer: int, reduce: str = "sum") -> Float32:
    """Attention that the last `window` tokens pay to each token of `positions(ctx, layer)`, not pooled: (n,).

    reduce: "sum" over the queries and mean over the heads that score, or "max" over both.
    """
    ffi, _ = library.load()
    out = np.empty(len(positions(ctx, layer)), dtype=np.float32)
    call("scores", context(ctx), 0, layer, _REDUCE[reduce], ffi.cast("float *", out.ctypes.data))
    return out
