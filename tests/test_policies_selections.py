"""Which of the scored tokens stay where it is not simply the best: each paper's rule by hand."""

from __future__ import annotations

import numpy as np
import pytest
from layers import attending, kept, massive

from compresskv_edge import policies
from compresskv_edge.errors import BudgetError, PolicyError
from compresskv_edge.policies import kvcrush, streaming_llm, treekv
from compresskv_edge.policies.selection import Candidates, whole_groups


def test_streaming_llm_keeps_sinks_and_the_most_recent() -> None:
    assert kept("streaming_llm", massive([0.0] * 100), 10) == [0, 1, 2, 3, 94, 95, 96, 97, 98, 99]
    assert kept("streaming_llm:sinks=2", massive([0.0] * 100), 3) == [0, 1, 99]
    assert kept("streaming_llm:sinks=0", massive([0.0] * 100), 3) == [97, 98, 99]
    for n, size in [(100, 10), (50, 20), (12, 12)]:
        assert kept("streaming_llm", massive([0.0] * n), size) == streaming_llm.keep(n, size).tolist()


def test_streaming_llm_while_decoding_keeps_the_first_positions() -> None:
    positions = np.array([0, 1, 2, 3, 40, 41, 42, 43, 44, 45])
    assert kept("streaming_llm", massive([0.0] * 10, positions=positions), 6) == [0, 1, 2, 3, 8, 9]


@pytest.mark.parametrize("n_tokens", [0, 1, 9, 10])
def test_streaming_llm_on_counts_within_the_budget(n_tokens: int) -> None:
    assert streaming_llm.keep(n_tokens, 10).tolist() == list(range(n_tokens))


@pytest.mark.parametrize("size", [4, 0, -1])
def test_streaming_llm_on_counts_needs_room_for_a_recent_token(size: int) -> None:
    with pytest.raises(BudgetError, match=f"budget is {size} tokens .* use 5 or more"):
        streaming_llm.keep(100, size)
    with pytest.raises(BudgetError, match="n_sink must not be negative, got -1"):
        streaming_llm.keep(100, 10, n_sink=-1)


def test_chunkkv_keeps_whole_chunks_and_fills_up_with_single_tokens() -> None:
    row = [0.01] * 12
    row[0:3] = [0.1, 0.0, 0.0]  # chunk 0: mean .03
    row[3:6] = [0.0, 0.3, 0.0]  # chunk 1: mean .1
    row[6:9] = [0.05, 0.06, 0.05]  # chunk 2: mean .053
    layer = attending([[row]])
    assert kept("chunkkv:chunk=3:window=1", layer, 7) == [3, 4, 5, 6, 7, 8, 11]
    assert kept("chunkkv:chunk=3:window=1", layer, 6) == [0, 3, 4, 5, 7, 11]


def test_chunkkv_reuses_the_choice_of_the_layer_below() -> None:
    first, second = ([0.01] * 10 for _ in range(2))
    first[0], second[5] = 0.9, 0.9
    layers = [attending([[row]]) for row in (first, second, second)]
    policy = policies.get("chunkkv:chunk=2:window=1")
    found = policy.keep_all(layers, [3, 3, 3], 3, window=1)
    assert [rows.tolist() for rows in found] == [[0, 1, 9], [0, 1, 9], [4, 5, 9]]
    assert [len(rows) for rows in policy.keep_all(layers, [3, 5, 5], 4, window=1)] == [3, 5, 5], (
        "other budgets, own choice"
    )


def test_sentencekv_keeps_whole_sentences() -> None:
    """Sentences 0-2, 3-7, 8-9 and the window. The second has the loudest word, the first is louder on average."""
    row = [0.1, 0.1, 0.1, 0.0, 0.2, 0.0, 0.0, 0.0, 0.03, 0.02, 0.01]
    ends = np.isin(np.arange(11), [2, 7, 9])
    layer = attending([[row]], ends=ends)
    assert kept("sentencekv:window=1", layer, 4) == [0, 1, 2, 10]
    assert kept("sentencekv:window=1", layer, 9) == [*range(8), 10]
    assert kept("sentencekv:window=1", layer, 6) == [0, 1, 2, 4, 8, 10]  # 5 tokens no longer fit: the best single ones
    with pytest.raises(PolicyError, match="layer 0 comes without 'ends': let the policy's `needs` name it"):
        kept("sentencekv:window=1", attending([[row]]), 4)


def test_treekv_lets_the_weaker_of_two_neighbours_leave() -> None:
    """Three places, tokens 3, 4 and 5 come in. Pairs (0 1), then places 1 and 2, then 2 and 3."""
    scores = np.array([5, 4, 3, 2, 1, 6], dtype=np.float32)
    candidates = Candidates(scores, np.zeros(6, dtype=bool), massive([1.0] * 6))
    # 3 comes: 0 and 1 meet, 1 leaves: 0 2 3. 4 comes: 2 and 3 meet, 3 leaves: 0 2 4. 5 comes: 4 and 5 meet, 4 leaves
    assert treekv.select(candidates, 3).tolist() == [0, 2, 5]


def test_treekv_goes_on_where_it_was() -> None:
    """Two tokens are gone already: the third pair is next."""
    positions = np.array([0, 2, 4, 5, 6])
    candidates = Candidates(
        np.array([1, 9, 8, 7], np.float32), np.zeros(4, dtype=bool), massive([1.0] * 5, positions=positions)
    )
    assert treekv.select(candidates, 3).tolist() == [0, 1, 2]  # 8 and 7 meet, not 1 and 9


def test_treekv_is_dense_near_the_end() -> None:
    found = np.asarray(kept("treekv", massive(np.arange(1000, 0, -1)), 64))
    gaps = np.diff(found[:-1])
    assert gaps[:16].mean() > 4 * gaps[-16:].mean()


def test_kvcrush_represents_the_others_by_how_the_heads_treat_them() -> None:
    """Heads' bits of four tokens; the majority's row is (1, 0), tokens 0 and 2 are it, 3 is one off, 1 is two off."""
    bits = np.array([[1, 0, 1, 1], [0, 1, 0, 1]], dtype=bool)
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    anchor_is_one_half = bits.mean(axis=1)
    assert anchor_is_one_half.tolist() == [0.75, 0.5]  # a half counts as a majority: the anchor is (1, 1)
    # distances: 0 -> 1, 1 -> 1, 2 -> 1, 3 -> 0; sorted: 3 0 1 2; runs: (3 0), (1 2)
    assert kvcrush.representatives(bits, scores, 2).tolist() == [3, 2]
    assert kvcrush.representatives(bits, scores, 0).tolist() == []


def test_kvcrush_splits_its_budget() -> None:
    """Eight places beside the window: six of snapkv's, two for the 13 others. One head, falling attention: tokens 6 to
    9 get more than the mean, 10 to 18 do not and are the majority; runs (10 ... 16) and (17 18 6 7 8 9)."""
    layer = attending([[np.concatenate([np.linspace(0.2, 0.15, 10), np.linspace(0.05, 0.01, 10)])]])
    assert kept("kvcrush:window=1:kernel=1", layer, 9) == [0, 1, 2, 3, 4, 5, 6, 10, 19]
    assert kept("snapkv:window=1:kernel=1", layer, 9) == [0, 1, 2, 3, 4, 5, 6, 7, 19]


def test_groups_that_no_longer_fit_give_their_best_tokens() -> None:
    scores = np.array([1, 1, 9, 0, 5, 5], dtype=np.float32)
    candidates = Candidates(scores, np.zeros(6, dtype=bool), massive([1.0] * 7))
    groups = np.array([0, 0, 1, 1, 2, 2])
    assert whole_groups(candidates, 2, groups).tolist() == [4, 5]
    assert whole_groups(candidates, 3, groups).tolist() == [2, 4, 5]
    assert whole_groups(candidates, 1, groups).tolist() == [2]
