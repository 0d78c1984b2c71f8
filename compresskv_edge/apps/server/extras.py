"""Routes beyond OpenAI's: what the slots do, what their caches kept, tokens, text of documents, health and metrics."""

# no `from __future__ import annotations`: FastAPI evaluates them

from typing import Any, Dict, List, Optional

from fastapi import APIRouter, Request, Response
from llama_cpp.server.types import DetokenizeInputRequest, TokenizeInputRequest
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from ... import __version__
from ...errors import TokenError
from . import kept, prepare
from .errors import ApiError
from .models import Models
from .plain import PlainRoute
from .pool import Pool

_NO_SLOTS: Dict[str, Any] = {"waiting": 0, "slots": []}

router = APIRouter(tags=["Extras"], route_class=PlainRoute)


class KeptRequest(BaseModel):
    """Messages as /v1/chat/completions takes them."""

    model: Optional[str] = None
    messages: List[Dict[str, Any]] = Field(min_length=1)


@router.get("/health")
async def health() -> Dict[str, str]:
    """For whoever watches over the process."""
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Numbers for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/extras/props")
async def props(request: Request) -> Dict[str, Any]:
    """What is loaded, and how."""
    models: Models = request.app.state.models
    if models.pool is None:
        raise ApiError(503, "no model is loaded at the moment", code="model_not_loaded")
    llama, settings = models.pool.llama, models.settings[models.current]
    kv = llama.kv_settings
    return {
        "model": models.current,
        "n_ctx": llama.n_ctx(),
        "n_slots": len(models.pool.slots),
        "kv_profile": kv.profile.model.name or settings.kv_profile if kv else None,
        "kv_budget": kv.budget if kv else None,
        "chat_template": "tokenizer.chat_template" in llama.metadata or settings.chat_format is not None,
        "version": __version__,
    }


@router.get("/extras/slots")
async def slots(request: Request) -> Dict[str, Any]:
    """What each slot does at the moment, and its cache, without a word of the text."""
    pool: Optional[Pool] = request.app.state.models.pool  # None between two models
    return {"waiting": pool.n_waiting, "slots": [slot.state() for slot in pool.slots]} if pool else _NO_SLOTS


@router.post("/extras/kv/kept")
async def kv_kept(request: Request, body: KeptRequest) -> Dict[str, Any]:
    """Of a conversation, as far as a slot remembers it: pieces of text and how many layers keep each."""
    async with request.app.state.models.use(body.model) as pool:
        tokens = await run_in_threadpool(prepare.chat_tokens, pool.llama, body.messages)
        return await run_in_threadpool(kept.report, pool, tokens)


@router.post("/extras/tokenize")
async def tokenize(request: Request, body: TokenizeInputRequest) -> Dict[str, Any]:
    """Tokens of a text."""
    async with request.app.state.models.use(body.model) as pool:
        return {"tokens": await run_in_threadpool(pool.llama.tokenize, body.input.encode("utf-8"), special=True)}


@router.post("/extras/tokenize/count")
async def count_tokens(request: Request, body: TokenizeInputRequest) -> Dict[str, Any]:
    """How many tokens a text has."""
    async with request.app.state.models.use(body.model) as pool:
        return {"count": len(await run_in_threadpool(pool.llama.tokenize, body.input.encode("utf-8"), special=True))}


@router.post("/extras/detokenize")
async def detokenize(request: Request, body: DetokenizeInputRequest) -> Dict[str, Any]:
    """Text of tokens."""
    async with request.app.state.models.use(body.model) as pool:
        try:
            text = await run_in_threadpool(pool.llama.detokenize, body.tokens)
        except TokenError as error:
            raise ApiError(400, str(error), param="tokens") from error
        return {"text": text.decode("utf-8", errors="replace")}
