"""The models of the server: one is loaded at a time, as in llama-cpp-python's server, with all its slots."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Dict, List, Optional

from .load import load_slots
from .pool import Pool
from .settings import ModelSettings, ServerSettings


class Models:
    """Names, settings, and the pool of the one that is loaded."""

    def __init__(self, models: List[ModelSettings], server: ServerSettings) -> None:
        self.settings: Dict[str, ModelSettings] = {str(model.model_alias): model for model in models}
        self.default = next(iter(self.settings))
        self.current = self.default
        self._server = server
        self.pool = self._load(self.default)

    def _load(self, name: str) -> Pool:
        return Pool(load_slots(self.settings[name]), self._server.max_waiting, self._server.interrupt_requests)

    def open(self) -> None:
        """Once the event loop runs."""
        self._turn = asyncio.Lock()
        self._unused = asyncio.Event()
        self._unused.set()
        self._n_users = 0

    def name_of(self, asked: Optional[str]) -> str:
        """As in llama-cpp-python's server, a name that it does not know means the first model."""
        return asked if asked in self.settings else self.default

    @contextlib.asynccontextmanager
    async def use(self, asked: Optional[str]) -> AsyncIterator[Pool]:
        """The pool of a model, which stays loaded as long as the block. Another model waits until nobody uses this."""
        name = self.name_of(asked)
        async with self._turn:
            if name != self.current:
                await self._unused.wait()
                await asyncio.get_running_loop().run_in_executor(None, self._exchange, name)
            self._n_users += 1
            self._unused.clear()
        try:
            yield self.pool
        finally:
            self._n_users -= 1
            if not self._n_users:
                self._unused.set()

    def _exchange(self, name: str) -> None:
        before = self.current
        self.pool.close()
        try:
            self.pool, self.current = self._load(name), name
        except Exception:
            self.pool, self.current = self._load(before), before
            raise

    def close(self) -> None:
        """Free everything."""
        self.pool.close()
