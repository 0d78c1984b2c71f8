"""How ggml's scheduler divides graphs among devices: a prompt, an eviction, what is decoded after it, two sequences.

    GGML_SCHED_DEBUG=1 python tests/graph_splits.py MODEL OPTIONS

OPTIONS: of Llama, as JSON; with kv_profile the cache is compressed after the prompt. Prints JSON: phase -> graphs ->
splits, each [device, names of its inputs]. The scheduler logs them when that variable is set.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from typing import Any, Dict, List, Tuple

SPLIT = re.compile(r"## SPLIT #(\d+): (\S+) # \d+ inputs(.*)")
INPUT = re.compile(r"\[(\S*).*?\]")

Split = Tuple[str, List[str]]  # device, inputs
Graph = List[Split]


def parse(log: str) -> List[Graph]:
    graphs: List[Graph] = []
    for number, device, inputs in SPLIT.findall(log):
        if number == "0":
            graphs.append([])
        graphs[-1].append((device, INPUT.findall(inputs)))
    return graphs


def main(model: str, options: str) -> Dict[str, List[Graph]]:
    from compresskv_edge.runtime.llama import Llama, llama_cpp, native  # the package chooses the library first

    llm = Llama(model, n_ctx=1024, n_batch=128, n_threads=1, n_threads_batch=1, verbose=False, **json.loads(options))
    lines: List[str] = []
    callback = llama_cpp.llama_log_callback(lambda level, text, data: lines.append(text.decode(errors="replace")))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())

    def graphs_of(call: Any, *args: Any) -> List[Graph]:
        lines.clear()
        call(*args)
        return parse("".join(lines))

    tokens = llm.tokenize(b"The survey confirms the limits of the first experiment. " * 40)[:384]
    res = {"prompt": graphs_of(llm.eval, tokens)}
    if "kv_profile" in json.loads(options):
        res["eviction"] = graphs_of(llm.compress)
    res["token"] = graphs_of(llm.eval, tokens[:1])
    res["batch"] = graphs_of(llm.eval, tokens[:40])

    from sequences import Context  # after the library is chosen

    several = Context(llm, 2, unified=True)
    for seq_id in (0, 1):
        several.read(seq_id, tokens[:100])
        if "kv_profile" in json.loads(options):
            native.compress(several.ctx, [32] * len(llm._compression.layers), seq_id)
    res["sequences"] = graphs_of(several.step, tokens[:2], [100, 100])
    return res


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
