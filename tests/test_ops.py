"""Every operation that our graphs add exists on CUDA, Metal and Vulkan, by the tables that upstream generates.

What runs is recorded through the scheduler's evaluation callback: prefill, compressions and decoding with a profile,
less what the same model runs without one.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import cffi
import pytest

from compresskv_edge import Profile
from compresskv_edge.engine import library, native

library.offer()

import llama_cpp  # noqa: E402

OPS = Path(__file__).parent.parent / "vendor" / "llama.cpp" / "docs" / "ops"
BACKENDS = ("CUDA", "Metal", "Vulkan")
FREE = {"NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"}  # nothing is computed

# the head of ggml_tensor, ggml/include/ggml.h; `recorded` checks it against ggml_op_desc and ggml_nelements
ffi = cffi.FFI()
ffi.cdef(
    """
    struct ggml_tensor {
        int32_t type; void * buffer; int64_t ne[4]; size_t nb[4]; int32_t op; int32_t op_params[16]; int32_t flags;
        struct ggml_tensor * src[10];
        ...;
    };
    const char * ggml_op_desc(const struct ggml_tensor * t);
    const char * ggml_op_name(int op);
    const char * ggml_type_name(int type);
    int64_t ggml_nelements(const struct ggml_tensor * t);
""".replace("        ...;\n", "")
)

Op = tuple[str, tuple[str, ...]]  # name, types: result's first, then the sources'


class Recorder:
    """Runs a model through the C API and keeps the operations of everything that its scheduler computes."""

    def __init__(self, model: Path, profile: Profile | None, type_k: int) -> None:
        self.ops: set[Op] = set()
        self._lib = ffi.dlopen(str(llama_cpp.llama_cpp._lib._name))
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(model).encode(), params)
        if profile is not None:
            native.attach(self._model, profile.heads_used(), window=8, kernel=5, pooling="avg", n_tail=64)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_threads = 512, 64, 64, 1
        options.type_k = options.type_v = type_k
        options.flash_attn_type = 1
        self._callback = llama_cpp.ggml_backend_sched_eval_callback(self._seen)
        options.cb_eval = self._callback
        self.ctx = llama_cpp.llama_init_from_model(self._model, options)
        assert self.ctx

    def close(self) -> None:
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self._model)

    def _seen(self, address: int, ask: bool, data: object) -> bool:
        if ask:
            t = ffi.cast("struct ggml_tensor *", address)
            name = ffi.string(self._lib.ggml_op_name(t.op)).decode()
            assert self._lib.ggml_nelements(t) == t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3]
            types = [t.type, *(source.type for source in t.src if source != ffi.NULL)]
            self.ops.add((name, tuple(ffi.string(self._lib.ggml_type_name(each)).decode() for each in types)))
        return False

    def decode(self, tokens: list[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        assert llama_cpp.llama_decode(self.ctx, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0


def run(model: Path, profile: Profile | None, type_k: int) -> set[Op]:
    recorder = Recorder(model, profile, type_k)
    for start in range(0, 192, 64):
        recorder.decode(list(range(start, start + 64)))
    if profile is not None:
        budgets = [24, 40, 32, 56, 48, 28][: profile.model.n_layer]
        native.compress(recorder.ctx, budgets)
        recorder.decode(list(range(20)))
        native.compress(recorder.ctx, budgets)  # in place this time
    recorder.decode([1])
    recorder.decode(list(range(30)))
    recorder.close()
    return recorder.ops


def tables() -> dict[str, list[tuple[str, dict[str, str], bool]]]:
    """backend -> [(operation, parameters, supported)]"""
    res: dict[str, list[tuple[str, dict[str, str], bool]]] = {}
    for backend in BACKENDS:
        with (OPS / f"{backend}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        res[backend] = [(row["op_name"], parameters(row), row["supported"] == "1") for row in rows]
    return res


def parameters(row: dict[str, str]) -> dict[str, str]:
    """type=f32,ne=[1,2] as a dict. Older tables write SET_ROWS's destination as `type`."""
    res = dict(re.findall(r"(\w+)=(\[[^]]*\]|[^,]*)", row["op_params"]))
    return {"type_dst": res["type"], **res} if row["op_name"] == "SET_ROWS" and "type" in res else res


def wanted(op: Op) -> dict[str, str]:
    """The parameters of upstream's test cases that stand for the types (and the kind) of an operation of ours."""
    name, types = op
    if name == "SET_ROWS":  # result, rows, indices
        return {"type_dst": types[0], "type_idx": types[2]}
    if name == "CPY":
        return {"type_src": types[1], "type_dst": types[0]}
    if name == "MUL_MAT":
        return {"type_a": types[1], "type_b": types[2], "bs": "[1,1]", "nr": "[1,1]", "per": "[0,1,2,3]", "k_v": "0"}
    if name == "GET_ROWS":
        return {"type": types[1]}
    if name == "CONCAT":
        return {"type": types[1], "dim": "0"}
    if name == "SUM_ROWS":
        return {"type": types[1], "permute": "0", "slice": "0"}
    if name == "SOFT_MAX":
        return {"type": types[1], "mask": "0", "sinks": "0", "max_bias": "0.000000"}
    return {"type": types[-1]}


@pytest.fixture(scope="module", params=[1, 8, 2], ids=["f16", "q8_0", "q4_0"])
def ours(request: pytest.FixtureRequest, demo_model: Path) -> set[Op]:
    profile = Profile.load("demo")
    added = run(demo_model, profile, request.param) - run(demo_model, None, request.param)
    return {op for op in added if op[0] not in FREE}


def test_our_graphs_are_seen(ours: set[Op]) -> None:
    names = {name for name, _ in ours}
    assert {"GET_ROWS", "SET_ROWS", "SOFT_MAX", "SUM_ROWS", "CONCAT"} <= names, names


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_operation_is_supported(ours: set[Op], backend: str) -> None:
    table = tables()[backend]
    for op in sorted(ours):
        asked = wanted(op)
        cases = [fine for name, params, fine in table if name == op[0] and asked.items() <= params.items()]
        assert cases, f"{backend} has no case like {op}"
        assert all(cases), f"{backend} lacks {op}"
