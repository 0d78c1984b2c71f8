"""A connection with limits that uvicorn has none of: how many there are, how slowly heads come and answers are read."""

from __future__ import annotations

import asyncio
from typing import Any, Callable, Optional, Type

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import overloaded
from .settings import ServerSettings

_HEAD_SECONDS = 20.0


class _Alarm:
    """Calls once, so many seconds after the first `on`, unless it is switched `off` before."""

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self._seconds, self._call = seconds, call
        self._timer: Optional[asyncio.TimerHandle] = None

    def on(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._call)

    def off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Connection(H11Protocol):
    """One client. One too many gets 503; one that is too slow, in sending heads or in reading answers, is dropped."""

    max_connections: int
    head_seconds: float
    send_seconds: float

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head = _Alarm(self.head_seconds, transport.abort)
        self._unread = _Alarm(self.send_seconds, transport.abort)
        if len(self.connections) > self.max_connections:
            self.app = _one_too_many
        self._head.on()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.on()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.off()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        super().connection_lost(exc)
        self._head.off()
        self._unread.off()

    def _watch(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self._head.on()
        else:
            self._head.off()
        if self.transport.is_closing():  # it waits for the client to read the rest
            self._unread.on()


def limited(settings: ServerSettings) -> Type[Connection]:
    """For uvicorn: the class with the limits of `settings`."""
    limits = {
        "max_connections": settings.max_connections,
        "head_seconds": min(_HEAD_SECONDS, settings.body_timeout),
        "send_seconds": settings.send_timeout,
    }
    return type("LimitedConnection", (Connection,), limits)


async def _one_too_many(scope: Scope, receive: Receive, send: Send) -> None:
    await overloaded("too many connections").response(Connection="close")(scope, receive, send)
