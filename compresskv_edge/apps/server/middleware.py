"""What every request passes: who asks, how much it sends, how long it takes for that; and the count of answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any, Dict, List, Optional, Set

from sse_starlette.sse import SendTimeoutError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .metrics import Metrics
from .settings import ServerSettings

_log = logging.getLogger(__name__)
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_DRAIN_SECONDS = 2.0  # a refused body is read for so long, so that its client gets to read the answer


def allowed_hosts(settings: ServerSettings) -> Optional[Set[str]]:
    """Host names that requests may ask for, None: any.

    A page of another site whose name was pointed at 127.0.0.1 would otherwise be let in by the browser.
    """
    if settings.allowed_hosts:
        return None if "*" in settings.allowed_hosts else {name.lower() for name in settings.allowed_hosts}
    return LOOPBACK if settings.host in LOOPBACK else None


class Guard:
    """Checks the host, takes the body in whole and within limits, counts the answer."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.hosts = allowed_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        counted = self._counting(scope, send)
        try:
            self._check_host(scope)
            body = await self._body(scope, receive)
        except ApiError as error:
            await error.response()(scope, receive, counted)
        else:
            if body is not None:
                await self._answer(scope, _replay(body, receive), counted)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except SendTimeoutError:
            _log.warning("a client that read nothing for %g s was dropped", self.settings.send_timeout)

    def _check_host(self, scope: Scope) -> None:
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self.hosts is not None and name.lower() not in self.hosts:
            raise ApiError(403, f"this server does not answer to the name {name!r}: start it with --allowed_hosts")

    async def _body(self, scope: Scope, receive: Receive) -> Optional[List[bytes]]:
        """The body in pieces, None if the client left."""
        limit, until = self.settings.max_body_bytes, time.monotonic() + self.settings.body_timeout
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        pieces: List[bytes] = []
        size = int(declared) if declared.isdigit() else 0
        more = True
        while more and size <= limit:
            message = await self._receive(receive, until)
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
            size = max(size, sum(map(len, pieces)))
        if size > limit:
            pieces.clear()
            await _drain(receive)
            raise ApiError(413, f"the body is larger than {limit} bytes: raise --max_body_bytes", code="body_too_large")
        return pieces

    async def _receive(self, receive: Receive, until: float) -> Message:
        try:
            return await asyncio.wait_for(receive(), until - time.monotonic())
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self.settings.body_timeout:g} s") from None

    def _counting(self, scope: Scope, send: Send) -> Send:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")  # not the path asked for: anyone could make up more
                self.metrics.requests.labels(scope["method"], path, str(message["status"])).inc()
            await send(message)

        return counting


async def _drain(receive: Receive) -> None:
    async def read() -> None:
        while (await receive()).get("more_body", False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), _DRAIN_SECONDS)


def _replay(pieces: List[bytes], receive: Receive) -> Receive:
    """The body once more, then whatever comes: a disconnect."""
    messages: List[Dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
        for index, piece in enumerate(pieces)
    ][::-1]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
