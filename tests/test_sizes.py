"""Memory computed from a header is what llama.cpp allocates."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import ISWA_ARCHS, PLAIN_ARCHS

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import logs
from compresskv_edge.errors import UnsupportedModelError
from compresskv_edge.model.random_gguf import n_parameters
from compresskv_edge.model.shapes import USUAL
from compresskv_edge.model.sizes import ModelSizes, pad

GGML_TYPE = {"f16": 1, "q4_0": 2, "q8_0": 8}

# as their makers publish them, in millions
PUBLISHED = {
    "gemma-2-2b": 2614, "gemma-3-1b": 1000, "gemma-3-4b": 3880, "llama-3.1-8b": 8030, "llama-3.2-1b": 1236,
    "llama-3.2-3b": 3213, "mistral-7b-v0.3": 7248, "phi-3.5-mini": 3821, "qwen2.5-0.5b": 494, "qwen2.5-1.5b": 1544,
    "qwen2.5-14b": 14770, "qwen2.5-3b": 3086, "qwen2.5-7b": 7616, "qwen3-0.6b": 596, "qwen3-1.7b": 1721,
    "qwen3-4b": 4022, "qwen3-8b": 8191, "smollm2-1.7b": 1711,
}  # fmt: skip


def test_usual_shapes_have_the_published_number_of_parameters() -> None:
    assert sorted(USUAL) == sorted(PUBLISHED)
    for name, millions in PUBLISHED.items():
        assert n_parameters(USUAL[name]) == pytest.approx(millions * 1e6, rel=0.004), name


def test_weights_of_a_usual_shape() -> None:
    # tools/quantize/README.md of llama.cpp: 4.58 GiB
    assert ModelSizes.from_shape(USUAL["llama-3.1-8b"]).weights_bytes / 2**30 == pytest.approx(4.58, abs=0.01)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("arch", [*PLAIN_ARCHS, *ISWA_ARCHS])
def test_kv_bytes_are_what_stock_allocates(arch: str, kind: str, tiny_gguf: Any, buffers: Any) -> None:
    path, n_ctx = str(tiny_gguf(arch)), 4000
    sizes = ModelSizes.from_gguf(path)
    llm = _load(path, n_ctx, type_k=GGML_TYPE[kind], type_v=GGML_TYPE[kind], swa_full=False)
    llm.close()
    assert sum(buffers("KV buffer")) == pytest.approx(sizes.kv_bytes(pad(n_ctx), kind, kind), abs=2 * 5243)  # 0.01 MiB


def test_kv_bytes_are_what_a_compressed_cache_holds(tiny_gguf: Any, text: str) -> None:
    path = str(tiny_gguf("llama"))
    llm = _load(path, 4096, kv_profile=Profile.uniform(path), kv_budget=200, kv_prefill="guided")
    llm.eval(llm.tokenize(text.encode())[:3000])
    llm.compress()
    stats = llm.kv_stats()
    sizes = ModelSizes.from_gguf(path)
    assert stats.kv_bytes == pytest.approx(sizes.kv_bytes(200 + 512), rel=0.02)
    assert stats.window_bytes == sizes.window_bytes()
    llm.close()


@pytest.mark.parametrize("n_ctx", [512, 8192, 65536])
@pytest.mark.parametrize("model", ["llama", "gemma3", "demo"])
def test_the_estimate_of_the_compute_buffer(
    model: str, n_ctx: int, tiny_gguf: Any, demo_model: Any, buffers: Any
) -> None:
    path = str(demo_model if model == "demo" else tiny_gguf(model))
    _load(path, n_ctx, swa_full=False).close()
    estimate = ModelSizes.from_gguf(path).compute_bytes(n_ctx)
    assert max(buffers("compute buffer")) == pytest.approx(estimate, rel=0.1, abs=4 << 20)


@pytest.mark.parametrize("arch", ["mamba", "jamba", "deepseek2", "bert"])
def test_caches_of_another_kind_are_refused(arch: str, tiny_gguf: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"recurrent|attention|encoder"):
        ModelSizes.from_gguf(tiny_gguf(arch))


def _load(path: str, n_ctx: int, **more: Any) -> Llama:
    return Llama(path, n_ctx=n_ctx, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False, **more)


@pytest.fixture
def buffers(caplog: pytest.LogCaptureFixture) -> Any:
    """`buffers("KV buffer")`: sizes in bytes of the buffers that llama.cpp's log names so."""
    logs.route_llama_cpp()
    caplog.set_level("DEBUG", logger="llama.cpp")

    def find(name: str) -> list[float]:
        return [float(size) * 2**20 for size in re.findall(rf"{name} size = +([\d.]+) MiB", caplog.text)]

    return find
