from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresskv_edge.calibration.corpus import Corpus, Needle, sentences
from compresskv_edge.calibration.prompts import Plan, chat, find_span, make_documents, plain
from compresskv_edge.errors import CalibrationError

PLAN = Plan(n_documents=9, n_error_documents=3, n_questions=3, min_tokens=256, max_tokens=1024)


def count(text: str) -> int:
    return len(text.split())


# corpus


@pytest.mark.parametrize("model_name", ["", "demo"])
def test_our_needles_and_haystacks(model_name: str) -> None:
    corpus = Corpus.load(model_name=model_name)
    assert len(corpus.haystacks) >= 4
    assert len(corpus.needles) >= 20
    assert len({needle.kind for needle in corpus.needles}) >= 5
    hay = [sentence for stack in corpus.haystacks for sentence in itertools.islice(stack.read(random.Random(0)), 500)]
    for needle in corpus.needles:
        assert not any(needle.sentence in sentence for sentence in hay)
        # the demo model's answers may be single words
        assert model_name or not any(needle.answer in sentence for sentence in hay)
    assert len({needle.sentence for needle in corpus.needles}) == len(corpus.needles)


def test_the_demo_model_gets_its_own_needles() -> None:
    assert "demo" in Corpus.load(model_name="demo").name
    assert Corpus.load(needles="demo") == Corpus.load(model_name="demo")
    assert "general" in Corpus.load(model_name="Llama 3").name


def test_halves_share_nothing() -> None:
    corpus = Corpus.load()
    halves = [corpus.half(which) for which in (0, 1)]
    assert not {x.name for x in halves[0].haystacks} & {x.name for x in halves[1].haystacks}
    assert not {x.sentence for x in halves[0].needles} & {x.sentence for x in halves[1].needles}
    assert {needle.kind for needle in halves[0].needles} == {needle.kind for needle in halves[1].needles}
    assert len({x.fingerprint() for x in (corpus, *halves)}) == 3


def test_text_and_needles_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One. Two is\nlonger! Three?\n\nNo full stop")
    (tmp_path / "b.txt").write_text("Four.")
    (tmp_path / "c.md").write_text("Not read.")
    (tmp_path / "n.json").write_text(json.dumps([{"sentence": " S is 5. ", "question": "What is S?", "answer": "5"}]))
    corpus = Corpus.load(text=tmp_path, needles=tmp_path / "n.json")
    assert [stack.name for stack in corpus.haystacks] == ["a.txt", "b.txt"]
    assert corpus.haystacks[0].sentences == ("One.", "Two is longer!", "Three?", "No full stop")
    assert corpus.needles[0].sentence == "S is 5."
    assert sorted(corpus.hay(1, random.Random(0))) == sorted(["Four.", *corpus.haystacks[0].sentences])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "hold no list"),
        ("3", "hold no list"),
        ('[{"sentence": "x"}]', "needle 0 .* it needs sentence, question, answer"),
        ('[{"sentence": "x", "question": "", "answer": "z"}]', "needle 0"),
        ("[4]", "needle 0"),
    ],
)
def test_needles_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(CalibrationError, match=message):
        Corpus.load(needles=tmp_path / "n.json")


def test_missing_text_and_needles(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none\.json.*No such file"):
        Corpus.load(needles=tmp_path / "none.json")
    with pytest.raises(CalibrationError, match="no text in"):
        Corpus.load(text=tmp_path)
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(CalibrationError, match="not UTF-8"):
        Corpus.load(text=tmp_path)


def test_sentences_of_a_script_without_spaces() -> None:
    assert sentences("一。二\uff01") == ("一。", "二\uff01")


# documents


def test_lengths_and_depths_are_spread() -> None:
    documents = make_documents(Corpus.load(), PLAN, count, 10)
    lengths = [document.n_tokens for document in documents]
    assert (min(lengths), max(lengths)) == (256, 1024)
    assert min(lengths[:3]) < 700 < max(lengths[:3])  # a beginning is spread as well
    depths = sorted(depth for document in documents for depth in document.depths)
    assert depths == pytest.approx([i / 26 for i in range(27)])
    assert all(max(document.depths) - min(document.depths) > 0.2 for document in documents)
    assert len({document.haystack for document in documents}) == 4


def test_prompts_keep_their_length_and_hold_their_needles_once() -> None:
    for document in make_documents(Corpus.load(), PLAN, count, 1):
        for needle, depth in zip(document.needles, document.depths):
            prompt = document.ask(needle, plain)
            assert 0.9 * document.n_tokens - 50 < count(prompt) <= document.n_tokens
            assert prompt.count(needle.sentence) == 1
            assert abs(count(prompt[: prompt.index(needle.sentence)]) / document.n_tokens - depth) < 0.3
        assert len({needle.kind for needle in document.needles}) == 3


def test_all_needles_are_used_before_one_comes_again() -> None:
    corpus = Corpus.load()
    documents = make_documents(corpus, Plan(n_documents=10, n_error_documents=1), count, 1)
    assert {needle for document in documents for needle in document.needles} == set(corpus.needles)


def test_the_seed_decides() -> None:
    corpus = Corpus.load()
    a, b, c = (make_documents(corpus, Plan(n_documents=3, n_error_documents=1, seed=s), count, 1) for s in (1, 1, 2))
    assert a == b != c


def test_a_short_document_holds_fewer_needles() -> None:
    plan = Plan(n_documents=2, n_error_documents=1, n_questions=8, min_tokens=128, max_tokens=1024)
    long, short = make_documents(Corpus.load(), plan, count, 1)
    assert (len(long.needles), len(long.depths)) == (8, 8)
    assert 1 <= len(short.needles) == len(short.depths) < 8
    assert 2 * sum(count(needle.sentence) for needle in short.needles) <= 128


def test_fewer_needles_than_questions(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text(json.dumps([{"sentence": "S is 5.", "question": "What is S?", "answer": "5"}]))
    documents = make_documents(Corpus.load(needles=tmp_path / "n.json"), PLAN, count, 1)
    assert all(len(document.needles) == 1 for document in documents)


@pytest.mark.parametrize(
    "wrong",
    [{"n_documents": 0}, {"n_error_documents": 8}, {"max_tokens": 100}, {"min_tokens": 4}, {"answer_tokens": 1}],
)
def test_plans_that_cannot_be_run(wrong: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError):
        Plan(**wrong)


# the form of a prompt


def test_without_a_template_the_answer_is_begun() -> None:
    document = make_documents(Corpus.load(), PLAN, count, 1)[0]
    answer = "behind the blue door"
    needle = Needle("place", f"The key of Rowan hangs {answer}.", "Where does it hang?", answer)
    asked = "\n\nQuestion: Where does it hang?"
    assert document.ask(needle, plain) == f"{document.text}{asked}\nAnswer: The key of Rowan hangs"
    assert document.ask(needle, lambda text: f"<{text}>") == f"<{document.text}{asked}>"
    reworded = Needle("place", "Rowan's key is there.", "Where does it hang?", answer)
    assert document.ask(reworded, plain) == f"{document.text}{asked}\nAnswer:"


def test_a_base_model_can_go_on_with_each_of_our_needles() -> None:
    for needle in Corpus.load().needles:
        assert needle.begin
        assert needle.answer not in needle.begin
        assert needle.answer not in needle.question


def test_the_chat_template_is_the_models() -> None:
    template = "{{ bos_token }}[{{ messages[0]['content'] }}]{% if add_generation_prompt %}>{% endif %}"
    assert chat(template, "<s>", "</s>")("Text.").startswith("<s>[Text.\nAnswer")
    dated = chat("{{ strftime_now('%Y') }}{{ messages[0]['content'] }}", "", "")
    assert dated("x").startswith("2024x")
    with pytest.raises(CalibrationError, match="chat template fails"):
        chat("{{ raise_exception('no') }}", "", "")("x")


@given(st.lists(st.binary(max_size=4), max_size=20), st.integers(0, 20), st.integers(1, 6))
def test_a_span_covers_its_text(pieces: list[bytes], start: int, n: int) -> None:
    text = "nädel"
    whole = [*pieces[:start], *(bytes([b]) for b in text.encode()), *pieces[start:]]
    span = find_span(whole, text)
    assert span is not None
    assert text.encode() in b"".join(whole[span[0] : span[1]])
    assert find_span(pieces[:n], "a text that is too long to be there") is None
