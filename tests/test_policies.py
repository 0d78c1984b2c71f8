import numpy as np
import pytest

from compresskv_edge.errors import BudgetError
from compresskv_edge.policies import streaming_llm


def test_streaming_llm_keeps_sinks_and_recent_tokens():
    kept = streaming_llm.keep(100, 10)
    assert kept.tolist() == [0, 1, 2, 3, 94, 95, 96, 97, 98, 99]
    assert kept.dtype == np.int64


def test_streaming_llm_with_other_sinks():
    assert streaming_llm.keep(100, 3, n_sink=0).tolist() == [97, 98, 99]
    assert streaming_llm.keep(100, 3, n_sink=2).tolist() == [0, 1, 99]


@pytest.mark.parametrize("n_tokens", [0, 1, 9, 10])
def test_streaming_llm_within_the_budget(n_tokens):
    assert streaming_llm.keep(n_tokens, 10).tolist() == list(range(n_tokens))


def test_streaming_llm_is_as_large_as_its_budget():
    for budget in range(5, 40):
        assert len(set(streaming_llm.keep(30, budget).tolist())) == min(budget, 30)


@pytest.mark.parametrize("budget", [4, 0, -1])
def test_streaming_llm_needs_room_for_a_recent_token(budget):
    with pytest.raises(BudgetError, match=f"budget is {budget} tokens .* use 5 or more"):
        streaming_llm.keep(100, budget)


def test_streaming_llm_with_negative_sinks():
    with pytest.raises(BudgetError, match="n_sink must not be negative, got -1"):
        streaming_llm.keep(100, 10, n_sink=-1)
