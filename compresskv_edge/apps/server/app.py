"""The application: settings in, an ASGI app out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import List

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from ... import __version__
from . import api, documents, errors, extras, page, sessions
from .metrics import Metrics
from .middleware import Guard
from .models import Models
from .settings import ModelSettings, ServerSettings

_THREADS = 4


def create_app(server: ServerSettings, models: List[ModelSettings]) -> FastAPI:
    """Load the first model and build the app.

    Raises what `compresskv_edge.Llama` raises for the model.
    """
    app = FastAPI(title="compresskv-edge", version=__version__, root_path=server.root_path, lifespan=_lifespan)
    app.state.settings, app.state.started = server, int(time.time())
    app.state.models, app.state.metrics = Models(models, server), Metrics()
    app.state.metrics.watch(app.state.models)
    errors.install(app)
    if server.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=server.cors_origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Guard, settings=server, metrics=app.state.metrics)  # the outermost
    for router in (api.router, extras.open_router, extras.router, documents.router, sessions.router):
        app.include_router(router)
    if server.page:
        page.install(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # templates and tokenizers run there, one after the other in Python anyway: more threads are more memory, not speed
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    try:
        yield
    finally:
        await app.state.models.close()
