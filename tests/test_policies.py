"""What must hold for every policy of the registry, on arrays: the shared matrix."""

from __future__ import annotations

import dataclasses
from typing import Any, List

import numpy as np
import pytest
from layers import curves_of, random_layers

from compresskv_edge import policies
from compresskv_edge.errors import BudgetError, PolicyError
from compresskv_edge.policies import Policy
from compresskv_edge.policies.merging import Merge
from compresskv_edge.policies.needs import CURVES, KEYS, last

WINDOW = 8  # the library's
EVICTING = [name for name in policies.names() if name != "full"]
VARIANTS = [
    "snapkv:window=8:kernel=5:pooling=avg",
    "chunkkv:chunk=20:reuse=1",
    "kvcrush:share=0.5",
    "cake:gamma=0",
    "edge:later_share=0",
]


def choose(policy: Policy, layers: List[Any], mean: int, window: int = WINDOW) -> List[Any]:
    """The pure statement, whole: budgets, then tokens."""
    if not policy.evicts:
        return [np.arange(layer.n) for layer in layers]
    budgets = policy.budgets(layers, [layer.n for layer in layers], mean, window=window, known=curves_of(layers))
    return policy.keep_all(layers, budgets, mean, window=window)


@pytest.mark.parametrize("mean", [WINDOW + 1, 24, 60, 180])
@pytest.mark.parametrize("name", EVICTING + VARIANTS)
def test_keeps_exactly_its_budget_and_the_window(name: str, mean: int) -> None:
    policy, layers = policies.get(name), random_layers(200)
    kept = choose(policy, layers, mean)
    assert sum(map(len, kept)) == mean * len(layers)
    for rows in kept:
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert rows[0] >= 0
        own = min(policy.window_of(mean, WINDOW), len(rows))
        assert own >= WINDOW
        assert rows[-own:].tolist() == list(range(200 - own, 200))


@pytest.mark.parametrize("name", policies.names())
def test_keeps_whole_what_fits(name: str) -> None:
    for n in (1, 7, WINDOW, 30):
        for mean in (30, 31, 1000):
            assert [rows.tolist() for rows in choose(policies.get(name), random_layers(n), mean)] == [
                list(range(n))
            ] * 4


@pytest.mark.parametrize("name", policies.names())
def test_never_evicts_the_only_token(name: str) -> None:
    policy, layers = policies.get(name), random_layers(1, n_layer=1)
    assert policy.keep(layers[0], 1, 1, window=1).tolist() == [0]
    assert choose(policy, layers, 1, window=1)[0].tolist() == [0]


@pytest.mark.parametrize("name", EVICTING)
def test_is_deterministic_and_leaves_its_input_alone(name: str) -> None:
    first = choose(policies.get(name), random_layers(150), 40)
    layers = random_layers(150)
    before = [{key: np.copy(value) for key, value in vars(layer).items()} for layer in layers]
    for kept in (choose(policies.get(name), layers, 40), choose(policies.get(name), layers, 40)):
        for want, rows in zip(first, kept):
            np.testing.assert_array_equal(rows, want)
    for layer, values in zip(layers, before):
        for key, value in values.items():
            np.testing.assert_array_equal(getattr(layer, key), value)


@pytest.mark.parametrize("name", EVICTING)
def test_protected_tokens_stay_and_count(name: str) -> None:
    protected = np.zeros(150, dtype=bool)
    protected[[3, 17, 18, 90, 141]] = True
    layers = [dataclasses.replace(layer, protected=protected) for layer in random_layers(150)]
    policy = policies.get(name)
    budgets = policy.budgets(layers, [150] * 4, 30, window=WINDOW, n_protected=5, known=curves_of(layers))
    kept = policy.keep_all(layers, budgets, 30, window=WINDOW)
    assert sum(map(len, kept)) == 30 * 4
    for rows in kept:
        assert {3, 17, 18, 90, 141} <= set(rows.tolist())


@pytest.mark.parametrize("name", EVICTING)
@pytest.mark.parametrize("spare", [0, 1, 20])
def test_a_window_gives_way_to_protected_tokens(name: str, spare: int) -> None:
    """Down to the library's window: what a budget must hold at least, see Protection.mean_budget."""
    layers = random_layers(300, protected=np.arange(300) < 60)
    policy, mean = policies.get(name), 60 + WINDOW + spare
    budgets = policy.budgets(layers, [300] * 4, mean, window=WINDOW, n_protected=60, known=curves_of(layers))
    for kept, budget in zip(policy.keep_all(layers, budgets, mean, window=WINDOW), budgets):
        assert {*range(60), *range(300 - WINDOW, 300)} <= set(kept.tolist())
        assert len(kept) == budget


@pytest.mark.parametrize("name", EVICTING)
def test_protected_tokens_that_do_not_fit(name: str) -> None:
    layers = random_layers(100, protected=np.arange(100) < 50)
    policy = policies.get(name)
    with pytest.raises(BudgetError, match="raise the budget"):
        policy.budgets(layers, [100] * 4, 30, window=WINDOW, n_protected=50, known=curves_of(layers))
    with pytest.raises(BudgetError, match=r"budget of layer 0 is 30 tokens, less than the 50 protected tokens"):
        policy.keep(layers[0], 30, 30, window=WINDOW)


@pytest.mark.parametrize("name", EVICTING)
def test_a_layer_does_not_get_more_than_it_holds(name: str) -> None:
    """Uneven layers, as after an eviction: what one cannot use goes to the others."""
    layers = [random_layers(n)[0] for n in (20, 300, 80, 300)]
    kept = choose(policies.get(name), layers, 120)
    assert sum(map(len, kept)) == 120 * 4
    assert all(len(rows) <= layer.n for rows, layer in zip(kept, layers))


@pytest.mark.parametrize("name", [name for name in EVICTING if policies.get(name).decodes])
def test_goes_on_with_what_earlier_evictions_left(name: str) -> None:
    """While decoding, positions have gaps."""
    positions = np.concatenate([np.arange(0, 200, 4), np.arange(200, 260)])
    layers = random_layers(len(positions), positions=positions)
    kept = choose(policies.get(name), layers, 60)
    assert sum(map(len, kept)) == 60 * 4
    assert CURVES in policies.get(name).needs or [len(rows) for rows in kept] == [60] * 4
    assert all(rows[-WINDOW:].tolist() == list(range(102, 110)) for rows in kept)


def test_every_policy_says_what_it_is() -> None:
    titles = [policies.get(name).title for name in policies.names()]
    assert len(set(titles)) == len(titles)
    required = (
        "full streaming_llm h2o scissorhands tova sage_kv snapkv pyramidkv cake prefixkv chunkkv sentencekv treekv"
    )
    required += " q_filters keydiff knorm lagkv uncomp kvcrush random compresskv edge ahead"
    assert set(required.split()) == set(policies.names())
    sources = {policies.get(name).source for name in policies.names()} - {"none", "llama.cpp"}
    assert all(source.startswith("arXiv:") for source in sources)
    assert len(sources) == len(policies.names()) - 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("snap", "no policy is named 'snap': did you mean 'snapkv'"),
        ("", "no policy is named ''"),
        ("snapkv:windows=8", "policy 'snapkv' has no option 'windows': it has window, kernel, pooling"),
        ("h2o:window=8", "policy 'h2o' has no option 'window': it has recent_share"),
        ("tova:x=1", "it has none"),
        ("snapkv:window=eight", "option window of policy 'snapkv' is 'eight': give a value like 32"),
        ("snapkv:kernel=4", "option kernel of policy 'snapkv' is '4'"),
        ("snapkv:pooling=sum", "option pooling of policy 'snapkv' is 'sum'"),
        ("snapkv:window=0", "option window"),
        ("h2o:recent_share=1.5", "option recent_share"),
        ("cake:gamma=nan", "option gamma"),
        ("edge:later_share=-0.1", "option later_share"),
        ("edge:budgets=none", "option budgets of policy 'edge' is 'none': give a value like 'curves'"),
        ("snapkv+fold", "a modifier that is not 'merge'"),
        ("snapkv+merge+merge", "or has it twice"),
        ("snapkv+merge:x=1", r"policy 'snapkv\+merge' has no option 'x': it has threshold, strength"),
        ("snapkv+merge:threshold=2", r"option threshold of policy 'snapkv\+merge' is '2': give a value like 0.6"),
        ("snapkv+merge:strength=0", "option strength"),
    ],
)
def test_a_spec_that_means_nothing(spec: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        policies.get(spec)


def test_options_and_modifier() -> None:
    policy = policies.get("snapkv:window=16:pooling=avg:kernel=3")
    assert (policy.window, policy.pooling, policy.kernel) == (16, "avg", 3)
    assert policy.needs == {KEYS, last(16)}
    assert policies.get("snapkv+merge") == dataclasses.replace(policies.get("snapkv"), merge=Merge())
    options = policies.get("snapkv:window=16+merge:threshold=0.8:strength=0.5")
    assert (options.window, options.merge) == (16, Merge(0.8, 0.5))
    assert policies.get("random:seed=2") != policies.get("random")
