"""Measures of a forced answer: where it parts, how far predictions move, what of the evidence is held."""

from __future__ import annotations

import numpy as np
import pytest

from compresskv_edge.evaluate import fidelity
from compresskv_edge.evaluate.forced import Greedy, Reference, kept_shares

RNG = np.random.default_rng(1)
LOGITS = RNG.standard_normal((3, 50)).astype(np.float32) * 3
CHOSEN = tuple(int(token) for token in LOGITS.argmax(axis=1))


def test_what_is_fed_and_what_is_expected() -> None:
    ended, cut, empty = Greedy((7, 8, 9), "a b c", end=2), Greedy((7, 8, 9), "a b c"), Greedy((), "", end=2)
    assert (ended.fed, ended.expected) == ((7, 8, 9), (8, 9, 2))
    assert (cut.fed, cut.expected) == ((7, 8), (8, 9))
    assert (empty.fed, empty.expected) == ((), ())


def test_agreement_ends_at_the_first_other_token() -> None:
    reference = Reference(Greedy((5, *CHOSEN[:2]), "", end=CHOSEN[2]), LOGITS)
    assert reference.n_agreed(LOGITS) == 3
    other = LOGITS.copy()
    other[1, (CHOSEN[1] + 1) % 50] += 99
    assert reference.n_agreed(other) == 1


def test_kl_is_that_of_fidelity() -> None:
    reference = Reference(Greedy((5, *CHOSEN[:2]), "", end=CHOSEN[2]), LOGITS)
    other = LOGITS + RNG.standard_normal(LOGITS.shape).astype(np.float32)
    expected = np.mean([fidelity.divergence(*pair) for pair in zip(LOGITS, other)])
    assert reference.kl(other) == pytest.approx(expected, rel=1e-4)
    assert reference.kl(LOGITS + 7) == pytest.approx(0.0, abs=1e-6)


def test_an_answer_of_one_token_agrees() -> None:
    nothing = np.zeros((0, 50), np.float32)
    reference = Reference(Greedy((), "", end=2), nothing)
    assert (reference.n_agreed(nothing), reference.kl(nothing)) == (0, 0.0)


def test_shares_of_the_evidence() -> None:
    layers, union = kept_shares([4, 5, 6, 7], [np.array([0, 4, 5]), np.array([5, 6]), np.array([1])])
    assert layers == [0.5, 0.5, 0.0]
    assert union == 0.75
