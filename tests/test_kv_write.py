"""Keys and values written into the cache: the inverse of reading, for every type, and in one sequence only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List

import llama_cpp
import numpy as np
import pytest
from logits import TYPES, last_logits
from sequences import Context

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError

N, KEPT = 300, 60
NEXT = [65, 66, 67]


def text(seed: int, n: int = N) -> List[int]:
    return np.random.default_rng(seed).integers(32, 127, n).tolist()


@pytest.fixture
def open_model(tiny_gguf: Callable[..., Path]) -> Callable[..., Llama]:
    def make(arch: str = "llama", type_kv: str = "f16") -> Llama:
        path, kv = str(tiny_gguf(arch)), TYPES[type_kv]
        return Llama(
            path, kv_profile=Profile.uniform(path), kv_tail=64, kv_protect=False, n_ctx=1024, n_threads=1,
            n_threads_batch=1, type_k=kv, type_v=kv, verbose=False,
        )  # fmt: skip

    return make


def evictable(llm: Llama) -> List[int]:
    return [il for il, layer in enumerate(llm._compression.layers) if layer.evictable]


def fill(llm: Llama, seed: int = 1) -> None:
    """A prompt, of which each layer keeps other tokens, and some tokens in the tail."""
    llm.reset()
    llm.eval(text(seed))
    window = np.arange(N - 8, N)
    kept: List[Any] = [[] for _ in llm._compression.layers]
    for il in evictable(llm):
        kept[il] = np.append(np.sort(np.random.default_rng(il).choice(N - 8, KEPT, replace=False)), window)
    native.keep(llm.ctx, kept)
    llm.eval(text(seed + 100, 5))


def contents(llm: Llama) -> List[Any]:
    return [native.read_kv(llm.ctx, il, llm._compression.layers[il]) for il in evictable(llm)]


def follow(llm: Llama) -> Any:
    logits = []
    for token in NEXT:
        llm.eval([token])
        logits.append(last_logits(llm))
    return np.stack(logits)


def write(llm: Llama, il: int, rows: Any, k: Any = None, v: Any = None) -> None:
    native.write_kv(llm.ctx, il, llm._compression.layers[il], rows, k, v)


KINDS = [("llama", kv) for kv in TYPES]
KINDS += [("gpt2", "f16"), *((arch, kv) for arch in ("qwen3", "gemma3") for kv in ("f16", "q8_0"))]
ERRORS = [("f32", 0.0), ("f16", 5e-4), ("bf16", 4e-3), ("q8_0", 1e-2), ("q4_0", 0.2)]


@pytest.mark.parametrize(("arch", "type_kv"), KINDS)
def test_what_was_read_changes_no_bit(arch: str, type_kv: str, open_model: Callable[..., Llama]) -> None:
    llm = open_model(arch, type_kv)
    fill(llm)
    want, logits = contents(llm), follow(llm)
    fill(llm)
    for il, (k, v) in zip(evictable(llm), want):
        write(llm, il, np.arange(k.shape[1]), k, v)
    for before, after in zip(want, contents(llm)):
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(follow(llm), logits)


@pytest.mark.parametrize(("arch", "type_kv"), [("llama", "f32"), ("llama", "f16"), ("llama", "bf16"), ("phi3", "f16")])
def test_the_rows_of_another_text_make_it_that_text(arch: str, type_kv: str, open_model: Callable[..., Llama]) -> None:
    llm = open_model(arch, type_kv)
    fill(llm, seed=2)
    other = contents(llm)
    want = follow(llm)
    fill(llm, seed=1)
    for il, (k, v) in zip(evictable(llm), other):
        write(llm, il, np.arange(k.shape[1]), k=k)
        write(llm, il, np.arange(k.shape[1]), v=v)
    np.testing.assert_array_equal(follow(llm), want)


@pytest.mark.parametrize(("type_kv", "error"), ERRORS)
def test_only_the_given_rows_change(type_kv: str, error: float, open_model: Callable[..., Llama]) -> None:
    llm = open_model("llama", type_kv)
    fill(llm)
    before = contents(llm)
    rows = np.array([0, 7, 8, 9, 30, KEPT + 10])  # runs, single ones, one of the tail
    rest = np.setdiff1d(np.arange(KEPT + 13), rows)
    k, v = (np.random.default_rng(0).uniform(-1, 1, a[:, rows].shape).astype(np.float32) for a in before[1])
    write(llm, 1, rows, k, v)
    after = contents(llm)
    for new, found, old in zip((k, v), after[1], before[1]):
        np.testing.assert_allclose(found[:, rows], new, atol=error, rtol=0)
        np.testing.assert_array_equal(found[:, rest], old[:, rest])
    np.testing.assert_array_equal(after[0][0], before[0][0])
    np.testing.assert_array_equal(after[2][1], before[2][1])


@pytest.mark.parametrize("where", ["prefix", "tail", "nothing frozen"])
def test_a_fork_is_not_touched(where: str, open_model: Callable[..., Llama]) -> None:
    llm = open_model()
    context = Context(llm, 3)
    layers = llm._compression.layers
    alone: List[Any] = []
    for write_in in (None, 1, 0):
        llama_cpp.llama_memory_clear(context.memory, True)
        context.read(2, text(9, 40))
        context.read(0, text(1))
        if where != "nothing frozen":
            native.compress(context.ctx, [40] * len(layers), 0)
        llama_cpp.llama_memory_seq_cp(context.memory, 0, 1, -1, -1)
        before = [native.read_kv(context.ctx, 1, layers[1], s) for s in range(3)]
        n = before[0][0].shape[1]
        row = np.array([n - 3 if where == "tail" else 5])
        if write_in is not None:
            native.write_kv(context.ctx, 1, layers[1], row, before[0][0][:, row] + 1, -before[0][1][:, row], write_in)
            for s in range(3):
                k, v = native.read_kv(context.ctx, 1, layers[1], s)
                changed = np.flatnonzero((k != before[s][0]).any(axis=(0, 2)) | (v != before[s][1]).any(axis=(0, 2)))
                assert changed.tolist() == (row.tolist() if s == write_in else [])
            others = [s for s in (0, 1) if s != write_in]
            assert native.positions(context.ctx, 0, 0).tolist() == native.positions(context.ctx, 0, 1).tolist()
        logits = [context.follow(s, NEXT, N if s < 2 else 40) for s in range(3)]
        alone = alone or logits
        np.testing.assert_array_equal(logits[2], alone[2])
        if write_in is not None:
            np.testing.assert_allclose(logits[others[0]], alone[others[0]], rtol=1e-5, atol=1e-4)
            assert np.abs(logits[write_in] - alone[write_in]).max() > 1e-3


def test_errors(open_model: Callable[..., Llama], path: str) -> None:
    llm = open_model("gemma3")
    il = evictable(llm)[0]
    shape = llm._compression.layers[il]
    sliding = next(i for i, layer in enumerate(llm._compression.layers) if not layer.evictable)
    fill(llm)
    before = contents(llm)
    k = np.zeros((shape.n_head_kv, 2, shape.head_dim_k))
    with pytest.raises(EngineError, match=f"layer {il}, row 73: rows must ascend within 0..72"):
        write(llm, il, np.array([5, KEPT + 13]), k)
    with pytest.raises(EngineError, match="row 5: rows must ascend"):
        write(llm, il, np.array([5, 5]), k)
    with pytest.raises(EngineError, match=r"k of 3 rows of layer \d is \(\d, 2, \d+\), not \(\d, 3, \d+\)"):
        write(llm, il, np.arange(3), k)
    with pytest.raises(EngineError, match=f"layer {sliding} does not exist or is not evictable"):
        native.write_kv(llm.ctx, sliding, shape, np.arange(2), k)
    for bad in (np.nan, np.inf, 1e5):
        k[-1, 1, -1] = bad
        with pytest.raises(EngineError, match=f"layer {il}: a value is not finite as f16"):
            write(llm, il, np.arange(2), k)
    write(llm, il, np.arange(0), k[:, :0])
    for one, other in zip(before, contents(llm)):
        np.testing.assert_array_equal(one[0], other[0])
    stock = Llama(path, n_ctx=256, verbose=False)
    with pytest.raises(EngineError, match="no compressed KV cache"):
        native.write_kv(stock.ctx, 0, shape, np.arange(2), k)


@pytest.mark.parametrize("n_guide", [0, 20])
def test_what_a_compression_would_keep(n_guide: int, open_model: Callable[..., Llama]) -> None:
    llm = open_model()
    llm.eval(text(3))
    budgets = [30, 50, 400]
    want = native.choose(llm.ctx, budgets, n_guide)
    assert [len(rows) for rows in want] == [30, 50, N - n_guide]
    assert native.seq_stats(llm.ctx).n_frozen == 0, "nothing changes"
    if n_guide:
        native.compress_guided(llm.ctx, budgets, n_guide)
    else:
        native.compress(llm.ctx, budgets)
    assert [native.positions(llm.ctx, il).tolist() for il in range(3)] == [rows.tolist() for rows in want]
    with pytest.raises(EngineError, match="less than the window"):
        native.choose(llm.ctx, [30, 30, 30], 5)
