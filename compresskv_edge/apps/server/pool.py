"""Which slot serves which request: the idle one that remembers most of its prompt; others wait in line."""

from __future__ import annotations

import asyncio
from typing import Dict, List, Optional

import numpy as np
import numpy.typing as npt

from .errors import overloaded
from .load import SlotLlama, close_slots
from .slot import Slot, SlotProgress

_Tokens = npt.NDArray[np.int32]
_ON_ITS_WAY = SlotProgress("")  # in a slot that was given to a request which has not woken yet


class Pool:
    """The slots of one model."""

    def __init__(self, llamas: List[SlotLlama], max_waiting: int, interrupt: bool = False) -> None:
        self.slots = [Slot(index, llama) for index, llama in enumerate(llamas)]
        self.max_waiting, self.interrupt = max_waiting, interrupt
        self._waiting: Dict[asyncio.Future[Slot], None] = {}  # in line, the first first; who leaves is taken out

    @property
    def llama(self) -> SlotLlama:
        """For what needs the vocabulary and the chat template only, which all slots share."""
        return self.slots[0].llama

    @property
    def n_waiting(self) -> int:
        """Requests in line."""
        return sum(not future.done() for future in self._waiting)

    def check_room(self) -> None:
        """Raise ApiError 503 if the line is full."""
        if self.n_waiting >= self.max_waiting and not self._idle():
            raise overloaded(f"all slots are busy and {self.n_waiting} requests wait already")

    async def acquire(self, tokens: _Tokens, run: SlotProgress) -> Slot:
        """A slot for a prompt; the caller gives it back with `release`. ApiError 503 if the line is full."""
        slot = self._best(tokens)
        if slot is None:
            self.check_room()
            slot = await self._wait()
        slot.begin(run)
        return slot

    async def _wait(self) -> Slot:
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        if self.interrupt:
            self._interrupt_oldest()
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self.release(future.result())  # it was handed over in the same tick
            raise
        finally:
            self._waiting.pop(future, None)

    def release(self, slot: Slot) -> None:
        """The slot is free: it goes to the first in line who is still there."""
        slot.run = None
        for future in self._waiting:
            if not future.done():
                slot.run = _ON_ITS_WAY
                future.set_result(slot)
                return

    def slot_of(self, llama: SlotLlama) -> Slot:
        """Whose context this is."""
        return next(slot for slot in self.slots if slot.llama is llama)

    def remembering(self, tokens: _Tokens) -> Optional[Slot]:
        """The slot that holds most of a conversation, busy or not; None if none holds it."""
        slot = max(self.slots, key=lambda slot: slot.memory.reusable(tokens))
        return slot if slot.memory.holds(tokens) else None

    def _idle(self) -> List[Slot]:
        return [slot for slot in self.slots if slot.run is None]

    def _best(self, tokens: _Tokens) -> Optional[Slot]:
        """Of the idle slots the one with most of the prompt; if none has any, the one that was idle longest."""
        return max(self._idle(), key=lambda slot: (slot.memory.reusable(tokens), -slot.last_used), default=None)

    def _interrupt_oldest(self) -> None:
        streams = [s.run for s in self.slots if s.run is not None and s.run.interruptible and not s.run.interrupted]
        if streams:
            oldest = min(streams, key=lambda run: run.started)
            oldest.interrupted = True
            next(slot for slot in self.slots if slot.run is oldest).stop(oldest)

    def close(self) -> None:
        """Stop every generation, then free contexts and weights."""
        for slot in self.slots:
            slot.close()
        close_slots([slot.llama for slot in self.slots])
