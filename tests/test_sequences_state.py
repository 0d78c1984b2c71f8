"""States of several sequences, of all and of one, through llama.cpp's API."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any, Callable

import devices
import llama_cpp
import pytest
from sequences import LENGTHS, NEXT, Context, held, keep, loader, prompt_of, tolerance

from compresskv_edge import Llama
from compresskv_edge.engine import native

pytestmark = pytest.mark.every_device


@pytest.fixture
def loaded(tiny_gguf: Callable[..., Path]) -> Callable[..., Llama]:
    return loader(tiny_gguf)


def get_state(context: Context, seq_id: int = -1) -> Any:
    size = llama_cpp.llama_state_get_size(context.ctx) if seq_id < 0 else _seq_size(context, seq_id)
    data = (ctypes.c_uint8 * size)()
    if seq_id < 0:
        assert llama_cpp.llama_state_get_data(context.ctx, data, size) == size
    else:
        assert llama_cpp.llama_state_seq_get_data(context.ctx, data, size, seq_id) == size
    return data


def _seq_size(context: Context, seq_id: int) -> int:
    return int(llama_cpp.llama_state_seq_get_size(context.ctx, seq_id))


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_states_of_all_and_of_one(arch: str, loaded: Callable[..., Llama]) -> None:
    llm = loaded(arch)
    context = Context(llm, 3)
    for seq_id in (0, 2):
        context.read(seq_id, prompt_of(seq_id))
        keep(llm, context, seq_id)
    llama_cpp.llama_memory_seq_cp(context.memory, 2, 1, -1, -1)
    want = [held(llm, context, s) for s in range(3)]
    whole, one = get_state(context), get_state(context, 2)

    for fresh in (Context(llm, 3), context):
        assert llama_cpp.llama_state_set_data(fresh.ctx, whole, len(whole)) == len(whole)
        assert [held(llm, fresh, s) for s in range(3)] == want
        assert native.seq_stats(fresh.ctx, 1).n_sharing == 2

    other = Context(llm, 2)  # never decoded, two states one after the other
    for seq_id in (1, 0):
        assert llama_cpp.llama_state_seq_set_data(other.ctx, one, len(one), seq_id) == len(one)
        evictable = [layer.evictable for layer in llm._compression.layers]  # of the others the window is saved
        for got, wanted, e in zip(held(llm, other, seq_id), want[2], evictable):
            assert got == wanted or not e
    first = context.follow(2, NEXT, LENGTHS[2])
    for seq_id in (0, 1):
        devices.assert_same(other.follow(seq_id, NEXT, LENGTHS[2]), first, atol=tolerance(arch, "f16"))


def test_a_state_that_does_not_fit_leaves_the_other_sequences(loaded: Callable[..., Llama]) -> None:
    llm = loaded()
    context = Context(llm, 2)
    for seq_id in (0, 1):
        context.read(seq_id, prompt_of(seq_id))
        keep(llm, context, seq_id)
    want = held(llm, context, 1)
    state = get_state(context, 0)
    assert llama_cpp.llama_state_seq_set_data(context.ctx, state, len(state) // 2, 0) == 0
    assert held(llm, context, 1) == want
    assert held(llm, context, 0) == [[]] * len(want)
    context.follow(1, NEXT, LENGTHS[1])


@pytest.mark.parametrize("whole", [False, True], ids=["of-one", "of-all"])
@pytest.mark.parametrize("position", [-1, -5, -(1 << 31), 100, 1 << 30])
def test_cells_at_positions_of_no_context_are_refused(position: int, whole: bool, loaded: Callable[..., Llama]) -> None:
    """llama.cpp believes them, and could not remove those before the first one. 100: a token that is compressed."""
    llm = loaded("llama")
    context = Context(llm, 2)
    context.read(1, prompt_of(1))
    keep(llm, context, 1)
    seq_id = -1 if whole else 1
    state = get_state(context, seq_id)
    last = struct.pack("<iIi", LENGTHS[1] - 1, 1, 1)  # position, number of sequences, the sequence
    at = bytes(state).index(last)
    assert bytes(state).count(last) == 1
    struct.pack_into("<i", state, at, position)
    read = llama_cpp.llama_state_set_data if whole else llama_cpp.llama_state_seq_set_data
    assert read(context.ctx, state, len(state), *([] if whole else [seq_id])) != len(state)
    assert held(llm, context, 1) == [[]] * len(held(llm, context, 1))
    assert native.stats(context.ctx).n_tail_used == 0
    context.read(1, prompt_of(1))
    keep(llm, context, 1)
    struct.pack_into("<i", state, at, LENGTHS[1] - 1)
    assert read(context.ctx, state, len(state), *([] if whole else [seq_id])) == len(state)
