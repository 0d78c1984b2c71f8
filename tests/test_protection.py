"""What is never evicted, and what that does to budgets."""

from __future__ import annotations

from typing import Any, Callable, List

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logits import Case, prompt

from compresskv_edge import Llama
from compresskv_edge.errors import BudgetError, ContextError
from compresskv_edge.runtime.protection import N_SINKS, Protection, named_positions, with_floor


def test_positions() -> None:
    protection = Protection(named=(2, 9), system=(1, 5, 6, 7, 8, 3))
    assert protection.positions() == [0, 1, 2, 3, 9]
    protection.begin([1, 5, 6, 7, 8, 4, 4])
    assert protection.positions() == [0, 1, 2, 3, 4, 9]
    protection.automatic = False
    assert protection.positions() == [2, 9]


def test_named_positions() -> None:
    assert named_positions([range(3, 6), 1, 4], 10) == (1, 3, 4, 5)
    assert named_positions(range(2), 10) == (0, 1)
    assert named_positions([], 10) == ()


@pytest.mark.parametrize("bad", [[-1], [10], [1.5], ["1"], [True], [(1, 2)], [range(8, 12)]])
def test_what_is_no_position(bad: Any) -> None:
    with pytest.raises(ContextError, match=r"cannot protect"):
        named_positions(bad, 10)


def test_a_fraction_is_raised_to_what_must_stay_a_number_is_refused() -> None:
    protection = Protection(named=tuple(range(50)))
    assert protection.mean_budget(20, 8, is_fraction=True) == 58
    assert protection.mean_budget(100, 8, is_fraction=False) == 100
    with pytest.raises(
        BudgetError, match=r"kv_budget is 20 tokens, but 50 protected tokens .*kv_protect=False; 50 nam"
    ):
        protection.mean_budget(20, 8, is_fraction=False)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40), st.integers(1, 300))
def test_a_floor_keeps_the_sum_if_it_can(budgets: List[int], floor: int) -> None:
    raised = with_floor(budgets, floor)
    used = [budget for budget in budgets if budget]
    assert [bool(budget) for budget in raised] == [bool(budget) for budget in budgets]
    assert all(budget >= floor for budget in raised if budget)
    assert sum(raised) == max(sum(used), floor * len(used))
    if used and min(used) >= floor:
        assert raised == budgets


def test_sinks_take_no_more_than_a_sixteenth() -> None:
    protection = Protection()
    for mean, n_sinks in ((15, 0), (16, 1), (63, 3), (64, 4), (1000, 4)):
        protection.mean_budget(mean, 8, is_fraction=False)
        assert protection.positions() == list(range(n_sinks))


#
# in a model
#


def test_sinks_stay_unless_switched_off(load: Callable[..., Llama]) -> None:
    kept = {}
    for protect in (True, False):
        llm = load(kv_protect=protect, kv_budget=64)
        next(llm.generate(prompt(Case("", 1500)), temp=0))
        kept[protect] = [llm.kv_kept(il)[:N_SINKS].tolist() for il in range(len(llm._compression.layers))]
    assert all(first == list(range(N_SINKS)) for first in kept[True])
    assert kept[False] != kept[True]


@pytest.mark.parametrize("mode", ["full", "chunked", "guided"])
def test_the_system_prompt_of_a_chat_stays(mode: str, load: Callable[..., Llama], text: str) -> None:
    llm = load(kv_prefill=mode, kv_tail=128, kv_budget=150)
    system = "Say nothing about the harbour, whatever they ask."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text[:1500]}]
    llm.create_chat_completion(messages, max_tokens=200, temperature=0)
    n_system = llm._compression.protection.n_system
    assert system.encode() in llm.detokenize(llm._input_ids.tolist()[:n_system])
    assert text[:20].encode() not in llm.detokenize(llm._input_ids.tolist()[:n_system])
    for il in range(len(llm._compression.layers)):
        assert llm.kv_kept(il)[:n_system].tolist() == list(range(n_system))


def test_a_budget_that_does_not_hold_the_system_prompt(load: Callable[..., Llama], text: str) -> None:
    messages = [{"role": "system", "content": text[:400]}, {"role": "user", "content": text[:1500]}]
    llm = load()
    with pytest.raises(BudgetError, match=r"kv_budget is 100 tokens, .*kv_protect=False"):
        llm.create_chat_completion(messages, max_tokens=5)
    load(kv_protect=False).create_chat_completion(messages, max_tokens=5)
    load(kv_budget=0.05).create_chat_completion(messages, max_tokens=5)


def test_protect_takes_ranges(load: Callable[..., Llama]) -> None:
    llm = load()
    llm.protect([range(100, 120), 300])
    next(llm.generate(prompt(Case("", 900)), temp=0))
    assert {*range(100, 120), 300} <= set(llm.kv_kept(1).tolist())
    with pytest.raises(ContextError, match="positions are 0 to n_ctx - 1 = 2047"):
        llm.protect([2048])
