"""MODEL ENDPOINT PID: decode over an RPC server, kill it, and print what decoding and loading say then."""

import contextlib
import os
import signal
import socket
import sys

from compresskv_edge import Llama
from compresskv_edge.errors import EngineError

model, endpoint, pid = sys.argv[1:]


def attempt(function):
    try:
        function()
    except EngineError:
        print("EngineError", flush=True)


llm = Llama(model, rpc_servers=endpoint, n_gpu_layers=-1, kv_profile="demo", n_ctx=512, n_threads=1, verbose=False)
llm.eval(list(range(20, 60)))
print("decoded", flush=True)
os.kill(int(pid), signal.SIGKILL)
attempt(lambda: llm.eval([5]))
attempt(lambda: llm.eval([5]))
llm.close()
print("closed", flush=True)
with contextlib.suppress(OSError):  # until the dying process has left its port
    while True:
        host, port = endpoint.split(":")
        socket.create_connection((host, int(port))).close()
attempt(lambda: Llama(model, rpc_servers=endpoint, n_ctx=512, verbose=False))
Llama(model, n_ctx=512, n_threads=1, verbose=False).eval([5])  # a model of its own asks no server
print("alone")
