"""What the cache holds, in one line for the foot of the screen and in full for /stats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...runtime.llama import KVStats
from .conversation import Conversation
from .timing import Timing


@dataclass(frozen=True)
class Status:
    """Tokens and bytes now. `kept` is the mean over compressible layers; `stock_bytes`: what as many take there."""

    n_ctx: int
    n_tokens: int
    kept: float
    kv_bytes: int
    stock_bytes: int
    timing: Timing
    stats: KVStats
    budget: str

    @classmethod
    def of(cls, chat: Conversation) -> Status:
        """The status of a conversation."""
        llm, stats = chat.llm, chat.llm.kv_stats()
        settings = llm.kv_settings
        return cls(
            n_ctx=llm.n_ctx(),
            n_tokens=int(llm.n_tokens),
            kept=float(llm.kv_share().sum()),
            kv_bytes=stats.kv_bytes,
            stock_bytes=llm.kv_bytes_full(int(llm.n_tokens), stats),
            timing=chat.timing,
            stats=stats,
            budget="full cache" if settings is None else f"{settings.budget:g}",
        )

    def line(self) -> str:
        """For the foot of the screen."""
        parts = [f"context {self.n_tokens} of {self.n_ctx}", f"kept {self.kept:.0f}{self._share()}"]
        parts.append(f"KV {megabytes(self.kv_bytes)}, stock {megabytes(self.stock_bytes)}")
        if self.timing.tokens_per_second:
            parts.append(f"{self.timing.tokens_per_second:.1f} tokens/s")
        return " | ".join(parts)

    def rows(self) -> Iterator[tuple[str, str]]:
        """For /stats."""
        yield "context", f"{self.n_tokens} of {self.n_ctx} tokens"
        yield "budget", self.budget
        yield "kept", f"{self.kept:.0f} tokens a layer{self._share()}"
        yield "kept, layer by layer", " ".join(map(str, self.stats.n_tokens_kept))
        yield "KV cache now", megabytes(self.kv_bytes)
        yield "KV cache at its peak", megabytes(self.stats.kv_bytes_peak)
        yield "stock, for these tokens", megabytes(self.stock_bytes)
        yield f"stock, allocated for {self.n_ctx}", megabytes(self.stats.kv_bytes_stock)
        yield "evictions", f"{self.stats.n_evictions}, {self.stats.eviction_ms:.0f} ms in all"
        if self.timing.n_generated:
            yield "last prompt", f"{self.timing.n_prompt} tokens run, {self.timing.prompt_seconds:.2f} s"
            speed = self.timing.tokens_per_second
            yield "last answer", f"{self.timing.n_generated} tokens" + (f", {speed:.1f} a second" if speed else "")

    def _share(self) -> str:
        return f" ({self.kept / self.n_tokens:.0%})" if self.n_tokens else ""


def megabytes(n_bytes: int) -> str:
    """In MB of 10^6 bytes."""
    mega = n_bytes / 1e6
    return f"{mega:.1f} MB" if mega < 1000 else f"{mega / 1000:.2f} GB"
