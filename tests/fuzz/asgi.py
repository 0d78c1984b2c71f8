"""An ASGI app without a server: one request at a time, in one thread, on an event loop that stands still in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, List, Optional, Tuple
from urllib.parse import unquote

import anyio.to_thread

Headers = List[Tuple[str, bytes]]


async def _run_sync(fn: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """A thread would be another one for each request, which takes milliseconds."""
    await asyncio.sleep(0)
    return fn(*args)


def no_threads() -> None:
    """From now on what goes to a worker thread is done at once."""
    anyio.to_thread.run_sync = _run_sync  # type: ignore[assignment]


class Exchange:
    """One request and its answer. The client leaves after `patience` turns of the event loop, None: it stays."""

    def __init__(self, method: str, path: str, headers: Headers, body: bytes, patience: Optional[int]) -> None:
        named = dict(headers)
        defaults = {"host": b"localhost", "content-length": str(len(body)).encode()}
        plain, _, query = path.partition("?")
        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": unquote(plain), "raw_path": plain.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), value) for name, value in {**defaults, **named}.items()],
            "client": ("127.0.0.1", 1), "server": ("localhost", 80), "state": {},
        }  # fmt: skip
        self.status, self.parts, self.patience = 0, [], patience
        self._left = [{"type": "http.request", "body": body, "more_body": False}]
        self._gone = asyncio.Event()

    async def receive(self) -> Any:
        """The body in one piece; behind it nothing comes until the client leaves."""
        if self._left:
            return self._left.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """A head once, then pieces of the body."""
        if message["type"] == "http.response.start":
            assert not self.status, "two answers"
            self.status = message["status"]
        else:
            assert self.status, "a body without a head"
            self.parts.append(message.get("body", b""))

    async def through(self, app: Any) -> Tuple[int, str]:
        """(status, body). Ends when the app does."""
        leaving = asyncio.ensure_future(self._leave()) if self.patience is not None else None
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            if leaving is not None:
                leaving.cancel()
        return self.status, b"".join(self.parts).decode("utf-8", errors="replace")

    async def _leave(self) -> None:
        for _ in range(self.patience or 0):
            await asyncio.sleep(0)
        self._gone.set()
