"""Re-based positions: kept keys rotated as upstream's K-shift would, and generation past the trained context."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List

import devices
import llama_cpp
import numpy as np
import pytest
from logits import TYPES
from numpy_llama import NumpyLlama
from sequences import Context

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError, UnsupportedModelError

pytestmark = pytest.mark.every_device

N_PROMPT = 300
PROMPT = np.random.default_rng(1).integers(32, 127, N_PROMPT).tolist()
NEXT = np.random.default_rng(2).integers(32, 127, 12).tolist()
GAP = 8  # positions close in steps of the window


@pytest.fixture
def loaded(tiny_gguf: Callable[..., Path], demo_model: Path) -> Callable[..., Llama]:
    def make(arch: str = "llama", type_kv: str = "f16", **options: Any) -> Llama:
        path = demo_model if arch == "demo" else tiny_gguf(arch)
        kv = TYPES[type_kv]
        compressed = {"kv_profile": Profile.uniform(path), "kv_budget": 100, "kv_tail": 64}
        sizes = {"n_ctx": 1024, "n_batch": 256, "n_threads": 1, "n_threads_batch": 1, "type_k": kv, "type_v": kv}
        options = {**compressed, **sizes, "flash_attn": True, "swa_full": False, "verbose": False, **options}
        return Llama(str(path), **options)

    return make


def keep_same(llm: Any, context: Context, kept: List[int]) -> None:
    evictable = [layer.evictable for layer in llm._compression.layers]
    native.keep(context.ctx, [kept if e else [] for e in evictable])


def shifted_by_stock(llm: Any, kept: List[int], n_next: int) -> Context:
    """An uncompressed cache with the same tokens at the same positions, by upstream's seq_rm and seq_add."""
    context = Context(llm, 1)
    context.read(0, PROMPT)
    new = list(range(len(kept) - GAP)) + list(range(n_next - GAP, n_next))
    for position in sorted(set(range(N_PROMPT)) - set(kept), reverse=True):
        assert llama_cpp.llama_memory_seq_rm(context.memory, 0, position, position + 1)
    for old, target in zip(kept, new):
        llama_cpp.llama_memory_seq_add(context.memory, 0, old, old + 1, target - old)
    return context


CASES = [(arch, "f16") for arch in ("llama", "qwen2", "qwen3", "phi3")]
CASES += [("llama", "f32"), ("demo", "f16"), ("demo", "q8_0"), ("demo", "q4_0")]  # quantised heads of 64 are rotated


@pytest.mark.parametrize(("arch", "type_kv"), CASES)
def test_as_upstream_shifts_an_uncompressed_cache(arch: str, type_kv: str, loaded: Callable[..., Llama]) -> None:
    llm, stock = loaded(arch, type_kv), loaded(arch, type_kv, kv_profile=None, kv_budget=None)
    kept = [*range(5), *range(100, 140), 200, 201, *range(250, 255), *range(N_PROMPT - 8, N_PROMPT)]
    context = Context(llm, 1)
    context.read(0, PROMPT)
    keep_same(llm, context, kept)
    far = context.follow(0, NEXT, N_PROMPT)
    assert llama_cpp.llama_memory_seq_rm(context.memory, 0, N_PROMPT, -1)

    n_next = native.rebase(context.ctx, 1024)

    assert n_next == N_PROMPT - (N_PROMPT - len(kept)) // GAP * GAP
    reference = shifted_by_stock(stock, kept, n_next)
    ours, theirs = context.follow(0, NEXT, n_next), reference.follow(0, NEXT, n_next)
    difference, moved = np.abs(ours - theirs).max(), np.abs(ours - far).max()
    assert difference < (0.15 if arch == "demo" else 0.02) * moved, (difference, moved)
    assert moved > 0.3, "the shift is visible"


def rotated(k: Any, shifts: Any, frequencies: Any) -> Any:
    """Keys (n_head_kv, n, head_dim) of a llama model, adjacent pairs, turned by `shifts` positions (n,)."""
    turned = (k[..., 0::2] + 1j * k[..., 1::2]) * np.exp(1j * shifts[:, None] * frequencies)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(k.shape)


@pytest.mark.parametrize("type_kv", ["f32", "f16", "bf16", "q8_0"])
def test_every_layer_has_its_own_tokens(type_kv: str, loaded: Callable[..., Llama]) -> None:
    llm = loaded("llama", type_kv)
    llm.eval(PROMPT)
    llm.protect([0, 1, 2, 150])
    llm.compress()
    llm.eval(NEXT)
    layers = llm._compression.layers
    old = [llm.kv_kept(il) for il in range(len(layers))]
    before = [native.read_kv(llm.ctx, il, layer) for il, layer in enumerate(layers)]
    queries = [native.read_queries(llm.ctx, il, layer, 8) for il, layer in enumerate(layers)]

    n_next = native.rebase(llm.ctx, 1024)

    held = np.unique(np.concatenate(old))
    assert n_next - len(held) in range(GAP)
    shift = N_PROMPT + len(NEXT) - n_next
    frequencies = NumpyLlama(Path(llm.model_path))._frequencies
    for il, layer in enumerate(layers):
        live = old[il] >= N_PROMPT - 8
        want = np.where(live, old[il] - shift, np.searchsorted(held, old[il]))
        np.testing.assert_array_equal(llm.kv_kept(il), old[il], "tokens are counted from the start")
        k, v = native.read_kv(llm.ctx, il, layer)
        tolerance = {"f32": 1e-4, "f16": 4e-3, "bf16": 3e-2, "q8_0": 3e-2}[type_kv] * np.abs(k).max()
        np.testing.assert_allclose(k, rotated(before[il][0], want - old[il], frequencies), atol=tolerance)
        np.testing.assert_array_equal(v, before[il][1])
        if type_kv == "f32":
            turned = rotated(queries[il], np.full(8, -shift), frequencies)
            np.testing.assert_allclose(native.read_queries(llm.ctx, il, layer, 8), turned, atol=1e-4)
    stats = native.seq_stats(llm.ctx)
    assert (stats.n_tokens_seen, stats.n_rebased) == (N_PROMPT + len(NEXT), shift)
    native.compress(llm.ctx, [20] * len(layers))  # what was protected still is
    assert all({0, 1, 2, 150} <= set(llm.kv_kept(il)) for il in range(len(layers)))


def test_the_second_time_counts_from_the_first(loaded: Callable[..., Llama]) -> None:
    llm = loaded("llama", "f32")
    layer, frequencies = llm._compression.layers[1], NumpyLlama(Path(loaded().model_path))._frequencies
    llm.eval(PROMPT)
    llm.compress()
    held = np.unique(np.concatenate([llm.kv_kept(il) for il in range(3)]))
    n_next = native.rebase(llm.ctx, 1024)
    first = llm.kv_kept(1)
    live = first >= N_PROMPT - 8
    position = dict(zip(first, np.where(live, first - (N_PROMPT - n_next), np.searchsorted(held, first))))
    k, _ = native.read_kv(llm.ctx, 1, layer)
    context = Context.of(llm)
    context.read(0, PROMPT[:200], n_next)
    native.compress(llm.ctx, [100] * 3)

    again = native.rebase(llm.ctx, 1024)

    held = np.unique(np.concatenate([llm.kv_kept(il) for il in range(3)]))
    both = [token for token in llm.kv_kept(1) if token in position]
    assert len(both) > 20
    assert again < n_next + 200
    moved = np.array([np.searchsorted(held, token) - position[token] for token in both])
    assert (moved != 0).any()
    now, _ = native.read_kv(llm.ctx, 1, layer)
    old = k[:, np.isin(first, both)]
    np.testing.assert_allclose(now[:, np.isin(llm.kv_kept(1), both)], rotated(old, moved, frequencies), atol=1e-3)


def test_old_tokens_go_if_the_gaps_are_too_small(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 2)
    context.read(0, PROMPT)
    native.protect(context.ctx, [1, 2])
    keep_same(llm, context, [*range(0, 280), *range(N_PROMPT - 8, N_PROMPT)])
    llama_cpp.llama_memory_seq_cp(context.memory, 0, 1, -1, -1)
    fork = [native.positions(context.ctx, il, 1).tolist() for il in range(3)]
    first = context.follow(1, NEXT, N_PROMPT)
    assert llama_cpp.llama_memory_seq_rm(context.memory, 1, N_PROMPT, -1)

    n_next = native.rebase(context.ctx, 120)

    assert 110 < n_next <= 120
    assert native.positions(context.ctx, 0).tolist()[:2] == [1, 2], "they are protected"
    assert native.positions(context.ctx, 0)[2] > 150
    assert len(native.positions(context.ctx, 0)) in range(105, 121)
    assert [native.positions(context.ctx, il, 1).tolist() for il in range(3)] == fork, "the fork is as it was"
    devices.assert_same(context.follow(1, NEXT, N_PROMPT), first, atol=2e-3)
    context.follow(0, NEXT, n_next)
    with pytest.raises(EngineError, match=r"n_max is 15.*take"):
        native.rebase(context.ctx, 15)


def test_sliding_windows_move_with_the_rest(loaded: Callable[..., Llama]) -> None:
    llm = loaded("gemma3")
    llm.eval(PROMPT)
    llm.compress()
    full = [il for il, layer in enumerate(llm._compression.layers) if layer.evictable]
    window = [il for il in range(len(llm._compression.layers)) if il not in full]
    before = [llm.kv_kept(il) for il in window]
    n_next = native.rebase(llm.ctx, 1024)
    shift = N_PROMPT - n_next
    assert shift > 0
    for old, il in zip(before, window):
        np.testing.assert_array_equal(llm.kv_kept(il), old[old >= shift], "the rest was outside of the window")
    llm._ctx.kv_cache_seq_rm(0, n_next, -1)
    context_of = llama_cpp.llama_get_memory(llm.ctx)
    assert llama_cpp.llama_memory_seq_pos_max(context_of, 0) == n_next - 1


def test_learned_positions_cannot_be_shifted(loaded: Callable[..., Llama]) -> None:
    llm = loaded("gpt2")
    llm.eval(PROMPT)
    llm.compress()
    with pytest.raises(UnsupportedModelError, match="'gpt2' has no rotary positions"):
        native.rebase(llm.ctx, 1024)


def test_a_state_remembers_what_was_rebased(loaded: Callable[..., Llama]) -> None:
    llm, other = loaded(), loaded()
    llm.eval(PROMPT)
    llm.compress()
    n_next = native.rebase(llm.ctx, 1024)
    other.load_state(llm.save_state())
    assert native.seq_stats(other.ctx) == native.seq_stats(llm.ctx)
    assert native.seq_stats(other.ctx).n_rebased == N_PROMPT - n_next
    llm._ctx.kv_cache_seq_rm(0, 0, -1)
    assert native.seq_stats(llm.ctx).n_rebased == 0
