"""JSON bodies as plain data: not nested without end, of text that UTF-8 can write, of numbers that others can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Coroutine, Iterator
from typing import Any, Callable

from fastapi import Request, Response
from fastapi.exceptions import HTTPException
from fastapi.routing import APIRoute

_MAX_DEPTH = 64
_MAX_INTEGER = 2**63 - 1
_TOO_DEEP = f"is nested more than {_MAX_DEPTH} levels deep"


class _NotPlain(ValueError):
    """What a client may read."""


class PlainRoute(APIRoute):
    """A route whose JSON was read by `parse`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with a request that reads JSON so."""
        handler = super().get_route_handler()

        async def plain(request: Request) -> Response:
            return await handler(_PlainRequest(request.scope, request.receive))

        return plain


class _PlainRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


def parse(body: bytes) -> Any:
    """Raises HTTPException 400, the one exception that FastAPI hands on from here."""
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_number)
        _check(data)
    except _NotPlain as error:
        raise HTTPException(400, f"the body {error}") from error
    except RecursionError as error:
        raise HTTPException(400, f"the body {_TOO_DEEP}") from error
    except ValueError as error:  # of json, of a text that is no UTF-8, of int() with thousands of digits
        raise HTTPException(400, "the body is not valid JSON") from error
    return data


def _check(data: Any) -> None:
    level = [data]
    for _ in range(_MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise _NotPlain(_TOO_DEEP)


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, str):
        value.encode("utf-8")  # half of a surrogate pair is no character
    elif isinstance(value, float) and not math.isfinite(value):
        _no_number(str(value))
    elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise _NotPlain("holds an integer of more than 64 bits")


def _no_number(constant: str) -> None:
    raise _NotPlain(f"holds {constant}, which is no number in JSON")
