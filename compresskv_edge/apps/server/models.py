"""The models of the server: one is loaded at a time, as in llama-cpp-python's server, with all its slots.

At any moment one of three things holds: a pool is loaded (`pool`), a change is under way (`_changing`; no pool), or
nothing is loaded, because a model could not be: then the next request loads what it asks for. All of it is changed on
the event loop only, between two awaits, by `_admit`, `_leave` and the end of a change; a change belongs to no request,
so that a client who leaves ends none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Dict, List, Optional

from .errors import ApiError, overloaded
from .load import load_slots
from .pool import Pool
from .settings import ModelSettings, ServerSettings

_log = logging.getLogger(__name__)


class Models:
    """Names, settings, and the pool of the one that is loaded."""

    def __init__(self, models: List[ModelSettings], server: ServerSettings) -> None:
        """Load the first model. Raises what `compresskv_edge.Llama` raises."""
        self.settings: Dict[str, ModelSettings] = {str(model.model_alias): model for model in models}
        self.default = next(iter(self.settings))
        self._server = server
        self._line: Dict[asyncio.Future[Pool], str] = {}  # who waits for which model, the first first
        self._changing: Optional[asyncio.Task[None]] = None
        self._n_users = 0
        self.current = self.default
        self.pool: Optional[Pool] = self._load(self.default)

    def _load(self, name: str) -> Pool:
        return Pool(load_slots(self.settings[name]), self._server.max_waiting, self._server.interrupt_requests)

    def name_of(self, asked: Optional[str]) -> str:
        """As in llama-cpp-python's server, a name that it does not know means the first model."""
        return asked if asked in self.settings else self.default

    @contextlib.asynccontextmanager
    async def use(self, asked: Optional[str]) -> AsyncIterator[Pool]:
        """The pool of a model, which stays loaded as long as the block. Another model waits until nobody uses this.

        Raises ApiError 503 if the model cannot be loaded, or if too many wait for it.
        """
        pool = await self._enter(self.name_of(asked))
        try:
            yield pool
        finally:
            self._leave()

    async def _enter(self, name: str) -> Pool:
        if len(self._line) > self._server.max_waiting:
            raise overloaded(f"{len(self._line)} requests wait for a model already")
        future: asyncio.Future[Pool] = asyncio.get_running_loop().create_future()
        self._line[future] = name
        self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            if not self._left_in_time(future):
                self._leave()  # it was let in, in the same tick
            raise
        finally:
            self._line.pop(future, None)
            self._admit()  # who was behind may be the first now

    def _left_in_time(self, future: asyncio.Future[Pool]) -> bool:
        return future.cancelled() or future.exception() is not None

    def _leave(self) -> None:
        self._n_users -= 1
        self._admit()

    def _admit(self) -> None:
        """Let in, in order, whoever wants the loaded model; the first who wants another begins the change."""
        for future, name in list(self._line.items()):
            if future.done():
                continue
            if self._changing is not None:
                return
            if self.pool is not None and name == self.current:
                self._n_users += 1
                future.set_result(self.pool)
            else:
                if not self._n_users:
                    self._changing = asyncio.ensure_future(self._change(name))
                return

    async def _change(self, name: str) -> None:
        before, self.pool, self.current = self.pool, None, name
        try:
            self.pool = await asyncio.get_running_loop().run_in_executor(None, self._exchange, before, name)
        except Exception as error:
            _log.error("the model %r cannot be loaded", name, exc_info=error)
            self._refuse(name)
        finally:
            self._changing = None
            self._admit()

    def _exchange(self, before: Optional[Pool], name: str) -> Pool:
        if before is not None:
            before.close()
        return self._load(name)

    def _refuse(self, name: str) -> None:
        """Whoever waited for this model: nobody tries it again on their behalf."""
        for future, wanted in self._line.items():
            if wanted == name and not future.done():
                future.set_exception(_not_loaded(name))

    async def close(self) -> None:
        """Free everything, after the change that is under way."""
        if self._changing is not None:
            await asyncio.wait({self._changing})
        if self.pool is not None:
            pool, self.pool = self.pool, None
            await asyncio.get_running_loop().run_in_executor(None, pool.close)


def _not_loaded(name: str) -> ApiError:
    return ApiError(
        503, f"the model {name!r} cannot be loaded: the server's log says why", code="model_not_loaded", param="model"
    )
