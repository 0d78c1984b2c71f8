"""What every request passes: the gate, its body in whole and within limits, and the count of its answer."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import uuid
from typing import Optional

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, overloaded, unexpected
from .gate import Gate
from .metrics import Metrics
from .settings import ServerSettings

_DRAIN_SECONDS = 2.0  # a refused body is read for so long, so that its client gets to read the answer
_BODIES_AT_ONCE = 4  # as many of the largest size may be in memory
_BODILESS = {"GET", "HEAD", "DELETE"}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")  # goes into logs and headers as it is


class Guard:
    """The outermost part of the app. Every request has an id, which its answer bears as X-Request-Id."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, gate: Gate) -> None:
        self.app, self.settings, self.metrics, self.gate = app, settings, metrics, gate
        self._n_bytes = 0  # of all bodies that are held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            scope.setdefault("state", {})["request_id"] = _request_id(scope)
            answer = _Answer(scope, send, self.metrics, self.gate.methods)
            await self._serve(scope, _Incoming(scope, receive), answer)

    async def _serve(self, scope: Scope, receive: _Incoming, answer: _Answer) -> None:
        body = io.BytesIO()
        try:
            self.gate.check(scope)
            if await self._read(body, scope, receive):
                await self.app(scope, _replay(body.getvalue(), receive), answer)
        except ApiError as refused:  # of this class; those of the routes are answered within
            await receive.drain()
            await refused.response(Connection="close")(scope, receive, answer)
        except Exception as error:
            if answer.started:
                raise
            await unexpected(error, scope["state"]["request_id"]).response()(scope, receive, answer)
        finally:
            self._n_bytes -= body.tell()

    async def _read(self, body: io.BytesIO, scope: Scope, receive: _Incoming) -> bool:
        """Take the body in; False if the client left. `body` is always as long as what was added to `_n_bytes`."""
        limit = 0 if scope["method"] in _BODILESS else self.settings.max_body_bytes
        _check_size(receive.declared, limit)
        try:
            return await asyncio.wait_for(self._pieces(body, limit, receive), self.settings.body_timeout)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self.settings.body_timeout:g} s") from None

    async def _pieces(self, body: io.BytesIO, limit: int, receive: _Incoming) -> bool:
        while receive.more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            piece = message.get("body", b"")
            _check_size(body.tell() + len(piece), limit)
            self._check_room(len(piece))
            self._n_bytes += body.write(piece)
        return True

    def _check_room(self, size: int) -> None:
        if self._n_bytes + size > _BODIES_AT_ONCE * self.settings.max_body_bytes:
            raise overloaded("the bodies of other requests fill the memory that is meant for them")


class _Incoming:
    """`receive` that knows how long the body is said to be, and whether all of it was received."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        length = _header(scope, b"content-length") or b"0"
        self.declared = int(length) if length.isdigit() and len(length) < 20 else 0
        self.more = True
        self._receive, self._waits = receive, _header(scope, b"expect") is not None

    async def __call__(self) -> Message:
        message = await self._receive()
        self.more = message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read on for a while and throw it away, unless the client waits for a word before it sends."""

        async def read() -> None:
            while self.more:
                await self()

        if not self._waits:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(read(), _DRAIN_SECONDS)


class _Answer:
    """`send` that counts the answer and puts the request's id into its head."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics, methods: frozenset[str]) -> None:
        self._scope, self._send, self._metrics, self._methods = scope, send, metrics, methods
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._count(str(message["status"]))
            request_id = self._scope["state"]["request_id"].encode("ascii")
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id)]}
        await self._send(message)

    def _count(self, status: str) -> None:
        # neither the path nor the method asked for: anyone could make up more, and each would stay for ever
        path = getattr(self._scope.get("route"), "path", "other")
        method = self._scope["method"] if self._scope["method"] in self._methods else "other"
        self._metrics.requests.labels(method, path, status).inc()


def _request_id(scope: Scope) -> str:
    """The client's X-Request-Id, or a new one if it is none that a log can bear."""
    given = _header(scope, b"x-request-id") or b""
    return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _header(scope: Scope, wanted: bytes) -> Optional[bytes]:
    return next((value for name, value in scope["headers"] if name == wanted), None)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        remedy = "raise --max_body_bytes" if limit else "this method has none"
        raise ApiError(413, f"the body is larger than {limit} bytes: {remedy}", code="body_too_large")


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes: a disconnect."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
