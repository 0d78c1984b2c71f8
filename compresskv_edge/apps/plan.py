"""Which contexts, budgets and KV types fit a memory, computed before anything is loaded (sizes.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import BudgetError
from ..model.sizes import KV_TYPES, PAD, ModelSizes, pad

BUDGETS = (512, 1024, 2048, 4096)
TAIL = 512  # kv_tail's default
CAP_FACTOR = 3  # no layer keeps more than this times the mean budget: the profiles' default
PROCESS_BYTES = 80 << 20  # Python with NumPy, the binding and the library: 71 MB measured on Linux x86-64
_N_COLUMNS = 6
_LEAST_BUDGET = 9  # one token beside the observation window


@dataclass(frozen=True)
class PlannedCache:
    """One way to keep K and V. `budget` None is stock llama.cpp."""

    budget: int | None
    type_k: str = "f16"
    type_v: str = "f16"


@dataclass(frozen=True)
class Row:
    """What a cache needs. `total_bytes`: weights and all, for each of MemoryPlan.contexts. Contexts are in tokens.

    Compressed caches: the prompt is read in bounded memory (kv_prefill="guided" or "chunked"). `full_prefill` is the
    longest prompt for the paper's way, which holds all of it until its end. 0: not even the shortest fits.
    """

    cache: PlannedCache
    kv_bytes: tuple[int, ...]
    total_bytes: tuple[int, ...]
    largest_context: int
    full_prefill: int


@dataclass(frozen=True)
class MemoryPlan:
    """All rows for one model and one memory."""

    model: str
    memory_bytes: int
    weights_bytes: int
    n_ctx_train: int
    contexts: tuple[int, ...]
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def make(
    sizes: ModelSizes,
    memory_bytes: int,
    *,
    budgets: Sequence[int] = BUDGETS,
    kv_types: Sequence[str] = KV_TYPES,
    tail: int = TAIL,
) -> MemoryPlan:
    """The plan for a model. Raises BudgetError for a budget that no cache can have."""
    for budget in budgets:
        if budget < _LEAST_BUDGET:
            raise BudgetError(f"a budget of {budget} tokens holds no more than the observation window: use 9 or more")
    contexts = _contexts(sizes.n_ctx_train)
    caches = [PlannedCache(budget, kind, kind) for budget in (None, *budgets) for kind in kv_types]
    rows = tuple(_row(sizes, cache, contexts, memory_bytes, tail) for cache in caches)
    return MemoryPlan(sizes.name, memory_bytes, sizes.weights_bytes, sizes.n_ctx_train, contexts, rows)


def total_bytes(
    sizes: ModelSizes, cache: PlannedCache, n_ctx: int, *, tail: int = TAIL, full_prefill: bool = False
) -> int:
    """Peak of weights, cache, compute buffer and process for a context of n_ctx tokens."""
    rows = _peak_rows(cache, n_ctx, tail, full_prefill)
    return (
        sizes.weights_bytes
        + _kv_peak(sizes, cache, n_ctx, tail, full_prefill)
        + sizes.compute_bytes(rows)
        + (PROCESS_BYTES + (sizes.window_bytes() if cache.budget else 0))
    )


def largest_context(
    sizes: ModelSizes, cache: PlannedCache, memory_bytes: int, *, tail: int = TAIL, full_prefill: bool = False
) -> int:
    """Tokens of the longest context that fits, up to the trained one, in steps of 256; 0 if none does."""
    fits, too_many = 0, sizes.n_ctx_train // PAD + 1
    while too_many - fits > 1:  # memory grows with the context
        middle = (fits + too_many) // 2
        if total_bytes(sizes, cache, middle * PAD, tail=tail, full_prefill=full_prefill) <= memory_bytes:
            fits = middle
        else:
            too_many = middle
    return fits * PAD


def _row(sizes: ModelSizes, cache: PlannedCache, contexts: Iterable[int], memory_bytes: int, tail: int) -> Row:
    return Row(
        cache,
        tuple(_kv_steady(sizes, cache, n, tail) for n in contexts),
        tuple(total_bytes(sizes, cache, n, tail=tail) for n in contexts),
        largest_context(sizes, cache, memory_bytes, tail=tail),
        largest_context(sizes, cache, memory_bytes, tail=tail, full_prefill=True),
    )


def _steady_rows(cache: PlannedCache, n_ctx: int, tail: int) -> int:
    """Rows a layer while answering, on average."""
    return pad(n_ctx) if cache.budget is None else min(pad(n_ctx), cache.budget + tail)


def _peak_rows(cache: PlannedCache, n_ctx: int, tail: int, full_prefill: bool) -> int:
    """Rows of the largest layer at the peak."""
    if cache.budget is None or full_prefill:
        return pad(n_ctx)
    return min(pad(n_ctx), CAP_FACTOR * cache.budget + tail)


def _kv_steady(sizes: ModelSizes, cache: PlannedCache, n_ctx: int, tail: int) -> int:
    return sizes.kv_bytes(_steady_rows(cache, n_ctx, tail), cache.type_k, cache.type_v)


def _kv_peak(sizes: ModelSizes, cache: PlannedCache, n_ctx: int, tail: int, full_prefill: bool) -> int:
    """Beside the rows, one layer is there twice while its rows move."""
    types = (cache.type_k, cache.type_v)
    if cache.budget is None:
        return sizes.kv_bytes(pad(n_ctx), *types)
    kept = min(pad(n_ctx), CAP_FACTOR * cache.budget + tail)
    rows = pad(n_ctx) if full_prefill else _steady_rows(cache, n_ctx, tail)
    return sizes.kv_bytes(rows, *types) + sizes.largest_layer_bytes(kept, *types)


def _contexts(n_ctx_train: int) -> tuple[int, ...]:
    """Powers of two up to the trained context, and that."""
    return tuple(sorted({n_ctx_train, *_powers(n_ctx_train)})[-_N_COLUMNS:])


def _powers(limit: int) -> Iterator[int]:
    n = PAD
    while n <= limit:
        yield n
        n *= 2
