"""Which slot a request gets, and who waits; with slots that only remember."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from compresskv_edge.apps.server.errors import ApiError
from compresskv_edge.apps.server.pool import Pool
from compresskv_edge.apps.server.slot import Memory, SlotProgress


class FakeLlama:
    """What Pool and Slot need of one: it can be stopped."""

    def __init__(self, remembered=(), frozen=0):
        self.stopped = False
        self.memory = memory(remembered, frozen)

    def stop(self):
        self.stopped = True

    def go(self):
        self.stopped = False


def memory(tokens, frozen=0):
    held = np.array(tokens, dtype=np.int32)
    return Memory(held, np.ones(len(held), dtype=np.int32), 1, frozen, SimpleNamespace())


@pytest.fixture(autouse=True)
def _slots_remember_what_their_llama_says(monkeypatch):
    monkeypatch.setattr("compresskv_edge.apps.server.slot.Slot._remember", lambda self: self.llama.memory)


def tokens(*values):
    return np.array(values, dtype=np.int32)


def pool(*llamas, **more):
    return Pool(list(llamas), **{"max_waiting": 8, **more})


def run(coroutine):
    return asyncio.run(coroutine)


def test_what_reaches_into_evicted_tokens_is_not_reusable():
    held = memory([1, 2, 3, 4, 5, 6], frozen=4)
    assert held.reusable(tokens(1, 2, 3, 4, 5, 9)) == 5
    assert held.reusable(tokens(1, 2, 3, 9)) == 0


def test_the_slot_that_remembers_most():
    slots = pool(FakeLlama([1, 2]), FakeLlama([1, 2, 3, 4]), FakeLlama())
    assert run(slots.acquire(tokens(1, 2, 3, 9), SlotProgress("a"))).index == 1


def test_a_new_conversation_takes_the_slot_that_was_idle_longest():
    slots = pool(FakeLlama([1]), FakeLlama([2]), FakeLlama([3]))
    for slot, time in zip(slots.slots, (30.0, 10.0, 20.0)):
        slot.last_used = time
    assert run(slots.acquire(tokens(9), SlotProgress("a"))).index == 1


def test_others_wait_in_line():
    async def scene():
        slots = pool(FakeLlama())
        slot = await slots.acquire(tokens(1), SlotProgress("a"))
        order = []

        async def later(name):
            got = await slots.acquire(tokens(1), SlotProgress(name))
            order.append(name)
            slots.release(got)

        waiting = [asyncio.ensure_future(later(name)) for name in "bcd"]
        await asyncio.sleep(0)
        assert slots.n_waiting == 3
        slots.release(slot)
        await asyncio.gather(*waiting)
        assert slots.n_waiting == 0
        assert slot.run is None
        return order

    assert run(scene()) == ["b", "c", "d"]


def test_who_leaves_the_line_is_forgotten():
    async def scene():
        slots = pool(FakeLlama())
        slot = await slots.acquire(tokens(1), SlotProgress("a"))
        leaves = asyncio.ensure_future(slots.acquire(tokens(1), SlotProgress("b")))
        stays = asyncio.ensure_future(slots.acquire(tokens(1), SlotProgress("c")))
        await asyncio.sleep(0)
        leaves.cancel()
        slots.release(slot)  # in the same breath
        got = await stays
        assert got.run.request_id == "c"
        slots.release(got)
        assert slot.run is None

    run(scene())


def test_who_leaves_with_the_slot_in_hand_gives_it_back():
    async def scene():
        slots = pool(FakeLlama())
        slot = await slots.acquire(tokens(1), SlotProgress("a"))
        leaves = asyncio.ensure_future(slots.acquire(tokens(1), SlotProgress("b")))
        await asyncio.sleep(0)
        slots.release(slot)
        leaves.cancel()  # it was handed over, but has not woken
        await asyncio.gather(leaves, return_exceptions=True)
        assert slot.run is None

    run(scene())


@pytest.mark.parametrize("leaves_first", [True, False])
@pytest.mark.parametrize("others", [0, 1])
def test_a_release_and_a_cancellation_in_the_same_tick(leaves_first, others):
    async def scene():
        slots = pool(FakeLlama())
        slot = await slots.acquire(tokens(1), SlotProgress("a"))
        leaves = asyncio.ensure_future(slots.acquire(tokens(1), SlotProgress("b")))
        rest = [asyncio.ensure_future(slots.acquire(tokens(1), SlotProgress("c"))) for _ in range(others)]
        await asyncio.sleep(0)
        for step in (leaves.cancel, lambda: slots.release(slot))[:: 1 if leaves_first else -1]:
            step()
        (ended,) = await asyncio.gather(leaves, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError)  # and no ValueError
        for got in await asyncio.gather(*rest):
            assert got.run.request_id == "c"
            slots.release(got)
        assert slot.run is None
        assert slots.n_waiting == len(slots._waiting) == 0

    run(scene())


def test_a_full_line_is_an_error():
    async def scene():
        slots = pool(FakeLlama(), max_waiting=0)
        await slots.acquire(tokens(1), SlotProgress("a"))
        with pytest.raises(ApiError, match="busy") as refused:
            await slots.acquire(tokens(1), SlotProgress("b"))
        return refused.value

    error = run(scene())
    assert (error.status, error.code) == (503, "overloaded")
    assert error.response().headers["retry-after"] == "5"


def test_a_stream_may_be_interrupted_for_the_next_request():
    async def scene():
        llamas = FakeLlama(), FakeLlama()
        slots = pool(*llamas, interrupt=True)
        whole = await slots.acquire(tokens(1), SlotProgress("whole"))
        stream = await slots.acquire(tokens(1), SlotProgress("stream", interruptible=True))
        waiting = asyncio.ensure_future(slots.acquire(tokens(1), SlotProgress("new")))
        await asyncio.sleep(0)
        assert (whole.llama.stopped, stream.llama.stopped) == (False, True)
        assert stream.run.interrupted
        slots.release(stream)
        assert (await waiting) is stream
        assert not stream.llama.stopped

    run(scene())


def test_a_stop_for_an_earlier_run_does_not_hit_the_next():
    async def scene():
        slots = pool(FakeLlama())
        first = SlotProgress("a")
        slot = await slots.acquire(tokens(1), first)
        slots.release(slot)
        await slots.acquire(tokens(1), SlotProgress("b"))
        slot.stop(first)
        assert not slot.llama.stopped

    run(scene())
