"""RPC servers, on loopback if nothing else is said: processes that end with the test. They compute on the CPU,
whatever else the machine has.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "GGML_VK_VISIBLE_DEVICES": ""}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(host: str = "127.0.0.1", inside: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """(process, port). inside: what runs a command where `host` is."""
    port = free_port()
    command = [*inside, sys.executable, "-m", "compresskv_edge", "rpc-server", "--host", host, "--port", str(port)]
    command += ["--threads", "1"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **NO_GPU}, **silent)
    try:
        for _ in range(600):
            assert process.poll() is None, "the server has stopped"
            with contextlib.suppress(OSError):
                socket.create_connection((host, port)).close()
                break
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.wait()
