"""`compresskv rpc-server`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

from pathlib import Path
from typing import Annotated, Optional

import typer

_EXAMPLES = (
    "Example: `compresskv rpc-server --host 192.168.1.20` on one machine, then on another"
    " `Llama(path, n_gpu_layers=-1, rpc_servers='192.168.1.20:50052', kv_profile='auto')`."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("rpc-server", epilog=_EXAMPLES)(rpc_server_command)


def rpc_server_command(
    host: Annotated[str, typer.Option(help="Address to listen on; the protocol has no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 50052,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads.", show_default="one a core")] = None,
    cache_dir: Annotated[
        Optional[Path], typer.Option(help="Keep tensors here, so that a model crosses the network once.")
    ] = None,
) -> None:
    """Offer this machine to llama.cpp clients elsewhere (RPC backend). Trusted networks only."""
    from ...engine import rpc

    if cache_dir is not None:
        cache_dir.mkdir(parents=True, exist_ok=True)
    rpc.serve(host, port, n_threads=threads, cache_dir="" if cache_dir is None else str(cache_dir))
