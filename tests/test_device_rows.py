"""What the graphs of a compressed cache look like to a GPU: fusions and whole steps of rows, seen on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_ops import Recorder, ffi

from compresskv_edge import Profile
from compresskv_edge.engine import native

PROFILE = Profile.load("demo")
BUDGETS = [24, 40, 32, 56, 48, 28][: PROFILE.model.n_layer]  # a prefix of another length in each layer


class Ordered(Recorder):
    """The nodes of each graph in their order, with the shapes that attention gets."""

    def __init__(self, model: Path, profile: Profile | None, type_k: int) -> None:
        self.nodes: list[tuple[str, dict[str, Any]]] = []
        super().__init__(model, profile, type_k)

    def _seen(self, address: int, ask: bool, data: object) -> bool:
        if ask:
            t = ffi.cast("struct ggml_tensor *", address)
            name = ffi.string(self._lib.ggml_op_name(t.op)).decode()
            shapes = {}
            if name == "FLASH_ATTN_EXT":
                mask = t.src[3]
                shapes = {"k": t.src[1].ne[1], "v": t.src[2].ne[1], "mask": mask.ne[0], "stride": mask.nb[1]}
            self.nodes.append((name, shapes))
        return False


def one_token(model: Path, profile: Profile | None, type_k: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """The nodes of decoding a token after a prompt, compressed if there is a profile."""
    recorder = Ordered(model, profile, type_k)
    for start in range(0, 192, 64):
        recorder.decode(list(range(start, start + 64)))
    if profile is not None:
        native.compress(recorder.ctx, BUDGETS)
    recorder.nodes.clear()
    recorder.decode([1])
    nodes = recorder.nodes
    recorder.close()
    return nodes


def test_a_key_is_rotated_and_written_in_one_kernel_as_in_stock(demo_model: Path) -> None:
    """CUDA and Vulkan fuse RoPE with the writing of its rows if exactly one view is in between."""

    def n_fusible(profile: Profile | None) -> int:
        names = [name for name, _ in one_token(demo_model, profile)]
        return sum(names[i : i + 3] == ["ROPE", "VIEW", "SET_ROWS"] for i in range(len(names)))

    assert n_fusible(PROFILE) == n_fusible(None) == len(BUDGETS)


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_device_rows import PROFILE, one_token
print(json.dumps([shapes for name, shapes in one_token(Path(sys.argv[2]), PROFILE) if shapes]))
"""


@pytest.mark.parametrize("step", [1, 256])
def test_attention_gets_whole_steps_of_rows_where_the_device_wants_them(demo_model: Path, step: int) -> None:
    """ggml-cuda/fattn.cu: rows a multiple of 256 and strides of 16 bytes, or slower kernels."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(demo_model)],
        env={**os.environ, "CKV_ROW_STEP": str(step)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    attention = json.loads(done.stdout.splitlines()[-1])
    tail = 64
    expected = [-(-(budget - 8 + tail) // step) * step for budget in BUDGETS]
    assert [shapes["k"] for shapes in attention] == expected
    for shapes in attention:
        assert shapes["k"] == shapes["v"] == shapes["mask"]
        assert step == 1 or shapes["stride"] % 16 == 0


RESULT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from selftest_case import load
from compresskv_edge import native
llm, tokens = load()
llm.eval(tokens)
llm.compress()
for token in (5, 6, 7):
    llm.eval([token])
logits = np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),))
kept = [llm.kv_kept(layer).tolist() for layer in range(len(llm.kv_stats().n_tokens_kept))]
print(json.dumps([kept, logits.tobytes().hex(), llm.kv_stats().kv_bytes]))
"""


def result(step: int) -> tuple[list[list[int]], str, int]:
    done = subprocess.run(
        [sys.executable, "-c", RESULT, str(Path(__file__).parent)],
        env={**os.environ, "CKV_ROW_STEP": str(step)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept, logits, kv_bytes = json.loads(done.stdout.splitlines()[-1])
    return kept, logits, kv_bytes


def test_filler_rows_are_seen_by_nobody() -> None:
    """Same tokens kept, same logits to the bit; only the allocation is larger."""
    (kept, logits, kv_bytes), (kept_256, logits_256, kv_bytes_256) = result(1), result(256)
    assert kept_256 == kept
    assert logits_256 == logits
    assert kv_bytes_256 > kv_bytes
