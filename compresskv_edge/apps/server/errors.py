"""Errors as OpenAI's API words them: {"error": {"message", "type", "param", "code"}} and the status that fits."""

from __future__ import annotations

import logging
from typing import Any, Dict, Optional

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

_log = logging.getLogger(__name__)
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is answered with this status and message."""

    def __init__(
        self, status: int, message: str, *, code: Optional[str] = None, param: Optional[str] = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> Dict[str, Any]:
        """What the client gets."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, **headers: str) -> JSONResponse:
        """That, with the status."""
        return JSONResponse(self.body(), self.status, {**self.headers, **headers} or None)


def overloaded(what: str) -> ApiError:
    """Too many at once: the client may try again."""
    return ApiError(503, f"{what}: try again", code="overloaded", Retry_After="5")


def context_length_exceeded(n_prompt: int, n_ctx: int) -> ApiError:
    """OpenAI's wording of a prompt that does not fit."""
    return ApiError(
        400,
        f"This model's maximum context length is {n_ctx} tokens. However, your prompt has {n_prompt} tokens. "
        "Please shorten it, or start the server with a larger --n_ctx.",
        code="context_length_exceeded",
        param="messages",
    )


def cannot(what: str, error: Exception, param: Optional[str] = None) -> ApiError:
    """A request that llama-cpp-python or the model's template refuses: 400.

    A plain ValueError is their sentence for clients (`raise_exception` of a template). Any other text was not written
    for clients, and goes into the log.
    """
    if type(error) is ValueError:
        return ApiError(400, f"{what}: {error}", param=param)
    _log.info("%s", what, exc_info=error)
    return ApiError(400, what, param=param)


def unexpected(error: Exception, request_id: str) -> ApiError:
    """What nobody foresaw. Its text may tell paths and more, so it goes into the log; the client gets the id there."""
    if isinstance(error, ApiError):
        return error
    _log.error("request %s failed", request_id, exc_info=error)
    return ApiError(500, f"the server failed at this: its log says why, under the id {request_id}", code="failed")


def install(app: FastAPI) -> None:
    """Let every error of a route leave in this form; what nobody foresaw is left to Guard."""

    async def refused(_: Request, error: Any) -> JSONResponse:
        return error.response()  # type: ignore[no-any-return]

    async def invalid(_: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part != "body"]
        json_broken = first["type"] == "json_invalid"
        message = "the body is not valid JSON" if json_broken else f"{'.'.join(place) or 'the body'}: {first['msg']}"
        return ApiError(400, message, param=None if json_broken else ".".join(place) or None).response()

    async def http(_: Request, error: Any) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail), **(error.headers or {})).response()

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
