"""Needs: their union, and that every kind has a provider and every policy gets what its parts name, no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layers import curves_of, random_layers

from compresskv_edge import policies
from compresskv_edge.errors import PolicyError
from compresskv_edge.policies import needs
from compresskv_edge.policies.needs import CURVES, HEADS, KEYS, MASS, SAMPLE, Need, covers, last, union
from compresskv_edge.runtime.inputs import PROVIDERS, of_text
from compresskv_edge.runtime.records import RECORDS

EVICTING = [name for name in policies.names() if name != "full"]
KINDS = {value.kind for value in vars(needs).values() if isinstance(value, Need)}


def test_of_one_kind_the_most_tokens_count() -> None:
    assert union([frozenset({last(8), KEYS}), frozenset({last(32)}), frozenset()]) == {last(32), KEYS}


def test_covers() -> None:
    there = frozenset({last(8), MASS})
    assert covers(there, frozenset())
    assert covers(there, frozenset({last(8)}))
    assert not covers(there, frozenset({last(9)}))
    assert not covers(there, frozenset({MASS, SAMPLE}))


def test_every_kind_comes_from_the_text_or_from_the_profile() -> None:
    assert {*PROVIDERS, HEADS.kind, CURVES.kind} == KINDS
    assert set(RECORDS) < set(PROVIDERS)
    assert of_text(frozenset({KEYS, HEADS, CURVES})) == {KEYS}


@pytest.mark.parametrize("name", EVICTING)
def test_a_policy_reads_what_it_names_and_nothing_else(name: str) -> None:
    """With only that in the layers it keeps what it keeps with all; without one kind of it, it says which."""
    policy, layers = policies.get(name), random_layers(120)
    kinds = {need.kind for need in policy.needs}
    assert kinds <= KINDS

    def choose(known: Any) -> Any:
        budgets = policy.budgets(known, [120] * 4, 30, window=8, known=curves_of(layers))
        return policy.keep_all(known, budgets, 30, window=8)

    def only(names: Any) -> Any:
        inputs = [{kind: layer.inputs[kind] for kind in names if kind in layer.inputs} for layer in layers]
        return [policies.Layer(layer.index, layer.positions, some) for layer, some in zip(layers, inputs)]

    for one, other in zip(choose(only(kinds)), choose(layers)):
        np.testing.assert_array_equal(one, other)
    for kind in kinds & set(PROVIDERS):
        if kind == "queries" and "sample" in kinds:
            continue  # asked for in case that a text is too short for a sample
        with pytest.raises(PolicyError, match=f"layer 0 comes without {kind!r}"):
            choose(only(kinds - {kind}))
