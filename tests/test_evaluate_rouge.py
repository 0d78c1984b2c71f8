"""ROUGE-L is what the package `rouge` counts, on any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge import Rouge

from compresskv_edge.calibration.answer import recall
from compresskv_edge.evaluate.rouge import rouge_l

TEXTS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", ".", ". ", " .. ", "\n", "Mat"]), max_size=25)


def of_the_package(answer: str, expected: str) -> float:
    try:
        return float(Rouge().get_scores([answer], [expected], avg=True)["rouge-l"]["f"])
    except ValueError:  # an empty text
        return 0.0


@given(TEXTS, TEXTS)
def test_rouge_l_is_the_packages(answer: list[str], expected: list[str]) -> None:
    pair = " ".join(answer), " ".join(expected)
    assert rouge_l(*pair) == pytest.approx(of_the_package(*pair), abs=1e-12)


@given(st.text(max_size=40), st.text(max_size=40))
def test_rouge_l_of_any_characters(answer: str, expected: str) -> None:
    assert rouge_l(answer, expected) == pytest.approx(of_the_package(answer, expected), abs=1e-12)


def test_a_long_sentence_has_a_score() -> None:
    words = " ".join(f"word{i}" for i in range(1500))
    assert rouge_l(words, words) == pytest.approx(1.0)


@given(st.lists(st.sampled_from(["the", "cat", "4817", "mat"]), min_size=1, max_size=9), st.data())
def test_recall_is_the_packages_rouge_1(expected: list[str], data: st.DataObject) -> None:
    answer = data.draw(st.lists(st.sampled_from(["the", "cat", "4817", "dog"]), min_size=1, max_size=9))
    pair = " ".join(answer), " ".join(expected)
    found = Rouge(metrics=["rouge-1"], stats=["r"]).get_scores(*pair)[0]["rouge-1"]["r"]
    assert recall(*pair) == pytest.approx(found)
