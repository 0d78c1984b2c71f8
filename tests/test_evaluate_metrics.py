"""LongBench's metrics on answers whose scores are known."""

from __future__ import annotations

import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresskv_edge.errors import EvaluationError
from compresskv_edge.evaluate.metrics import METRICS, score
from compresskv_edge.evaluate.sample import Turn


def turn(metric: str, *answers: str, classes: tuple[str, ...] = ()) -> Turn:
    return Turn("?", answers, metric=metric, classes=classes)


@pytest.mark.parametrize(
    ("answer", "expected", "value"),
    [
        ("The code is 4817.", ("4817",), 1.0),
        ("48170", ("4817",), 0.0),
        ("x4817", ("4817",), 0.0),
        ("amber  AND\nblue", ("Amber and blue",), 1.0),
        ("one, three", ("one", "two", "three", "four"), 0.5),
        ("", ("one",), 0.0),
    ],
)
def test_recall(answer: str, expected: tuple[str, ...], value: float) -> None:
    assert score(answer, turn("recall", *expected)) == value


def test_any() -> None:
    assert score("it was Ann", turn("any", "Anna", "Ann")) == 1.0
    assert score("it was Bob", turn("any", "Anna", "Ann")) == 0.0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("The miller", 1.0),
        ("a miller!", 1.0),
        ("the old miller", 2 * 0.5 * 1 / 1.5),
        ("miller miller", 2 * 0.5 * 1 / 1.5),
        ("weaver", 0.0),
        ("", 0.0),
    ],
)
def test_f1_leaves_out_articles_and_punctuation(answer: str, value: float) -> None:
    assert score(answer, turn("f1", "weaving", "Miller")) == pytest.approx(value)


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    assert score("police killed the gunman", turn("rouge_l", "police kill the gunman")) == pytest.approx(0.75, abs=1e-6)
    assert score("", turn("rouge_l", "police")) == 0.0
    assert score("...", turn("rouge_l", "police")) == 0.0


def test_classes_that_are_part_of_the_right_one_do_not_count() -> None:
    classes = ("Food", "Food for animals", "City")
    assert score("Food for animals", turn("classification", "Food for animals", classes=classes)) == 1.0
    assert score("City or Food", turn("classification", "City", classes=classes)) == 0.5
    assert score("nothing", turn("classification", "City", classes=classes)) == 0.0


def test_numbers() -> None:
    assert score("Paragraph 3 or 5", turn("retrieval", "Paragraph 3")) == 0.5
    assert score("none", turn("retrieval", "Paragraph 3")) == 0.0
    assert score("12", turn("counting", "12")) == 1.0
    assert score("12 of 20", turn("counting", "12")) == 0.5
    assert score("", turn("counting", "12")) == 0.0


def test_code_is_compared_on_the_first_line_that_is_no_comment() -> None:
    pytest.importorskip("rapidfuzz")
    assert score("# a comment\nreturn x\ny = 2", turn("edit_similarity", "return x")) == 1.0
    assert score("return xy", turn("edit_similarity", "return x")) == pytest.approx(16 / 17, abs=0.01)
    assert score("```\n", turn("edit_similarity", "return x")) == 0.0


def test_chinese_is_cut_into_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for jieba that cuts into letters."""
    monkeypatch.setitem(sys.modules, "jieba", types.SimpleNamespace(cut=lambda text, cut_all: list(text)))
    assert score("北京。", turn("f1_chinese", "北京")) == 1.0
    assert score("北", turn("f1_chinese", "北京")) == pytest.approx(2 / 3)
    assert score("北京", turn("rouge_l_chinese", "北京")) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "module", "package"),
    [("edit_similarity", "rapidfuzz.fuzz", "rapidfuzz"), ("f1_chinese", "jieba", "jieba")],
)
def test_a_missing_library_is_named(metric: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EvaluationError, match=f"needs {package}.*compresskv-edge\\[eval\\]"):
        score("x", turn(metric, "y"))


@given(answer=st.text(max_size=60), expected=st.text(min_size=1, max_size=30))
def test_scores_are_shares(answer: str, expected: str) -> None:
    for metric in METRICS:
        if metric not in ("edit_similarity", "f1_chinese", "rouge_l_chinese"):
            assert 0.0 <= score(answer, turn(metric, expected, classes=(expected,))) <= 1.0, metric
