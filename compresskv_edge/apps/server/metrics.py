"""Numbers of /metrics, for Prometheus: requests, tokens, times, and the cache of each slot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .slot import Slot, SlotProgress

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_KV_GAUGES = {
    "kv_bytes": "K and V tensors of a slot, now",
    "kv_bytes_peak": "the most that they were",
    "kv_bytes_stock": "what the stock cache allocates for the slot's n_ctx",
    "n_tokens_seen": "positions that the slot's text has",
}


class Metrics:
    """A registry of its own, so that two servers in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: Any = {"registry": self.registry}
        self.requests = Counter("compresskv_http_requests", "Answered requests", ["method", "path", "status"], **make)
        self.prompt_tokens = Counter("compresskv_prompt_tokens", "Tokens of prompts", **make)
        self.cached_tokens = Counter("compresskv_prompt_tokens_cached", "Of those, tokens that a slot held", **make)
        self.answer_tokens = Counter("compresskv_generated_tokens", "Tokens of answers", **make)
        self.evictions = Counter("compresskv_evictions", "Compressions of a cache", **make)
        self.eviction_seconds = Counter("compresskv_eviction_seconds", "Time that they took", **make)
        self.first_token = Histogram(
            "compresskv_first_token_seconds", "From a slot to its first token", buckets=_SECONDS, **make
        )
        self.generation = Histogram("compresskv_generation_seconds", "Time in a slot", buckets=_SECONDS, **make)
        # of each slot, evictions and milliseconds so far
        self._counted: WeakKeyDictionary[Slot, tuple[int, float]] = WeakKeyDictionary()

    def watch(self, models: Any) -> None:
        """Show the slots of `models` as gauges."""
        self.registry.register(_Slots(models))

    def finished(self, run: SlotProgress, slot: Slot) -> None:
        """Count one generation; from the event loop."""
        self.prompt_tokens.inc(run.n_prompt)
        self.cached_tokens.inc(run.n_cached)
        self.answer_tokens.inc(run.n_generated)
        if run.first_token is not None:
            self.first_token.observe(run.first_token - run.started)
        if run.ended is not None:
            self.generation.observe(run.ended - run.started)
        stats = slot.memory.stats
        evictions, milliseconds = self._counted.get(slot, (0, 0.0))
        self.evictions.inc(max(stats.n_evictions - evictions, 0))
        self.eviction_seconds.inc(max(stats.eviction_ms - milliseconds, 0.0) / 1000)
        self._counted[slot] = (stats.n_evictions, stats.eviction_ms)

    def text(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self.registry)


class _Slots(Collector):
    """Gauges that are read when somebody asks."""

    def __init__(self, models: Any) -> None:
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        pool = self._models.pool
        if pool is None:  # between two models
            return
        yield GaugeMetricFamily("compresskv_requests_waiting", "Requests in line for a slot", value=pool.n_waiting)
        busy = GaugeMetricFamily("compresskv_slot_busy", "1 while the slot generates", labels=["slot"])
        kept = GaugeMetricFamily("compresskv_tokens_kept", "Tokens a layer keeps, mean over layers", labels=["slot"])
        gauges = {n: GaugeMetricFamily(f"compresskv_{n}", text, labels=["slot"]) for n, text in _KV_GAUGES.items()}
        for slot in pool.slots:
            stats, label = slot.memory.stats, [str(slot.index)]
            busy.add_metric(label, float(slot.run is not None))
            kept.add_metric(label, sum(stats.n_tokens_kept) / max(len(stats.n_tokens_kept), 1))
            for name, gauge in gauges.items():
                gauge.add_metric(label, getattr(stats, name))
        yield from (busy, kept, *gauges.values())
