"""A slot: one context, the thread that decodes in it, and what it remembers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, Optional, Sequence

import numpy as np
import numpy.typing as npt

from ...errors import CompressKVError
from ...runtime.llama import KVStats
from ...runtime.prompt import common_prefix
from .load import Aborted, SlotLlama

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.1  # how often a running generation notes its cache's size


@dataclass
class SlotProgress:
    """What a generation does at the moment. Its thread writes, anyone reads."""

    request_id: str
    n_prompt: int = 0
    n_cached: int = 0  # of the prompt, tokens that the slot held already
    n_decoded: int = 0  # positions in the cache
    n_generated: int = 0
    kv_bytes: int = 0
    started: float = field(default_factory=time.monotonic)
    first_token: Optional[float] = None
    ended: Optional[float] = None
    interruptible: bool = False
    interrupted: bool = False

    @property
    def phase(self) -> str:
        """prompt, answer."""
        return "prompt" if self.first_token is None else "answer"


@dataclass(frozen=True)
class Memory:
    """What a slot holds between two generations.

    tokens: (n,) the text so far. layers: (n,) how many of `n_layers` compressible layers kept each. From `n_frozen` on
    tokens can be taken back; a prompt that differs earlier has to be run again.
    """

    tokens: npt.NDArray[np.int32]
    layers: npt.NDArray[np.int32]
    n_layers: int
    n_frozen: int
    stats: KVStats

    def reusable(self, tokens: npt.NDArray[np.int32]) -> int:
        """Tokens of a prompt that need not be decoded again."""
        n = common_prefix(self.tokens, tokens)
        return n if n >= self.n_frozen else 0

    def holds(self, tokens: npt.NDArray[np.int32]) -> bool:
        """Whether this is that conversation: more than half of it need not be decoded again."""
        return self.reusable(tokens) > len(tokens) / 2

    def usage(self, llama: SlotLlama) -> Dict[str, Any]:
        """The cache as clients get it: KVStats, and what all its tokens would take uncompressed."""
        full = llama.kv_bytes_full(self.stats.n_tokens_seen, self.stats)
        return {**asdict(self.stats), "kv_bytes_full": full}


class Slot:
    """One context and its thread."""

    def __init__(self, index: int, llama: SlotLlama) -> None:
        self.index, self.llama = index, llama
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"slot-{index}")
        self.run: Optional[SlotProgress] = None
        self.last_used = 0.0
        llama.before_prompt, llama.before_decode, llama.after_token = self._prompt, self._look, self._token
        self._looked = 0.0
        self.memory = self._remember()

    def begin(self, run: SlotProgress) -> None:
        """Take the slot for one generation; from the event loop."""
        self.llama.go()
        run.started = time.monotonic()
        self.run = run

    def stop(self, run: SlotProgress) -> None:
        """Stop that generation if it is still running; from the event loop."""
        if self.run is run:
            self.llama.stop()

    def submit(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Run `work` in the slot's thread."""
        return asyncio.get_running_loop().run_in_executor(self.thread, work)

    @contextlib.contextmanager
    def generating(self) -> Iterator[None]:
        """Around one generation, in the slot's thread; afterwards the slot knows what the cache kept."""
        try:
            yield
        except Aborted:
            self._drop_unfinished()
            raise
        finally:
            if self.run is not None:
                self.run.ended = self.last_used = time.monotonic()
            self.memory = self._remember()

    def _prompt(self, tokens: Sequence[int]) -> None:
        if self.run is not None:
            self.run.n_prompt = len(tokens)
            self.run.n_cached = min(self.memory.reusable(np.asarray(tokens, dtype=np.int32)), len(tokens) - 1)

    def _token(self, token: int) -> None:
        if self.run is not None:
            self.run.first_token = self.run.first_token or time.monotonic()
            # an end is no token of the answer, as llama-cpp-python counts
            self.run.n_generated += not self.llama.is_end(token)

    def _look(self) -> None:
        run, now = self.run, time.monotonic()
        if run is not None and now > self._looked + _LOOK_EVERY_S:
            self._looked = now
            run.n_decoded = self.llama.n_tokens
            run.kv_bytes = self.llama.kv_bytes()

    def _drop_unfinished(self) -> None:
        """A prompt that was stopped midway has no use, and the rows that wait for it take memory: give them back."""
        if self.run is not None and self.run.first_token is not None:
            return
        self.llama.go()
        try:
            self.llama.kv_clear()
        except (CompressKVError, RuntimeError, Aborted) as error:
            _log.warning("slot %d keeps the memory of a stopped prompt: %s", self.index, error)

    def _remember(self) -> Memory:
        llama, stats = self.llama, self.llama.kv_stats()
        tokens = llama.input_ids[: llama.n_tokens].astype(np.int32)
        return Memory(tokens, llama.kv_counts(), max(len(llama.kv_layers), 1), stats.n_frozen, stats)

    def state(self) -> Dict[str, Any]:
        """For /extras/slots: what is going on, without a word of the text."""
        run, stats = self.run, self.memory.stats
        busy = run is not None
        n_seen = run.n_decoded if run else stats.n_tokens_seen
        return {
            "id": self.index,
            "state": run.phase if run else "idle",
            "request_id": run.request_id if run else None,
            "n_prompt": run.n_prompt if run else len(self.memory.tokens),
            "n_decoded": n_seen,
            "n_generated": run.n_generated if run else 0,
            "kv_bytes": (run.kv_bytes or stats.kv_bytes) if run else stats.kv_bytes,
            "kv_bytes_stock": stats.kv_bytes_stock,
            "kv_bytes_full": self.llama.kv_bytes_full(n_seen, stats),
            "busy": busy,
        }

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self.llama.stop()
        self.thread.shutdown(wait=True)
