"""A process that compresses a large prompt: prints how much resident memory and KV cache this returned, in bytes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from compresskv_edge import Llama, Profile
from compresskv_edge.model.random_gguf import TINY_SHAPES, write_random_gguf


def resident_bytes() -> float:
    status = Path("/proc/self/status").read_text()
    return 1024.0 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


shape = dataclasses.replace(TINY_SHAPES["llama"], name="wide", n_head=8, n_head_kv=8, head_dim=128, n_layer=4)
path = write_random_gguf(Path(sys.argv[1]) / "wide.gguf", shape)
llm = Llama(str(path), kv_profile=Profile.uniform(path), kv_budget=256, n_ctx=8192, verbose=False)
llm.eval(np.random.default_rng(0).integers(32, 127, 6000).tolist())
resident, kv_bytes = resident_bytes(), llm.kv_stats().kv_bytes
llm.compress()
print(resident - resident_bytes(), kv_bytes - llm.kv_stats().kv_bytes)
