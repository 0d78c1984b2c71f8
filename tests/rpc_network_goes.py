"""MODEL ENDPOINT WHEN: decode over an RPC server until its network is gone, and print what decoding says then.

WHEN: `idle`, the network goes between two tokens, before a line on stdin; `busy`, while prompts are computed there.
"""

import sys

from compresskv_edge import Llama
from compresskv_edge.errors import EngineError

model, endpoint, when = sys.argv[1:]

llm = Llama(model, rpc_servers=endpoint, n_gpu_layers=-1, kv_profile="demo", n_ctx=8192, n_threads=1, verbose=False)
llm.eval(list(range(20, 60)))
print("decoded", flush=True)
if when == "idle":
    sys.stdin.readline()
try:
    while True:
        llm.reset()
        llm.eval(list(range(20, 300)) * (10 if when == "busy" else 1))
except EngineError:
    print("EngineError")
llm.close()
print("closed")
