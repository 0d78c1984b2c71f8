"""Several sequences in one compressed cache, through llama.cpp's API: each as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List

import devices
import llama_cpp
import numpy as np
import pytest
from conftest import ISWA_ARCHS, PLAIN_ARCHS
from sequences import LENGTHS, NEXT, Context, budgets_of, held, keep, kept_of, loader, prompt_of, tolerance

from compresskv_edge import Llama
from compresskv_edge.engine import native
from compresskv_edge.method import scoring

pytestmark = pytest.mark.every_device


@pytest.fixture
def loaded(tiny_gguf: Callable[..., Path]) -> Callable[..., Llama]:
    return loader(tiny_gguf)


ARCHS_AND_TYPES = [(arch, "f16") for arch in (*PLAIN_ARCHS, *ISWA_ARCHS)] + [("llama", "q8_0"), ("llama", "q4_0")]


@pytest.mark.parametrize(("arch", "type_kv"), ARCHS_AND_TYPES)
@pytest.mark.parametrize("unified", [False, True], ids=["streams", "unified"])
def test_together_is_as_alone(arch: str, type_kv: str, unified: bool, loaded: Callable[..., Llama]) -> None:
    llm = loaded(arch, type_kv)
    alone = []
    for seq_id in range(3):
        context = Context(llm, 1)
        context.read(0, prompt_of(seq_id))
        native.keep(context.ctx, _kept_argument(llm, seq_id))
        alone.append(context.follow(0, NEXT, LENGTHS[seq_id]))

    context = Context(llm, 3, unified)
    for seq_id in range(3):
        context.read(seq_id, prompt_of(seq_id))
        keep(llm, context, seq_id)
    together = [context.step([t] * 3, [n + i for n in LENGTHS]) for i, t in enumerate(NEXT)]

    # products of three rows and of one are other kernels, in stock as well; a wrong row or position gives .2 and more
    for seq_id in range(3):
        ours = np.stack([row[seq_id] for row in together])
        error = 0.1 if type_kv == "q4_0" else None  # a key that rounds the other way
        devices.assert_same(ours, alone[seq_id], atol=tolerance(arch, type_kv), error=error)


def _kept_argument(llm: Any, seq_id: int) -> List[Any]:
    layers = llm._compression.layers
    return [k if layer.evictable else [] for k, layer in zip(kept_of(seq_id, len(layers)), layers)]


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_keeping_every_token_is_stock_to_the_bit(arch: str, loaded: Callable[..., Llama]) -> None:
    llm, stock = loaded(arch), loaded(arch, kv_profile=None, kv_budget=None)
    logits = []
    for this in (llm, stock):
        context = Context(this, 3, unified=True)
        for seq_id in range(3):
            context.read(seq_id, prompt_of(seq_id))
        for seq_id in range(3 if this is llm else 0):
            native.compress(context.ctx, [2048] * len(llm._compression.layers), seq_id)
        logits.append([context.step([t] * 3, [n + i for n in LENGTHS]) for i, t in enumerate(NEXT)])
    devices.assert_same(*logits)


def specified(llm: Any, context: Context, seq_id: int, budgets: List[int]) -> List[List[int]]:
    """The positions that the NumPy statement keeps, given the queries and keys that the engine holds."""
    profile, res = llm._compression.profile, []
    for il, layer in enumerate(llm._compression.layers):
        q = native.read_queries(context.ctx, il, layer, profile.settings.window, seq_id)
        k, _ = native.read_kv(context.ctx, il, layer, seq_id)
        kept = scoring.select_tokens(q, k, profile.heads_used()[il], budgets[il])
        res.append(native.positions(context.ctx, il, seq_id)[kept].tolist())
    return res


def queries(llm: Any, context: Context, seq_id: int) -> Any:
    layers = llm._compression.layers
    return np.stack([native.read_queries(context.ctx, il, layer, 8, seq_id) for il, layer in enumerate(layers)])


def test_scores_see_their_own_sequence_only(loaded: Callable[..., Llama]) -> None:
    llm = loaded("llama", "f32")
    context = Context(llm, 3)
    for i in range(max(LENGTHS)):  # in turns, so that every micro-batch holds tokens of all
        items = [(prompt_of(s)[i], i, [s], True) for s in range(3) if i < LENGTHS[s]]
        assert context.decode(items) == 0
    for seq_id in (2, 0, 1):
        alone = Context(llm, 1)
        alone.read(0, prompt_of(seq_id))
        np.testing.assert_allclose(queries(llm, context, seq_id), queries(llm, alone, 0), atol=0.1)
        budgets = budgets_of(seq_id, llm)
        want = specified(llm, context, seq_id, budgets)
        native.compress(context.ctx, budgets, seq_id=seq_id)
        assert held(llm, context, seq_id) == want
    assert [native.seq_stats(context.ctx, s).n_tokens_seen for s in range(3)] == list(LENGTHS)


def test_a_token_of_several_sequences_scores_for_each(loaded: Callable[..., Llama]) -> None:
    llm = loaded("llama", "f32")
    tokens = prompt_of(0)
    context = Context(llm, 2, unified=True)
    for i in range(0, len(tokens), 100):
        assert context.decode([(t, i + j, [0, 1], True) for j, t in enumerate(tokens[i : i + 100])]) == 0
    np.testing.assert_array_equal(queries(llm, context, 0), queries(llm, context, 1))
    want = specified(llm, context, 1, budgets_of(0, llm))
    native.compress(context.ctx, budgets_of(0, llm), seq_id=1)
    assert held(llm, context, 1) == want
    assert held(llm, context, 0) == [list(range(len(tokens)))] * len(llm._compression.layers)
    native.compress(context.ctx, budgets_of(0, llm), seq_id=0)
    assert held(llm, context, 0) == want


def test_a_fork_shares_the_prefix(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 3)
    n = LENGTHS[0]
    context.read(0, prompt_of(0))
    native.compress(context.ctx, budgets_of(0, llm))
    before = native.stats(context.ctx).kv_bytes
    for copy in (1, 2):
        llama_cpp.llama_memory_seq_cp(context.memory, 0, copy, -1, -1)
    assert native.stats(context.ctx).kv_bytes == before
    assert native.seq_stats(context.ctx, 2).n_sharing == 3
    assert held(llm, context, 1) == held(llm, context, 0)

    first = context.follow(1, NEXT, n)
    devices.assert_same(context.follow(2, NEXT, n), first, atol=2e-3)  # seq 1's tokens are not seen
    assert held(llm, context, 0)[0][-1] == n - 1
    native.compress(context.ctx, budgets_of(0, llm), seq_id=1)
    assert [native.seq_stats(context.ctx, s).n_sharing for s in range(3)] == [2, 1, 2]
    devices.assert_same(context.follow(0, NEXT, n), first, atol=2e-3)


def test_a_fork_can_be_compressed_at_once(loaded: Callable[..., Llama]) -> None:
    llm = loaded("llama", "f32")
    context = Context(llm, 2)
    context.read(0, prompt_of(0))
    llama_cpp.llama_memory_seq_cp(context.memory, 0, 1, -1, -1)
    for seq_id in (1, 0):
        native.compress(context.ctx, budgets_of(0, llm), seq_id=seq_id)
    assert held(llm, context, 0) == held(llm, context, 1)
    assert native.seq_stats(context.ctx, 0).n_sharing == 1


def test_copies_that_would_cut_a_prefix_change_nothing(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 3)
    for seq_id in (0, 1):
        context.read(seq_id, prompt_of(seq_id))
        native.compress(context.ctx, budgets_of(seq_id, llm), seq_id=seq_id)
    before = [held(llm, context, s) for s in range(3)]
    for source, target, p0, p1 in ((0, 2, 0, 100), (0, 2, 50, -1), (0, 1, -1, -1), (0, 7, -1, -1)):
        llama_cpp.llama_memory_seq_cp(context.memory, source, target, p0, p1)
    assert [held(llm, context, s) for s in range(3)] == before


def test_removing_one_leaves_the_others(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 3)
    for seq_id in range(3):
        context.read(seq_id, prompt_of(seq_id))
        keep(llm, context, seq_id)
    before = [held(llm, context, s) for s in range(3)]
    assert not llama_cpp.llama_memory_seq_rm(context.memory, 1, 20, 30)
    assert llama_cpp.llama_memory_seq_rm(context.memory, 1, -1, -1)
    empty: List[List[int]] = [[] for _ in before[0]]
    assert [held(llm, context, s) for s in range(3)] == [before[0], empty, before[2]]

    size = native.stats(context.ctx).kv_bytes
    context.read(1, prompt_of(0))
    keep_again = [k.tolist() for k in kept_of(0, len(before[0]))]
    native.keep(context.ctx, keep_again, 1)
    assert [held(llm, context, s) for s in (1, 2)] == [before[0], before[2]]
    assert native.stats(context.ctx).kv_bytes <= size + 2**16, "the rows of the removed one are gone"

    llama_cpp.llama_memory_seq_keep(context.memory, 2)
    assert [held(llm, context, s) for s in range(3)] == [empty, empty, before[2]]
    llama_cpp.llama_memory_clear(context.memory, True)
    assert [held(llm, context, s) for s in range(3)] == [empty] * 3


def test_a_part_is_removed_after_another_sequence_was_dropped(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 2)
    context.read(0, prompt_of(0))
    keep(llm, context, 0)
    context.read(1, prompt_of(1))
    layers = [(il, shape) for il, shape in enumerate(llm._compression.layers) if shape.evictable]
    before = [native.read_kv(context.ctx, il, shape, 1) for il, shape in layers]
    n_left = LENGTHS[1] - 2
    assert llama_cpp.llama_memory_seq_rm(context.memory, 0, -1, -1)
    assert llama_cpp.llama_memory_seq_rm(context.memory, 1, n_left, -1)
    for (il, shape), (k, v) in zip(layers, before):
        after = native.read_kv(context.ctx, il, shape, 1)
        np.testing.assert_array_equal(after[0], k[:, :n_left])
        np.testing.assert_array_equal(after[1], v[:, :n_left])


def test_upstream_shifts_what_is_not_compressed(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    logits = []
    for compressed in (False, True):
        context = Context(llm, 2)
        for seq_id in (0, 1):
            context.read(seq_id, prompt_of(seq_id))
        if compressed:
            keep(llm, context, 0)
            before = context.follow(0, NEXT, LENGTHS[0])
            assert llama_cpp.llama_memory_seq_rm(context.memory, 0, LENGTHS[0], -1)
        assert llama_cpp.llama_memory_seq_rm(context.memory, 1, 10, 60)
        llama_cpp.llama_memory_seq_add(context.memory, 1, 60, -1, -50)
        llama_cpp.llama_memory_seq_add(context.memory, 0, 60, -1, -50 if compressed else 0)  # refused
        logits.append(context.follow(1, NEXT, LENGTHS[1] - 50))
    devices.assert_same(*logits, atol=0.05)
    devices.assert_same(context.follow(0, NEXT, LENGTHS[0]), before, atol=0.05)


def test_protected_positions_are_those_of_their_sequence(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 2)
    for seq_id in (0, 1):
        context.read(seq_id, prompt_of(0))
    native.protect(context.ctx, [3, 5], seq_id=1)
    for seq_id in (0, 1):
        native.compress(context.ctx, [20] * len(llm._compression.layers), seq_id=seq_id)
    assert all({3, 5} <= set(layer) for layer in held(llm, context, 1))
    assert not all({3, 5} <= set(layer) for layer in held(llm, context, 0))


def test_a_sequence_number_that_is_too_large(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 2, unified=True)
    assert context.decode([(65, 0, [2], True)]) != 0
    assert context.decode([(65, 0, [1], True)]) == 0


def test_reserved_sequences_never_grow(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 2)
    budgets = budgets_of(0, llm)
    for seq_id in (0, 1):
        native.reserve(context.ctx, budgets, seq_id)
    n_past, sizes = [0, 0], set()
    for i in range(60):
        for seq_id in (0, 1):
            if native.seq_stats(context.ctx, seq_id).n_tail_used + 20 > 64:
                native.compress(context.ctx, budgets, seq_id)
        for seq_id in (0, 1):
            context.read(seq_id, prompt_of(0)[:20], n_past[seq_id])
            n_past[seq_id] += 20
        sizes.add(native.stats(context.ctx).kv_bytes if i > 20 else 0)
    assert len(sizes) == 2
    row = native.stats(context.ctx).kv_bytes_stock // 2048 // len(budgets)
    formula = sum(2 * (budget + 64) * row for budget in budgets)
    assert max(sizes) <= 1.02 * formula
