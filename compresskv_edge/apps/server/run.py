"""From settings to a process that listens."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import sys
from typing import List

import uvicorn

from ...engine import logs
from ...errors import CompressKVError
from . import allocator
from .app import create_app
from .connection import limited
from .gate import LOOPBACK
from .settings import ModelSettings, ServerSettings

_log = logging.getLogger(__name__)
_SEND_BUFFER_BYTES = 64 << 10


def run(server: ServerSettings, models: List[ModelSettings]) -> None:
    """Load and listen until Ctrl-C. Raises CompressKVError if the model cannot be loaded or the port is taken."""
    allocator.give_memory_back()
    logs.route_llama_cpp()
    if models[0].verbose:
        logs.configure(verbose=2)
    listener = _listener(server)  # before the model: a taken port is known at once
    if sys.stderr.isatty() and not logs.is_quiet():
        print(f"loading {models[0].model_alias}", file=sys.stderr, flush=True)
    try:
        app = create_app(server, models)
    except CompressKVError:
        raise
    except (ValueError, ImportError, OSError) as error:  # of llama-cpp-python, or of the network on the way to a model
        raise CompressKVError(f"cannot load {models[0].model!r}: {error}") from error
    if server.host not in LOOPBACK and server.api_key is None:
        _log.warning("host is %s and there is no api_key: everyone on that network may use this server", server.host)
    gc.collect()
    gc.freeze()  # what lives as long as the process: garbage is looked for among the rest, which is sooner and cheaper
    listener.listen()  # whoever reads the line may connect
    print(f"{models[0].model_alias}: {_url(server, listener)} (Ctrl-C ends)", flush=True)
    config = uvicorn.Config(
        app,
        http=limited(server),
        ws="none",
        server_header=False,
        ssl_keyfile=server.ssl_keyfile,
        ssl_certfile=server.ssl_certfile,
        log_level="info" if models[0].verbose else "warning",
        timeout_graceful_shutdown=5,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it once more when it has ended everything
        uvicorn.Server(config).run(sockets=[listener])


def _listener(server: ServerSettings) -> socket.socket:
    host, port = server.host, server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # connections inherit it: a client that reads nothing is noticed after so much, and not after megabytes
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listener.bind(address)
    except OSError as error:
        raise CompressKVError(f"cannot listen on {host}:{port}: {error.strerror}. Try another --port") from error
    return listener


def _url(server: ServerSettings, listener: socket.socket) -> str:
    scheme = "https" if server.ssl_certfile else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
