"""The application: settings in, an ASGI app out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import List, Set
from weakref import WeakValueDictionary

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from ... import __version__
from . import api, documents, errors, extras, page, sessions
from .gate import Gate
from .metrics import Metrics
from .middleware import Guard
from .models import Models
from .settings import ModelSettings, ServerSettings

_THREADS = 4
_ROUTERS = (api.router, extras.router, documents.router, sessions.router)


def create_app(server: ServerSettings, models: List[ModelSettings]) -> FastAPI:
    """Load the first model and build the app.

    Raises what `compresskv_edge.Llama` raises for the model.
    """
    app = FastAPI(
        title="compresskv-edge",
        version=__version__,
        root_path=server.root_path,
        lifespan=_lifespan,
        docs_url=None,  # these two load scripts from elsewhere; /openapi.json is what they show
        redoc_url=None,
    )
    app.state.settings, app.state.started = server, int(time.time())
    app.state.models, app.state.metrics = Models(models, server), Metrics()
    app.state.session_turns = WeakValueDictionary()
    app.state.metrics.watch(app.state.models)
    errors.install(app)
    for router in _ROUTERS:
        app.include_router(router)
    if server.page:
        page.install(app)
    _guard(app, server)
    return app


def _guard(app: FastAPI, server: ServerSettings) -> None:
    routes = [*app.routes, *(route for router in _ROUTERS for route in router.routes)]
    gate = Gate(server, _methods(routes))
    app.add_middleware(Guard, settings=server, metrics=app.state.metrics, gate=gate)
    if server.cors_origins:  # around the guard, so that pages may read its refusals too
        shown = ["X-Request-Id"]
        app.add_middleware(
            CORSMiddleware, allow_origins=server.cors_origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=shown,
        )  # fmt: skip


def _methods(routes: Iterable[BaseRoute]) -> Set[str]:
    """All that any of them knows."""
    return {method for route in routes for method in getattr(route, "methods", None) or {"GET", "HEAD"}}


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pdf_turn = asyncio.Semaphore(documents.AT_ONCE)
    # templates and tokenizers run there, one after the other in Python anyway: more threads are more memory, not speed
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    try:
        yield
    finally:
        await app.state.models.close()
