"""What a token is worth to each method, on examples small enough to work out by hand."""

from __future__ import annotations

import numpy as np
from layers import attending, kept, keyed, massive

from compresskv_edge.policies import lagkv, q_filters, scissorhands, treekv


def test_the_helper_gives_the_attention_that_it_is_asked_for() -> None:
    want = [[[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]]]
    (found,) = attending(want).attention(2)
    np.testing.assert_allclose(found, want[0], atol=1e-6)


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


def test_cake_likes_attention_that_changes() -> None:
    """Tokens 0 and 1 get the same on average, 1 from one query only: its variance is .08, gamma times that counts."""
    rows = [[[0.2, 0.4, 0.1, 0.2, 0.1, 0.0], [0.2, 0.0, 0.3, 0.3, 0.1, 0.1]]]
    layer = attending(rows)
    (attention,) = layer.attention(2)
    np.testing.assert_allclose(attention[:, 1].var(ddof=1), 0.08, atol=1e-6)
    assert kept("cake:window=2:kernel=1:gamma=200", layer, 3, window=2) == [1, 4, 5]
    assert kept("cake:window=2:kernel=1:gamma=0", layer, 3, window=2) == [3, 4, 5]


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


def test_random_differs_from_layer_to_layer_and_seed_to_seed() -> None:
    one, two = (massive([0.0] * 500, index=i) for i in range(2))
    assert kept("random", one, 50) != kept("random", two, 50)
    assert kept("random", one, 50) != kept("random:seed=1", one, 50)


def test_compresskv_asks_the_retrieval_heads_only() -> None:
    """Head 0 looks at token 5, head 1 at token 20; pooling takes the neighbours along."""
    looks = np.full((2, 1, 30), 0.01)
    looks[0, 0, 5] = looks[1, 0, 20] = 0.8
    assert kept("compresskv", attending(looks, heads=[1]), 6) == [18, 19, 20, 21, 22, 29]
    assert kept("compresskv", attending(looks, heads=[0]), 6) == [3, 4, 5, 6, 7, 29]
    assert kept("compresskv", attending(looks), 11) == [3, 4, 5, 6, 7, 18, 19, 20, 21, 22, 29]


def test_lagkv_compares_with_the_tokens_that_follow() -> None:
    """Two channels, both from 0 to 1 in what follows: (0, 1) is uneven by .5, (.5, .5) by nothing, (0, 2) by 1."""
    following = np.array([[0.0, 1.0], [1.0, 0.0]])
    found = lagkv.unevenness(np.array([[0.0, 1.0], [0.5, 0.5], [0.0, 2.0]]), following)
    np.testing.assert_allclose(found, np.exp([0.5, 0.0, 1.0]) / np.exp([0.5, 0.0, 1.0]).sum())


def test_lagkv_treats_its_pieces_alike() -> None:
    """Pieces of three behind no sinks, one head: of each the token that stands out most, however loud the first is."""
    keys = [[9.0, -9.0], [5.0, -5.0], [7.0, -7.0], [0.1, 0.1], [0.2, 0.4], [0.3, 0.3], [0.0, 1.0], [1.0, 0.0]]
    layer = keyed(keys, values=np.asarray(keys, dtype=np.float32)[None])
    assert kept("lagkv:lag=3:sinks=0", layer, 4, window=2) == [0, 4, 6, 7]
    assert kept("lagkv:lag=3:sinks=1", layer, 4, window=2)[0] == 0
