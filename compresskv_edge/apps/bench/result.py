"""What a benchmark run is asked for and what it yields: raw samples, a summary, checks and a table. All pure."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

# what compression may cost, as ratios
MAX_PREFILL = 1.02  # of stock's prefill
MAX_EVICTION = 0.01  # of the prefill
MAX_DECODE = 1.05  # of stock's time at a context of the budget
MAX_KV_DEVIATION = 0.02  # from the expected bytes

CHUNK = 512  # tokens, llama_cpp's n_batch: chunks are what it would decode at a time anyway
BLOCK = 16  # decoded tokens before the next context takes its turn
WARM_UP = 2  # tokens that build the graph of decoding


@dataclass(frozen=True)
class BenchPlan:
    """What to measure. Lengths in tokens; `n_threads` None: one a core; `n_gpu_layers` as llama.cpp's, -1: all.

    against: types of K and V ("q8_0") that llama.cpp's own cache holds the whole prompt in as well, for comparison.
    rpc_servers: machines that take layers, as Llama's ("host:port,host:port").
    """

    prompt_tokens: int = 8192
    budget_tokens: int = 1024
    decode_tokens: int = 64
    repeats: int = 3
    prefill_repeats: int = 1
    n_threads: int | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    tail_tokens: int = 512
    n_gpu_layers: int = 0
    against: tuple[str, ...] = ()
    rpc_servers: str | None = None

    @property
    def n_steps(self) -> int:
        """How often `bench.run` measures, and reports progress."""
        chunks = _ceil_div(self.prompt_tokens, CHUNK) * self.prefill_repeats
        blocks = _ceil_div(self.decode_tokens, BLOCK) * self.repeats
        n_full = 2 + len(self.against)  # contexts that hold the whole prompt
        return n_full * chunks + _ceil_div(self.budget_tokens, CHUNK) + (n_full + 1) * blocks

    @property
    def threads(self) -> int:
        return self.n_threads or os.cpu_count() or 1


@dataclass(frozen=True)
class Samples:
    """Raw times of one context: prefill_ms (prefill_repeats, n_chunks) a chunk, decode_ms (n_blocks,) a token."""

    prefill_ms: tuple[tuple[float, ...], ...]
    decode_ms: tuple[float, ...]


@dataclass(frozen=True)
class Eviction:
    """One compression: as the library clocks it, from outside, and the memory of the process around it."""

    ms: float
    wall_ms: float
    resident_before: int | None  # bytes, None where the system does not tell
    resident_after: int | None


@dataclass(frozen=True)
class KVBytes:
    """Sizes of the caches. before, after, peak and expected are the compressed one's; before: the prompt is in."""

    stock: int
    limit: int
    before: int
    after: int
    peak: int
    expected: int


@dataclass(frozen=True)
class Rival:
    """llama.cpp's own cache of another type, with the whole prompt."""

    samples: Samples
    kv_bytes: int


@dataclass(frozen=True)
class Peaks:
    """Most bytes that a context had allocated beside the weights, on all devices: K, V and compute buffers."""

    stock: int
    compressed: int
    limit: int
    against: dict[str, int]


@dataclass(frozen=True)
class BenchResult:
    """All that a run measured, and on what. `against`: by type of K and V."""

    plan: BenchPlan
    model: dict[str, Any]
    profile: str
    machine: dict[str, Any]
    tokens_kept: tuple[int, ...]  # (n_layer,)
    kv: KVBytes
    evictions: tuple[Eviction, ...]  # (prefill_repeats,)
    stock: Samples
    compressed: Samples
    limit: Samples
    peaks: Peaks
    against: dict[str, Rival]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every sample, the summary and the checks."""
        derived = {
            "threads": self.plan.threads,
            "summary": summary(self),
            "checks": [check.to_dict() for check in checks(self)],
        }
        return {**dataclasses.asdict(self), **derived}


#
# arithmetic
#


def prefill_ms(samples: Samples) -> float:
    """Time of a whole prefill: the sum over its chunks of their median over the repeats."""
    return sum(float(median(chunk)) for chunk in zip(*samples.prefill_ms))


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of neighbours in time: slow phases of the machine cancel."""
    return median(a / b for a, b in zip(above, below))


def summary(result: BenchResult) -> dict[str, float]:
    """The figures of the table. Milliseconds and ratios."""
    stock, compressed, limit = result.stock, result.compressed, result.limit
    prefill = prefill_ms(compressed)
    eviction = median(e.wall_ms for e in result.evictions)
    return {
        "prefill_ms_stock": prefill_ms(stock),
        "prefill_ms_compressed": prefill,
        "prefill_ratio": prefill / prefill_ms(stock),
        "prefill_ratio_paired": paired_ratio(_flat(compressed.prefill_ms), _flat(stock.prefill_ms)),
        "eviction_ms": eviction,
        "eviction_ratio": eviction / prefill,
        "decode_ms_stock": median(stock.decode_ms),
        "decode_ms_compressed": median(compressed.decode_ms),
        "decode_ms_limit": median(limit.decode_ms),
        "decode_ratio_limit": paired_ratio(compressed.decode_ms, limit.decode_ms),
        "decode_speedup": paired_ratio(stock.decode_ms, compressed.decode_ms),
        **{f"decode_ms_{name}": median(rival.samples.decode_ms) for name, rival in result.against.items()},
        "kv_ratio": result.kv.after / result.kv.stock,
        "kv_deviation": result.kv.after / result.kv.expected - 1,
    }


@dataclass(frozen=True)
class Check:
    """A measured ratio and the most that it may be."""

    name: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "met": self.met}


def checks(result: BenchResult) -> tuple[Check, ...]:
    """What compression must not cost, in the order of the table's rows: prefill, eviction, decode, KV bytes."""
    figures = summary(result)
    return (
        Check("prefill / stock", figures["prefill_ratio"], MAX_PREFILL),
        Check("eviction / prefill", figures["eviction_ratio"], MAX_EVICTION),
        Check("decode / limit", figures["decode_ratio_limit"], MAX_DECODE),
        Check("KV bytes, deviation from expected", abs(figures["kv_deviation"]), MAX_KV_DEVIATION),
    )


def _flat(rows: Iterable[Iterable[float]]) -> list[float]:
    return [value for row in rows for value in row]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


#
# table
#


def table(result: BenchResult) -> Table:
    """The result for people."""
    from rich.table import Table

    plan = result.plan
    out = Table(title=_title(result), caption=_caption(result), caption_justify="left")
    out.add_column("")
    for name in ("stock", "compressed", f"limit: stock\nat {plan.budget_tokens} tokens", "ratio", "target"):
        out.add_column(name, justify="right")
    out.add_column("met")
    for cells in rows(result):
        out.add_row(*cells)
    return out


def rows(result: BenchResult) -> list[tuple[str, ...]]:
    """Cells of the table: what, stock, compressed, limit, ratio, target, met."""
    figures, kv, peaks, last = summary(result), result.kv, result.peaks, result.evictions[-1]
    prefill, eviction, decode, deviation = checks(result)
    return [
        (
            "prefill, ms",
            f"{figures['prefill_ms_stock']:.0f}",
            f"{figures['prefill_ms_compressed']:.0f}",
            "",
            *_verdict(prefill, "{:.3f} x stock"),
        ),
        ("eviction, ms", "", f"{figures['eviction_ms']:.1f}", "", *_verdict(eviction, "{:.2%} of prefill")),
        (
            "decode, ms/token",
            *(_spread(s.decode_ms) for s in (result.stock, result.compressed, result.limit)),
            *_verdict(decode, "{:.3f} x limit"),
        ),
        ("decode, speed-up", "1.0", f"{figures['decode_speedup']:.2f}", "", "", "", ""),
        ("KV, MiB", mib(kv.stock), mib(kv.after), mib(kv.limit), f"{figures['kv_ratio']:.3f} x stock", "", ""),
        ("KV expected, MiB", "", mib(kv.expected), "", *_verdict(deviation, "{:.2%} off")),
        ("KV before / peak, MiB", "", f"{mib(kv.before)} / {mib(kv.peak)}", "", "", "", ""),
        ("peak beside weights, MiB", *map(mib, (peaks.stock, peaks.compressed, peaks.limit)), "", "", ""),
        *(_rival_row(name, rival, figures) for name, rival in result.against.items()),
        ("process, MiB", "", f"{mib(last.resident_before)} -> {mib(last.resident_after)}", "", "", "", ""),
    ]


def _rival_row(name: str, rival: Rival, figures: dict[str, float]) -> tuple[str, ...]:
    """Decoding and cache of llama.cpp with K and V of another type, in the column of stock."""
    ratio = figures[f"decode_ms_{name}"] / figures["decode_ms_compressed"]
    cell = f"{_spread(rival.samples.decode_ms)}\n{mib(rival.kv_bytes)} MiB"
    return f"stock with {name} KV", cell, "", "", f"{ratio:.2f} x compressed", "", ""


def _verdict(check: Check, form: str) -> tuple[str, str, str]:
    return form.format(check.value), "<= " + form.format(check.limit).split(" ")[0], "yes" if check.met else "NO"


def _spread(samples: Sequence[float]) -> str:
    return f"{median(samples):.2f} ({min(samples):.2f}..{max(samples):.2f})"


def mib(n_bytes: int | None) -> str:
    """Bytes as a table shows them."""
    return "?" if n_bytes is None else f"{n_bytes / 2**20:.1f}"


def _title(result: BenchResult) -> str:
    plan = result.plan
    return (
        f"{result.model['name']}, {plan.prompt_tokens} prompt tokens, {plan.budget_tokens} kept a layer, "
        f"KV {plan.type_k}/{plan.type_v}, {plan.threads} threads"
    )


def _caption(result: BenchResult) -> str:
    return (
        f"Decode: median (min..max) of blocks of {BLOCK} tokens; ratios are medians over neighbouring blocks. "
        f"Process: resident memory of all three contexts around the eviction.\n"
        f"Profile: {result.profile}. Machine: {result.machine['cpu']}."
    )
