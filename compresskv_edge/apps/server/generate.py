"""One generation: in a slot's thread, its chunks to the event loop, and an end as soon as nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Union

import numpy as np
import numpy.typing as npt

from .load import Aborted, SlotLlama
from .metrics import Metrics
from .pool import Pool
from .slot import Slot, SlotProgress

# what a request wants done with the slot's Llama: one answer, or the chunks of one
Call = Callable[[SlotLlama], Union[Dict[str, Any], Iterator[Dict[str, Any]]]]


@dataclass(frozen=True)
class Done:
    """The last thing that `generate` yields."""

    run: SlotProgress
    usage: Dict[str, Any]


async def generate(
    pool: Pool, tokens: npt.NDArray[np.int32], call: Call, run: SlotProgress, metrics: Metrics
) -> AsyncIterator[Union[Dict[str, Any], Done]]:
    """Chunks of `call` on the best slot for `tokens`, then Done.

    Leaving early stops the generation. The slot is freed when its thread is done, whether anyone still reads or not,
    so that a slow reader holds none. Raises what `call` raises, Aborted, and ApiError where no slot can be had.
    """
    slot = await pool.acquire(tokens, run)
    loop, chunks = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def send(item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: the server was shut down
            loop.call_soon_threadsafe(chunks.put_nowait, item)

    def freed(_: Any) -> None:
        pool.release(slot)
        metrics.finished(run, slot)

    working = slot.submit(lambda: _work(slot, run, call, send))
    working.add_done_callback(freed)
    try:
        while not isinstance(item := await chunks.get(), (Done, BaseException)):
            yield item
        await asyncio.wait({working})  # who asks again at the end of an answer finds the slot free
    finally:
        slot.stop(run)
    if isinstance(item, BaseException):
        raise item
    yield item


@contextlib.asynccontextmanager
async def closing(chunks: AsyncIterator[Any]) -> AsyncIterator[None]:
    """contextlib.aclosing, which Python 3.9 has not."""
    try:
        yield
    finally:
        await chunks.aclose()  # type: ignore[attr-defined]


def _work(slot: Slot, run: SlotProgress, call: Call, send: Callable[[Any], None]) -> None:
    try:
        with slot.generating():
            answer = call(slot.llama)
            for chunk in [answer] if isinstance(answer, dict) else answer:
                send(chunk)
    except Aborted as stopped:
        send(Done(run, _usage(slot, run)) if run.interrupted else stopped)
    except BaseException as error:
        send(error)
    else:
        send(Done(run, _usage(slot, run)))


def _usage(slot: Slot, run: SlotProgress) -> Dict[str, Any]:
    """OpenAI's usage, and what the cache holds as `kv`."""
    return {
        "prompt_tokens": run.n_prompt,
        "completion_tokens": run.n_generated,
        "total_tokens": run.n_prompt + run.n_generated,
        "prompt_tokens_details": {"cached_tokens": run.n_cached},
        "kv": {"slot": slot.index, **slot.memory.usage(slot.llama)},
    }
