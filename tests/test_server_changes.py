"""Changes of model, one interleaving a test: loading waits until the test says so, and nothing is left to luck."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from compresskv_edge.apps.server.errors import ApiError
from compresskv_edge.apps.server.models import Models
from compresskv_edge.apps.server.settings import ModelSettings, ServerSettings


class FakePool:
    """What Models does with one: it closes it."""

    def __init__(self, name):
        self.name, self.closed = name, False

    def close(self):
        self.closed = True


class Loads:
    """Stands in for loading. `gate` is open unless a test closes it; names in `broken` cannot be loaded."""

    def __init__(self):
        self.gate, self.broken, self.pools = threading.Event(), set(), []
        self.gate.set()

    def __call__(self, name):
        assert self.gate.wait(20)
        assert all(pool.closed for pool in self.pools), "two models at once"
        if name in self.broken:
            raise ValueError(f"{name} is broken")
        self.pools.append(FakePool(name))
        return self.pools[-1]


@pytest.fixture
def loads(monkeypatch):
    made = Loads()
    monkeypatch.setattr(Models, "_load", lambda self, name: made(name))
    return made


@pytest.fixture
def models(loads):
    names = [ModelSettings(model=__file__, model_alias=name, kv_profile="none") for name in "abc"]
    return Models(names, ServerSettings(max_waiting=4))


def run(scene):
    return asyncio.run(asyncio.wait_for(scene, 20))


async def ask(models, name, until=None):
    """Use a model; the pool that it was, which must not have been closed meanwhile."""
    async with models.use(name) as pool:
        if until is not None:
            await until.wait()
        assert not pool.closed
        return pool.name


def start(models, name, until=None):
    return asyncio.ensure_future(ask(models, name, until))


async def ticks(n=5):
    for _ in range(n):
        await asyncio.sleep(0)


def test_the_loaded_one_is_used_at_once_and_by_many(models, loads):
    async def scene():
        until = asyncio.Event()
        users = [start(models, "a", until) for _ in range(3)]
        await ticks()
        until.set()
        assert await asyncio.gather(*users) == ["a"] * 3

    run(scene())
    assert len(loads.pools) == 1


def test_another_waits_until_nobody_uses_this(models):
    async def scene():
        until = asyncio.Event()
        user, other = start(models, "a", until), start(models, "b")
        await ticks()
        assert not other.done()
        assert models.pool.name == "a"
        until.set()
        assert await asyncio.gather(user, other) == ["a", "b"]

    run(scene())


def test_the_line_keeps_its_order(models, loads):
    async def scene():
        until = asyncio.Event()
        first = start(models, "a", until)
        later = [start(models, name) for name in "bab"]
        await ticks()
        until.set()
        await asyncio.gather(first, *later)

    run(scene())
    assert [pool.name for pool in loads.pools] == ["a", "b", "a", "b"]


def test_a_client_that_leaves_during_a_change_leaves_a_pool_that_works(models, loads):
    async def scene():
        loads.gate.clear()
        leaves, stays = start(models, "b"), start(models, "b")
        await ticks()
        assert models.pool is None
        leaves.cancel()
        await ticks()
        next_one = start(models, "a")  # finds a change under way, and not a pool that is being closed
        await ticks()
        assert not next_one.done()
        loads.gate.set()
        assert await asyncio.gather(stays, next_one) == ["b", "a"]
        assert leaves.cancelled()

    run(scene())


def test_the_only_client_leaves_during_a_change(models, loads):
    async def scene():
        loads.gate.clear()
        leaves = start(models, "b")
        await ticks()
        leaves.cancel()
        await asyncio.wait({leaves})
        loads.gate.set()
        assert await ask(models, "b") == "b"
        assert models._n_users == 0

    run(scene())
    assert [pool.name for pool in loads.pools] == ["a", "b"]


def right_after(models, method, then):
    """Call `then` in the same tick as, and after, the method `models` has now."""
    original = getattr(models, method)

    def both(*args):
        original(*args)
        then()

    setattr(models, method, both)


def test_who_leaves_in_the_tick_in_which_it_is_let_in_is_no_user(models, loads):
    async def scene():
        loads.gate.clear()
        until = asyncio.Event()
        first, leaves = start(models, "b", until), start(models, "b", until)
        await ticks()
        counts = []
        right_after(models, "_admit", lambda: (counts.append(models._n_users), leaves.cancel()))
        loads.gate.set()
        await asyncio.wait({leaves})
        assert counts[0] == 2  # both were let in by the end of the change, and neither had woken
        assert leaves.cancelled()
        assert models._n_users == 1
        until.set()
        assert await first == "b"
        assert await ask(models, "a") == "a"

    run(scene())


def test_who_leaves_the_head_of_the_line_holds_up_nobody(models):
    async def scene():
        until = asyncio.Event()
        user, leaves, behind = start(models, "a", until), start(models, "b"), start(models, "a")
        await ticks()
        assert not behind.done()
        leaves.cancel()
        await ticks()
        assert await behind == "a"  # without a change: the first user is still there
        until.set()
        await user

    run(scene())


def test_a_model_that_cannot_be_loaded_is_an_error_for_all_who_wait_for_it(models, loads, caplog):
    async def scene():
        loads.broken.add("b")
        failed = await asyncio.gather(ask(models, "b"), ask(models, "b"), return_exceptions=True)
        assert [(error.status, error.code) for error in failed] == [(503, "model_not_loaded")] * 2
        assert "is broken" not in failed[0].message
        assert await ask(models, "a") == "a"  # the next request loads what it asks for

    run(scene())
    assert "is broken" in caplog.text


def test_nothing_is_loaded_for_a_while_and_then_again(models, loads):
    async def scene():
        loads.broken |= {"a", "b"}
        for name in "bab":
            with pytest.raises(ApiError, match="cannot be loaded"):
                await ask(models, name)
        assert models.pool is None
        loads.broken.clear()
        assert await ask(models, "a") == "a"

    run(scene())


def test_who_waits_for_another_model_is_served_after_a_failure(models, loads):
    async def scene():
        loads.broken.add("b")
        failed, fine = start(models, "b"), start(models, "c")
        await asyncio.wait({failed, fine})
        assert isinstance(failed.exception(), ApiError)
        assert fine.result() == "c"

    run(scene())


def test_a_client_leaves_in_the_tick_of_the_failure(models, loads):
    async def scene():
        loads.broken.add("b")
        leaves = start(models, "b")
        right_after(models, "_refuse", leaves.cancel)  # the error is there, and it has not woken
        await asyncio.wait({leaves})
        assert leaves.cancelled()
        assert await ask(models, "a") == "a"
        assert models._n_users == 0

    run(scene())


def test_the_line_has_an_end(models):
    async def scene():
        until = asyncio.Event()
        user = start(models, "a", until)
        waiting = [start(models, "b") for _ in range(5)]
        await ticks()
        with pytest.raises(ApiError, match="5 requests wait") as refused:
            await ask(models, "b")
        assert refused.value.code == "overloaded"
        until.set()
        await asyncio.gather(user, *waiting)

    run(scene())


def test_closing_waits_for_the_change(models, loads):
    async def scene():
        loads.gate.clear()
        leaves = start(models, "b")
        await ticks()
        leaves.cancel()
        closing = asyncio.ensure_future(models.close())
        await ticks()
        assert not closing.done()
        loads.gate.set()
        await closing

    run(scene())
    assert all(pool.closed for pool in loads.pools)
    assert models.pool is None


def test_pages_that_look_meanwhile_find_no_slots(models):
    from compresskv_edge.apps.server import extras
    from compresskv_edge.apps.server.metrics import Metrics

    models.pool = None
    metrics = Metrics()
    metrics.watch(models)
    assert b"compresskv_slot_busy" not in metrics.text()
    request = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(models=models)))
    assert asyncio.run(extras.slots(request)) == {"waiting": 0, "slots": []}
    with pytest.raises(ApiError, match="no model is loaded"):
        asyncio.run(extras.props(request))
