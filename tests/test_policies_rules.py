"""Each paper's rule on an example small enough to work out by hand."""

from __future__ import annotations

from typing import Any, List, Sequence

import numpy as np
import pytest

from compresskv_edge import policies
from compresskv_edge.errors import BudgetError
from compresskv_edge.method import budget
from compresskv_edge.policies import Layer, cake, kvcrush, q_filters, scissorhands, streaming_llm, treekv, uncomp
from compresskv_edge.policies.allocation import Wish
from compresskv_edge.policies.prefixkv import share as prefix_share
from compresskv_edge.policies.pyramidkv import pyramid
from compresskv_edge.policies.selection import Candidates, whole_groups


def attending(rows: Any, **fields: Any) -> Layer:
    """A layer whose heads pay exactly the given attention: rows (H, r, n) of the last r queries.

    Keys are unit vectors, so that a query's components are its logits.
    """
    attention = np.asarray(rows, dtype=np.float64)
    _, r, n = attention.shape
    visible = np.arange(n) <= np.arange(n - r, n)[:, None]
    attention = np.where(visible, attention, 0.0)
    attention /= attention.sum(axis=-1, keepdims=True)
    queries = (np.log(np.maximum(attention, 1e-30)) * np.sqrt(n)).astype(np.float32)
    k = np.eye(n, dtype=np.float32)[None]
    return Layer(index=0, k=k, queries=queries, positions=np.arange(n), **fields)


def keyed(keys: Sequence[Sequence[float]], **fields: Any) -> Layer:
    """A layer of one head with these keys."""
    k = np.asarray(keys, dtype=np.float32)[None]
    queries = fields.pop("queries", np.zeros((1, k.shape[1], k.shape[2]), dtype=np.float32))
    return Layer(index=0, k=k, queries=queries, positions=np.arange(k.shape[1]), **fields)


def massive(mass: Sequence[float], **fields: Any) -> Layer:
    """A layer of which only the attention from all queries is known."""
    n = len(mass)
    known = {"k": np.empty((1, n, 0)), "queries": np.empty((1, 0, 0)), "positions": np.arange(n)}
    return Layer(index=0, mass=np.asarray(mass, dtype=float), **{**known, **fields})


def kept(name: str, layer: Layer, budget_tokens: int, window: int = 1) -> List[int]:
    return policies.get(name).keep(layer, budget_tokens, budget_tokens, window=window).tolist()


def test_the_helper_gives_the_attention_that_it_is_asked_for() -> None:
    want = [[[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]]]
    (found,) = attending(want).attention(2)
    np.testing.assert_allclose(found, want[0], atol=1e-6)


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


def test_h2o_keeps_half_recent_and_half_heavy() -> None:
    mass = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 0.1, 0.1]
    assert kept("h2o", massive(mass), 6) == [0, 2, 4, 7, 8, 9]
    assert kept("h2o:recent_share=0.17", massive(mass), 6) == [0, 2, 4, 6, 7, 9]


def test_scissorhands_counts_queries_that_gave_less_than_an_equal_share() -> None:
    """Two queries over 4 and 5 tokens: 1/4 and 1/5 decide. Token 0: low once. 1: never. 2: twice. 3: once."""
    attention = np.array([[0.1, 0.5, 0.1, 0.3, 0.0], [0.35, 0.3, 0.1, 0.05, 0.2]])
    visible = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=bool)
    np.testing.assert_allclose(
        scissorhands.pivotal(attention, visible), [0.225 - 1, 0.4, 0.1 - 2, 0.175 - 1, 0.1], atol=1e-12
    )
    layer = attending(attention[None])
    assert kept("scissorhands:window=1", layer, 2) == [1, 4]
    assert kept("scissorhands:window=1", layer, 3) == [0, 1, 4]  # of the equals 0 and 3 the one with more attention


def test_scissorhands_looks_no_further_back_than_its_history() -> None:
    rows = [[[0.9, 0.02, 0.02, 0.02, 0.04]] * 3 + [[0.02, 0.9, 0.02, 0.02, 0.04]]]
    assert kept("scissorhands:history=1", attending(rows), 2) == [1, 4]
    assert kept("scissorhands:history=4", attending(rows), 2) == [0, 4]


def test_tova_asks_the_last_query_of_all_heads() -> None:
    heads = [
        [[0.7, 0.1, 0.1, 0.1, 0.0], [0.1, 0.1, 0.6, 0.1, 0.1]],
        [[0.7, 0.1, 0.1, 0.1, 0.0], [0.1, 0.5, 0.2, 0.1, 0.1]],
    ]
    assert kept("tova", attending(heads), 2) == [2, 4]  # .6 + .2 against .1 + .5 of token 1
    assert kept("tova", attending(heads), 3) == [1, 2, 4]


def test_sage_kv_keeps_sinks_recent_tokens_and_what_the_last_one_attends_to() -> None:
    last = [0.01] * 20
    last[9], last[12], last[17] = 0.3, 0.2, 0.29
    layer = attending([[last]])
    assert kept("sage_kv", layer, 8) == [0, 1, 2, 3, 9, 17, 18, 19]
    assert kept("sage_kv:recent_share=0.5", layer, 9) == [0, 1, 2, 3, 9, 16, 17, 18, 19]


def test_snapkv_pools_what_the_window_attends_to() -> None:
    """Max pooling with kernel 3: the neighbours of the loudest token are as loud."""
    window = [[0.01, 0.01, 0.01, 0.5, 0.01, 0.01, 0.2, 0.01, 0.1, 0.1]] * 2
    layer = attending([window])
    assert kept("snapkv:window=2:kernel=3", layer, 5, window=2) == [2, 3, 4, 8, 9]
    assert kept("snapkv:window=2:kernel=1", layer, 4, window=2) == [3, 6, 8, 9]
    # average pooling: 3's share goes to 2, 3 and 4, then comes 5, between 4 and the louder 6
    assert kept("snapkv:window=2:kernel=3:pooling=avg", layer, 6, window=2) == [2, 3, 4, 5, 8, 9]


def test_pyramidkv_falls_in_equal_steps_to_a_twentieth() -> None:
    """Mean 108, window 8: 100 beside it, from 195 to 5."""
    assert pyramid(Wish(108, 8, (1000,) * 5), 20.0) == [203.0, 155.5, 108.0, 60.5, 13.0]
    layers = [massive([1.0] * 1000)] * 5
    budgets = policies.get("pyramidkv").budgets(layers, [1000] * 5, 108, window=8)
    assert sum(budgets) == 540
    assert budgets == [203, 156, 108, 60, 13]


def test_pyramidkv_of_a_prompt_shorter_than_its_first_layer() -> None:
    """150 tokens: the first layer cannot have 195 beside the window; it has 142, the last 58."""
    assert pyramid(Wish(108, 8, (150,) * 3), 20.0) == [150.0, 108.0, 66.0]
    assert pyramid(Wish(108, 8, (150,)), 20.0) == [108]


def test_cake_likes_attention_that_changes() -> None:
    """Tokens 0 and 1 get the same on average, 1 from one query only: its variance is .08, gamma times that counts."""
    rows = [[[0.2, 0.4, 0.1, 0.2, 0.1, 0.0], [0.2, 0.0, 0.3, 0.3, 0.1, 0.1]]]
    layer = attending(rows)
    (attention,) = layer.attention(2)
    np.testing.assert_allclose(attention[:, 1].var(ddof=1), 0.08, atol=1e-6)
    assert kept("cake:window=2:kernel=1:gamma=200", layer, 3, window=2) == [1, 4, 5]
    assert kept("cake:window=2:kernel=1:gamma=0", layer, 3, window=2) == [3, 4, 5]


def test_cake_shares_by_entropy_and_variance() -> None:
    """Before the window of two: entropy of (.25 .25 .25 .25) x 2 is 2 log 4, variance 0; the other layer's is known."""
    still = attending([[[0.25] * 4 + [0.0, 0.0], [0.25] * 4 + [0.0, 0.0]]])
    entropy, variance = cake.preference(still, 2)
    assert entropy == pytest.approx(2 * np.log(4), rel=1e-5)
    assert variance == pytest.approx(0.0, abs=1e-12)
    moving = attending([[[0.5, 0.5, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 0.0, 0.0]]])
    entropy, variance = cake.preference(moving, 2)
    assert entropy == pytest.approx(2 * np.log(2), rel=1e-5)
    assert variance == pytest.approx(4 * 0.125, rel=1e-5)
    share = cake.policy(tau1=0.5, tau2=2.0).spread.share
    wish = Wish(60, 10, (1000,) * 2, ((2.0, 9.0), (1.0, 4.0)))  # 2^2 x 3 against 1 x 2
    np.testing.assert_allclose(share(wish), [10 + 100 * 12 / 14, 10 + 100 * 2 / 14])


def test_prefixkv_gives_every_layer_the_same_share_of_its_attention() -> None:
    """Budget 6 for two layers: one token holds .5 of the first, the even one needs 4 of 8; more would be 2 and 5."""
    steep = np.cumsum([0.5, 0.25, 0.125, 0.0625, 0.0625, 0, 0, 0])
    even = np.cumsum([0.125] * 8)
    assert prefix_share(Wish(3, 1, (8, 8), (steep, even))) == [1.0, 4.0]
    layers = [massive([1, 2, 4, 32, 16, 8, 0.5, 0.5]), massive([1.0] * 8)]
    policy = policies.get("prefixkv:sinks=0")
    assert policy.budgets(layers, [8, 8], 3, window=1) == [2, 4]  # what is left over is shared
    assert policy.keep(layers[0], 3, 3, window=1).tolist() == [3, 4, 7]
    assert policies.get("prefixkv").keep(layers[0], 6, 3, window=1).tolist() == [0, 1, 2, 3, 4, 7]


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
    with pytest.raises(ValueError, match="the sentences of layer 0 are not known"):
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


def test_treekv_scores_are_per_query_that_saw_the_token() -> None:
    layer = massive([8.0, 3.0, 2.0, 1.0])
    np.testing.assert_allclose(treekv.mean_attention(layer, 1), [[2.0, 1.0, 1.0]])


def test_q_filters_project_on_the_queries_main_direction() -> None:
    queries = np.array([[[3.0, 0.1], [2.0, -0.1], [4.0, 0.0]]], dtype=np.float32)
    np.testing.assert_allclose(q_filters.direction(queries[0]), [1.0, 0.0], atol=0.02)
    np.testing.assert_allclose(q_filters.direction(-queries[0]), [-1.0, 0.0], atol=0.02)
    keys = [[1.0, 5.0], [-2.0, 0.0], [3.0, 0.0], [0.0, 9.0], [0.0, 0.0]]
    assert kept("q_filters", keyed(keys, sample=queries), 3) == [0, 2, 4]
    assert kept("q_filters", keyed(keys, sample=-queries), 3) == [1, 3, 4]
    assert kept("q_filters", keyed(keys, queries=queries, sample=queries[:, :0]), 3) == [0, 2, 4], "no sample yet"


def test_keydiff_keeps_keys_unlike_the_mean() -> None:
    keys = [[1.0, 0.0], [5.0, 0.1], [0.0, 1.0], [2.0, 0.0], [-1.0, 0.1], [1.0, 0.0]]
    assert kept("keydiff", keyed(keys), 3) == [2, 4, 5]


def test_knorm_keeps_short_keys() -> None:
    keys = [[3.0, 4.0], [1.0, 0.0], [0.0, -2.0], [6.0, 0.0], [9.0, 9.0]]
    assert kept("knorm", keyed(keys), 3) == [1, 2, 4]


def test_uncomp_measures_how_many_directions_the_queries_have() -> None:
    line = np.outer(np.array([1.0, -1.0, 2.0, -2.0]), np.ones(4))[None]
    assert uncomp.truncated_entropy(line, 32) == pytest.approx(0.0, abs=1e-9)
    cross = np.concatenate([np.eye(4), -np.eye(4)])[None]
    assert uncomp.truncated_entropy(cross, 32) == pytest.approx(1.0)  # four equal directions of four
    assert uncomp.truncated_entropy(cross + 100.0, 32) == pytest.approx(1.0), "what all have in common does not count"
    assert uncomp.truncated_entropy(cross, 2) == pytest.approx(0.5)  # two of them are counted


def test_uncomp_groups_layers_of_similar_entropy() -> None:
    wish = Wish(50, 10, (1000,) * 4, (0.2, 0.25, 0.9, 1.0))
    first, second, third, fourth = uncomp.share(wish, 2)
    assert first == second == pytest.approx(10 + 160 * 0.225 / 2.35)
    assert third == fourth == pytest.approx(10 + 160 * 0.95 / 2.35)
    assert uncomp.share(Wish(50, 10, (100,) * 2, (0.5, 0.5)), 4) == [50.0, 50.0]


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


def test_random_differs_from_layer_to_layer_and_seed_to_seed() -> None:
    layers = [massive([0.0] * 500), massive([0.0] * 500)]
    one, two = (policies.Layer(**{**vars(layer), "index": i}) for i, layer in enumerate(layers))
    assert kept("random", one, 50) != kept("random", two, 50)
    assert kept("random", one, 50) != kept("random:seed=1", one, 50)


def test_compresskv_spreads_by_the_profiles_errors() -> None:
    errors = (0.5, 0.3, 0.2)
    found = policies.get("compresskv").budgets([], [10_000] * 3, 200, window=8, errors=errors)
    assert found == budget.allocate(errors, 200)
    capped = policies.get("compresskv").budgets([], [250] * 3, 200, window=8, errors=errors)
    assert capped == budget.allocate(errors, 200, cap=250)
    assert sum(capped) == 600


def test_compresskv_asks_the_retrieval_heads_only() -> None:
    """Head 0 looks at token 5, head 1 at token 20; pooling takes the neighbours along."""
    looks = np.full((2, 1, 30), 0.01)
    looks[0, 0, 5] = looks[1, 0, 20] = 0.8
    assert kept("compresskv", attending(looks, heads=[1]), 6) == [18, 19, 20, 21, 22, 29]
    assert kept("compresskv", attending(looks, heads=[0]), 6) == [3, 4, 5, 6, 7, 29]
    assert kept("compresskv", attending(looks), 11) == [3, 4, 5, 6, 7, 18, 19, 20, 21, 22, 29]


def test_groups_that_no_longer_fit_give_their_best_tokens() -> None:
    scores = np.array([1, 1, 9, 0, 5, 5], dtype=np.float32)
    candidates = Candidates(scores, np.zeros(6, dtype=bool), massive([1.0] * 7))
    groups = np.array([0, 0, 1, 1, 2, 2])
    assert whole_groups(candidates, 2, groups).tolist() == [4, 5]
    assert whole_groups(candidates, 3, groups).tolist() == [2, 4, 5]
    assert whole_groups(candidates, 1, groups).tolist() == [2]
