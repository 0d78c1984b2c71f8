"""Off is stock to the bit, and a compression that keeps every token is stock to the bit (CPU, one thread).

On another device the second holds within float error: its kernels depend on the number of rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict

import devices
import numpy as np
import pytest
from conftest import ISWA_ARCHS, PLAIN_ARCHS
from logits import Case, run

from compresskv_edge import Llama, Profile
from compresskv_edge.runtime.prompt import Prompt

pytestmark = pytest.mark.every_device

ROOT = Path(__file__).parent.parent
LENGTHS = (1, 7, 511, 512, 513, 3000)

# (architecture, tokens of the prompt, micro-batch, type of the KV cache)
CASES = [("llama", n, ubatch, kv) for n in LENGTHS for ubatch in (32, 512) for kv in ("f16", "q8_0")]
CASES += [(arch, 513, 512, "f16") for arch in (*PLAIN_ARCHS, *ISWA_ARCHS) if arch != "llama"]
CASES += [("llama", 513, 512, kv) for kv in ("f32", "bf16", "q4_0")]
CASES += [("demo", 700, 512, kv) for kv in ("f16", "q8_0")]


def stock_library() -> Path:
    """The unpatched library that `make stock` builds."""
    place = Path(os.environ.get("COMPRESSKV_STOCK_LIB", ROOT / "build" / "stock" / "lib"))
    if not place.is_dir():
        pytest.fail(f"no stock library in {place}: run `make stock`")
    return place


@pytest.fixture(scope="session")
def case(tiny_gguf: Callable[..., Path], demo_model: Path) -> Callable[..., Case]:
    def make(arch: str, n_prompt: int, n_ubatch: int, type_kv: str) -> Case:
        path = demo_model if arch == "demo" else tiny_gguf(arch)
        return Case(str(path), n_prompt, n_ubatch, type_kv)

    return make


@pytest.fixture(scope="module")
def stock(
    case: Callable[..., Case], device: devices.Device, tmp_path_factory: pytest.TempPathFactory
) -> Dict[Any, Any]:
    """Logits of the unpatched library for every case, from one process of its own."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "cases.json").write_text(json.dumps([list(case(*c)) for c in CASES]))
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(stock_library())}
    script = str(Path(__file__).parent / "logits.py")
    arguments = [str(folder / "cases.json"), str(folder / "out.npz"), json.dumps(device.options)]
    subprocess.run([sys.executable, script, *arguments], env=environment, check=True)
    with np.load(folder / "out.npz") as results:
        return {c: results[str(i)] for i, c in enumerate(CASES)}


def test_stock_library_is_not_ours() -> None:
    library = next(stock_library().glob("*llama.*"))
    assert b"llama_ckv_attach" not in library.read_bytes()


@pytest.mark.parametrize("key", CASES, ids=str)
def test_off_is_stock(key: Any, case: Callable[..., Case], stock: Dict[Any, Any]) -> None:
    llm = Llama(case(*key).model, **case(*key).options())
    np.testing.assert_array_equal(run(llm, case(*key), follow=stock[key]), stock[key])


@pytest.mark.parametrize("key", CASES, ids=str)
def test_keeping_every_token_is_stock(key: Any, case: Callable[..., Case], stock: Dict[Any, Any]) -> None:
    this = case(*key)
    llm = Llama(this.model, kv_profile=Profile.uniform(this.model), kv_budget=1.0, **this.options())
    devices.assert_same(run(llm, this, after_prompt=Llama.compress, follow=stock[key]), stock[key])

    # the compression did happen: all but the window is frozen, and nothing is missing
    stats = llm.kv_stats()
    assert stats.n_evictions == (this.n_prompt >= 8)
    assert max(stats.n_tokens_kept) == this.n_prompt + this.n_decode
    assert (llm._ctx.kv_cache_seq_rm(-1, this.n_prompt - 9, -1)) == (this.n_prompt < 9)


@pytest.mark.parametrize("key", CASES, ids=str)
def test_a_budget_that_covers_the_prompt_is_stock(key: Any, case: Callable[..., Case], stock: Dict[Any, Any]) -> None:
    this = case(*key)
    llm = Llama(this.model, kv_profile=Profile.uniform(this.model), kv_budget=this.n_prompt + 8, **this.options())
    with llm._reader.generating(Prompt(())):  # as generate() does
        devices.assert_same(run(llm, this, follow=stock[key]), stock[key])
    assert llm.kv_stats().n_evictions == 0
