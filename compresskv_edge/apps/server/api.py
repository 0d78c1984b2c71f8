"""OpenAI's routes: /v1/chat/completions, /v1/completions, /v1/models."""

# no `from __future__ import annotations`: FastAPI evaluates them

import contextlib
import json
import math
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import anyio
import numpy as np
from anyio.streams.memory import MemoryObjectSendStream
from fastapi import APIRouter, Request, Response
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from . import prepare
from .errors import ApiError, unexpected
from .generate import Done, closing, generate
from .leaving import while_there
from .load import Aborted, SlotLlama
from .models import Models
from .plain import PlainRoute
from .requests import ChatRequest, CompletionRequest, EmbeddingRequest
from .several import several
from .slot import SlotProgress

_json = partial(json.dumps, default=float)  # log-probabilities are NumPy's
_Chunks = contextlib.AbstractAsyncContextManager[AsyncIterator[Any]]
_Prepare = Callable[[SlotLlama, Any, str], List[prepare.Prepared]]


def request_id(request: Request) -> str:
    """The client's X-Request-Id, or a new one."""
    return str(request.state.request_id)


router = APIRouter(route_class=PlainRoute)


@router.post("/v1/chat/completions", summary="Chat", tags=["OpenAI V1"])
async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """One answer, or a stream of chunks. `usage` has OpenAI's fields and `kv`, the state of the slot's cache."""
    return await _answer(request, body, prepare.chat)


@router.post("/v1/completions", summary="Completion", tags=["OpenAI V1"])
async def create_completion(request: Request, body: CompletionRequest) -> Response:
    """Answers to one prompt or several, or a stream of their chunks: `index` says which prompt's choice it is."""
    return await _answer(request, body, prepare.completion)


@router.post("/v1/embeddings", summary="Embedding", tags=["OpenAI V1"])
async def create_embedding(request: Request, body: EmbeddingRequest) -> Response:
    """Vectors of texts, by a model that was loaded with --embedding true."""
    models: Models = request.app.state.models
    async with models.use(body.model) as pool:
        if not pool.llama.context_params.embeddings:
            raise ApiError(400, "this server makes no embeddings: start one with --embedding true", param="model")
    arguments = {"input": body.input, "model": models.name_of(body.model)}
    prepared = prepare.Prepared(np.empty(0, dtype=np.int32), lambda llama: llama.create_embedding(**arguments))
    return await _whole(request, _open(request, body.model, prepared, SlotProgress(request_id(request))))


@router.get("/v1/models", summary="Models", tags=["OpenAI V1"])
async def list_models(request: Request) -> Dict[str, Any]:
    """All that this server can load."""
    return {"object": "list", "data": [_model(name, request) for name in request.app.state.models.settings]}


@router.get("/v1/models/{name:path}", summary="Model", tags=["OpenAI V1"])
async def retrieve_model(request: Request, name: str) -> Dict[str, Any]:
    """One of them."""
    if name not in request.app.state.models.settings:
        raise ApiError(404, f"the model {name!r} does not exist", code="model_not_found", param="model")
    return _model(name, request)


def _model(name: str, request: Request) -> Dict[str, Any]:
    return {"id": name, "object": "model", "created": request.app.state.started, "owned_by": "me", "permissions": []}


async def _answer(request: Request, body: Any, prepared_by: _Prepare) -> Response:
    models: Models = request.app.state.models
    async with models.use(body.model) as pool:
        prepared = await run_in_threadpool(prepared_by, pool.llama, body, models.name_of(body.model))
        pool.check_room()
    opened = _open_all(request, body.model, prepared, is_stream=body.stream)
    if body.stream:
        return _stream(request, opened, body.include_usage)
    return await _whole(request, opened)


@contextlib.asynccontextmanager
async def _open(
    request: Request, model: Optional[str], prepared: prepare.Prepared, run: SlotProgress
) -> AsyncIterator[AsyncIterator[Any]]:
    """Chunks of an answer. Nothing is held before this is entered: a client may leave earlier."""
    async with request.app.state.models.use(model) as pool:
        chunks = generate(pool, prepared.tokens, prepared.call, run, request.app.state.metrics)
        async with closing(chunks):
            yield chunks


@contextlib.asynccontextmanager
async def _open_all(
    request: Request, model: Optional[str], prepared: List[prepare.Prepared], *, is_stream: bool
) -> AsyncIterator[AsyncIterator[Any]]:
    """Chunks of one answer, or of several that are made one after the other."""

    def opened(each: prepare.Prepared) -> _Chunks:
        return _open(request, model, each, SlotProgress(request_id(request), interruptible=is_stream))

    if len(prepared) == 1:
        async with opened(prepared[0]) as chunks:
            yield chunks
        return
    merged = several(map(opened, prepared), is_stream=is_stream)
    async with closing(merged):
        yield merged


async def _whole(request: Request, opened: _Chunks) -> Response:
    """The answer in one piece, unless the client leaves before."""
    try:
        answer, done = await while_there(request, _collect(opened))
    except Aborted:
        raise ApiError(503, "the generation was stopped", code="stopped") from None
    except Exception as error:
        raise unexpected(error, request_id(request)) from error
    return Response(_json({**answer, "usage": {**done.usage, **answer["usage"]}}), media_type="application/json")


async def _collect(opened: _Chunks) -> Tuple[Dict[str, Any], Done]:
    answer: Dict[str, Any] = {}
    async with opened as chunks:
        async for chunk in chunks:
            if isinstance(chunk, Done):
                return answer, chunk
            answer = chunk
    raise Aborted


def _stream(request: Request, opened: _Chunks, include_usage: bool) -> Response:
    # as large as it gets: a slow reader must not hold up the slot, and the slot's n_ctx bounds it
    send, receive = anyio.create_memory_object_stream[Any](math.inf)
    return EventSourceResponse(
        receive,
        data_sender_callable=partial(_publish, send, opened, include_usage, request_id(request)),
        ping_message_factory=(lambda: b"") if request.app.state.settings.disable_ping_events else None,  # type: ignore[arg-type, return-value]
        sep="\n",
    )


async def _publish(send: "MemoryObjectSendStream[Any]", opened: _Chunks, include_usage: bool, request_id: str) -> None:
    last: Dict[str, Any] = {}
    async with send:
        try:
            async with opened as chunks:
                async for chunk in chunks:
                    if not isinstance(chunk, Done):
                        last = chunk
                    elif include_usage:
                        chunk = {**last, "choices": [], "usage": chunk.usage}
                    else:
                        continue
                    send.send_nowait({"data": _json(chunk)})
            send.send_nowait({"data": "[DONE]"})
        except Aborted:
            send.send_nowait({"data": _json(ApiError(503, "the generation was stopped", code="stopped").body())})
        except Exception as error:
            send.send_nowait({"data": _json(unexpected(error, request_id).body())})
