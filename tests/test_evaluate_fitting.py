"""Documents lose their middle, never what answers a question; questions share a document as long as that fits."""

from __future__ import annotations

import random

import pytest
from test_evaluate_suites import Letters

from compresskv_edge.errors import EvaluationError
from compresskv_edge.evaluate.fitting import around, fitted, packed, shortened
from compresskv_edge.evaluate.sample import Sample, Turn

TEXT = " ".join(f"{i:04d}" for i in range(1000))  # a token of `Letters` each


def asked(name: str, document: str, *marked: str) -> Sample:
    return Sample(name, document, (Turn("Who?", ("x",), marked=marked),))


def test_the_middle_goes() -> None:
    kept = shortened(TEXT, [], 100, Letters().count)
    assert kept is not None
    assert (kept[:9], kept[-9:]) == ("0000 0001", "0998 0999")
    assert 80 <= Letters().count(kept) <= 100
    assert shortened(TEXT, [], 1000, Letters().count) == TEXT


@pytest.mark.parametrize("first", [0, 20, 480, 970])
def test_evidence_stays(first: int) -> None:
    passage = TEXT[5 * first : 5 * first + 149]
    kept = shortened(TEXT, [passage], 100, Letters().count)
    assert kept is not None
    assert passage in kept
    assert 60 <= Letters().count(kept) <= 100


def test_evidence_that_does_not_fit_or_is_not_there() -> None:
    assert shortened(TEXT, [TEXT[100:900]], 100, Letters().count) is None
    with pytest.raises(EvaluationError, match="not in its context"):
        shortened(TEXT, ["five"], 100, Letters().count)


def test_questions_share_a_document_while_their_evidence_fits() -> None:
    passages = [TEXT[at : at + 199] for at in (1000, 2000, 3000)]
    samples = [asked(f"s{i}", TEXT, passage) for i, passage in enumerate(passages)]
    found = fitted(Letters(), [*samples, asked("other", TEXT[::-1])], 140)
    assert [sample.group for sample in found] == ["s0", "s0", "", ""]
    for sample in found:
        assert all(passage in sample.document for passage in sample.turns[0].marked)
        assert Letters().count(sample.document) <= Letters().room(sample, 140)
    assert found[0].document == found[1].document


def test_a_question_whose_evidence_is_longer_than_the_prompt_goes() -> None:
    samples = [asked("long", TEXT, TEXT[10:2000]), asked("short", TEXT, TEXT[10:99])]
    assert [sample.name for sample in fitted(Letters(), samples, 140)] == ["short"]


def test_pages_of_several_questions_share_a_prompt() -> None:
    texts = [TEXT.replace("0", letter) for letter in "abcde"]
    samples = [asked(f"s{i}", texts[i % 5], texts[i % 5][2000:2049]) for i in range(8)]
    found = packed(Letters(), random.Random(1), samples, 1280)
    assert len(found) == 8
    for sample in found:
        together = [other for other in found if other.group == sample.group]
        assert len({other.document for other in together}) == 1
        assert len(together) == 2
        assert "Page 1." in sample.document and "Page 2." in sample.document  # noqa: PT018
        assert sample.turns[0].marked[0] in sample.document
        assert 1000 <= Letters().count(sample.document) <= 1280


def test_the_sentence_around_a_find() -> None:
    text = "First one. It was in 1964 that it began. Last one . Then 1964 again"
    at = [(21, 25), (57, 61)]
    assert around(text, at) == ("It was in 1964 that it began.", "Then 1964 again")
    assert around("x" * 500 + " 7 " + "y" * 500, [(501, 502)], reach=10) == ("xxxxxxxxx 7 yyyyyyyyy",)
