"""Every suite makes prompts of the size asked for, the same every time, whose answers are in the text."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from compresskv_edge.errors import CompressKVError, EvaluationError
from compresskv_edge.evaluate import fidelity, hay, kv, multi_turn, niah, qa, ruler
from compresskv_edge.evaluate.metrics import METRICS
from compresskv_edge.evaluate.sample import Sample, SuitePlan, choose_tasks
from compresskv_edge.evaluate.suite_run import SUITES, load_suite

SMALL = SuitePlan(contexts=(600, 900), depths=3)


class Letters:
    """A model whose tokens are five letters; its template takes 12."""

    def count(self, text: str) -> int:
        return -(-len(text) // 5)

    def room(self, sample: Sample, n_tokens: int) -> int:
        question = sample.turns[0].question if sample.turns else ""
        return n_tokens - 12 - self.count(question + sample.system)


class Crowded(Letters):
    """A long template."""

    def room(self, sample: Sample, n_tokens: int) -> int:
        return super().room(sample, n_tokens) - 60


@pytest.mark.parametrize("name", SUITES)
def test_samples_are_the_same_every_time_and_differ_by_seed(name: str) -> None:
    suite = load_suite(name)
    first, again = (suite.make(SMALL, Letters()) for _ in range(2))
    assert first == again
    other = suite.make(replace(SMALL, seed=2), Letters())
    assert len(other) == len(first)
    assert not {sample.document for sample in first} & {sample.document for sample in other}


@pytest.mark.parametrize("name", SUITES)
def test_samples_have_the_size_asked_for(name: str) -> None:
    for sample in load_suite(name).make(SMALL, Letters()):
        n = Letters().count(sample.document) + SMALL.contexts[0] - Letters().room(sample, SMALL.contexts[0])
        wanted = sample.split["context"]
        assert 0.75 * wanted <= n <= wanted, sample.name


@pytest.mark.parametrize("name", SUITES)
def test_names_differ_and_metrics_exist(name: str) -> None:
    samples = load_suite(name).make(SMALL, Letters())
    assert len({sample.name for sample in samples}) == len(samples)
    for turn in (turn for sample in samples for turn in sample.turns):
        assert turn.metric in METRICS or name == "fidelity"
    assert all(any(turn.counted for turn in sample.turns) for sample in samples)


@pytest.mark.parametrize("name", SUITES)
def test_every_task_is_asked(name: str) -> None:
    suite = load_suite(name)
    tasks = [task for task in suite.TASKS if (name, task) != ("fidelity", "text")]
    for task in tasks:
        samples = suite.make(replace(SMALL, tasks=(task,)), Letters())
        assert {turn.task.split(" ")[0].rstrip("s") for s in samples for turn in s.turns} == {task.rstrip("s")}


def test_the_answer_of_a_needle_stands_in_the_text_once_at_its_depth() -> None:
    for sample in niah.make(replace(SMALL, depths=11), Letters()):
        answer = sample.turns[0].answers[0]
        assert sample.document.count(answer) == 1
        assert abs(sample.document.index(answer) / len(sample.document) - float(sample.split["depth"])) < 0.2


def test_needles_cover_the_grid_and_all_kinds() -> None:
    samples = niah.make(SuitePlan(contexts=(600, 900), depths=11, repeats=2), Letters())
    assert Counter((s.split["context"], s.split["depth"]) for s in samples) == dict.fromkeys(
        {(c, round(i / 10, 4)) for c in (600, 900) for i in range(11)}, 2
    )
    assert {s.turns[0].task for s in samples} == set(niah.TASKS)
    assert {s.split["distractors"] for s in samples} == {0, 4}


def test_every_fact_of_a_document_is_asked() -> None:
    samples = niah.make(SuitePlan(contexts=(600,), depths=5, questions=4, repeats=2), Letters())
    assert len(samples) == 40
    assert len({s.document for s in samples}) == len({s.group for s in samples}) == 10
    for s in samples:
        assert s.document.count(s.turns[0].answers[0]) == 1
        assert abs(s.document.index(s.turns[0].answers[0]) / len(s.document) - float(s.split["depth"])) < 0.25
    assert Counter(s.split["depth"] for s in samples) == dict.fromkeys((0.0, 0.25, 0.5, 0.75, 1.0), 8)
    assert {s.split["distractors"] for s in samples} == {0, 3}


@pytest.mark.parametrize("name", ["niah", "kv", "ruler", "qa"])
def test_what_answers_is_marked_and_stands_in_the_text(name: str) -> None:
    for sample in load_suite(name).make(SMALL, Letters()):
        turn = sample.turns[0]
        assert turn.marked or turn.task in ("common_words", "frequent_words")
        assert all(sample.document.count(passage) == 1 for passage in turn.marked)
        marked = " ".join(turn.marked)
        assert not turn.marked or all(answer in marked for answer in turn.answers)


def test_pairs_are_asked_exactly() -> None:
    for sample in kv.make(SMALL, Letters()):
        assert sample.document.count(sample.turns[0].answers[0]) == 1
    (uuids, *_) = kv.make(replace(SMALL, tasks=("uuids",), depths=1), Letters())
    pairs = json.loads(uuids.document)
    assert pairs[uuids.turns[0].question.split('"')[1]] == uuids.turns[0].answers[0]


def test_variables_lead_to_their_value() -> None:
    for sample in ruler.make(replace(SMALL, tasks=("variables",)), Letters()):
        values: dict[str, str] = {}
        for line in (part for part in sample.document.split(".") if "VAR" in part):
            name, value = line[line.index("VAR") + 4 :].split(" = ")
            values[name] = values[value[4:]] if value.startswith("VAR") else value
        wanted = sample.turns[0].question.split("value ")[1].split("?")[0]
        assert {name for name, value in values.items() if value == wanted} == set(sample.turns[0].answers)


@pytest.mark.parametrize(("task", "n"), [("common_words", 10), ("frequent_words", 3)])
def test_words_that_are_asked_for_are_the_most_frequent(task: str, n: int) -> None:
    for sample in ruler.make(replace(SMALL, tasks=(task,), contexts=(900, 2000)), Letters()):
        words = [word for word in sample.document.split() if not word[0].isdigit()]
        assert {word for word, _ in Counter(words).most_common(n)} == set(sample.turns[0].answers)


@pytest.mark.parametrize("task", ["common_words", "frequent_words"])
def test_a_list_of_words_needs_room(task: str) -> None:
    with pytest.raises(EvaluationError, match=f"too short for {task}: raise the context"):
        ruler.make(SuitePlan(contexts=(128,), depths=1, tasks=(task,)), Crowded())


def test_a_bridge_needs_both_passages() -> None:
    for sample in qa.make(replace(SMALL, tasks=("bridge",)), Letters()):
        before = sample.document[: sample.document.index(f"is {sample.turns[0].answers[0]}.")]
        place = before[before.rindex("The secret code of ") + 19 :].strip()
        assert sample.document.count(place) == 2
        assert place not in sample.turns[0].question


def test_second_third_and_fifth_questions_count() -> None:
    (sample, *_) = multi_turn.make(replace(SMALL, tasks=("questions",)), Letters())
    assert [turn.counted for turn in sample.turns] == [False, True, True, False, True]
    assert all(sample.document.count(turn.answers[0]) == 1 for turn in sample.turns)


def test_a_fact_of_the_system_prompt_is_not_in_the_document() -> None:
    for sample in multi_turn.make(replace(SMALL, tasks=("system_fact",)), Letters()):
        answer = sample.turns[-1].answers[0]
        assert answer in sample.system
        assert answer not in sample.document
        assert [turn.counted for turn in sample.turns] == [False] * 9 + [True]


def test_the_form_of_the_last_answer_is_asked_for_in_the_system_prompt() -> None:
    samples = multi_turn.make(replace(SMALL, tasks=("system_form",)), Letters())
    assert {s.system for s in samples} == {"Answer in German.", "Answer in Spanish.", "Answer in a full sentence."}
    for sample in samples:
        assert [turn.counted for turn in sample.turns] == [False] * 9 + [True]
        (words,) = sample.turns[-1].answers
        assert words not in sample.document
        assert METRICS["recall"](f"{words} 4711.", sample.turns[-1]) == 1.0
        assert METRICS["recall"]("4711.", sample.turns[-1]) == 0.0


def test_own_text_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(" ".join(f"Sentence {i} is about the sea." for i in range(800)))
    plan = replace(SMALL, haystack=tmp_path)
    assert "about the sea" in niah.make(plan, Letters())[0].document
    text = fidelity.make(replace(SMALL, data=tmp_path / "book.txt", decode_tokens=30), Letters())[0]
    assert Letters().count(text.turns[0].answers[0]) >= 30
    with pytest.raises(EvaluationError, match=r"has \d+ tokens, a document needs"):
        niah.make(replace(plan, contexts=(9000,)), Letters())
    (tmp_path / "empty").mkdir()
    with pytest.raises(CompressKVError, match=r"^no text in"):
        niah.make(replace(SMALL, haystack=tmp_path / "empty"), Letters())
    with pytest.raises(EvaluationError, match="shorter than 9000 tokens"):
        fidelity.make(replace(SMALL, data=tmp_path, contexts=(9000,)), Letters())


def test_bad_plans() -> None:
    for wrong in (
        {"contexts": ()},
        {"contexts": (64,)},
        {"depths": 0},
        {"repeats": 0},
        {"decode_tokens": 1},
        {"questions": 12},
        {"rows": "some"},
    ):
        with pytest.raises(EvaluationError, match=r"give at least one|or more|use 1 to 11"):
            SuitePlan(**wrong)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="too short"):
        multi_turn.make(SuitePlan(contexts=(128,), tasks=("system_fact",)), Letters())
    with pytest.raises(EvaluationError, match="do not fill the prompt"):
        kv.make(SuitePlan(contexts=(100_000,), depths=1, tasks=("codes",)), Letters())
    with pytest.raises(EvaluationError, match="task is 'codez': use codes, uuids"):
        choose_tasks(kv.TASKS, ["codez"], small=False)
    with pytest.raises(EvaluationError, match="suite is 'nia': use niah"):
        load_suite("nia")
    with pytest.raises(EvaluationError, match="give --data"):
        fidelity.make(replace(SMALL, tasks=("text",)), Letters())


def test_small_models_are_asked_what_they_know() -> None:
    assert choose_tasks(kv.TASKS, (), small=True) == ("codes",)
    assert choose_tasks(kv.TASKS, (), small=False) == ("codes", "uuids")
    assert choose_tasks(kv.TASKS, ("uuids",), small=True) == ("uuids",)
    tasks = multi_turn.TASKS
    assert "system_form" not in choose_tasks(tasks, (), small=True)
    assert "system_form" not in choose_tasks(tasks, (), small=False, chat=True)
    assert choose_tasks(tasks, (), small=True, chat=True) == ("questions", "system_fact", "system_form")


def test_hay_too_short_for_its_facts() -> None:
    sample = niah.make(SMALL, Letters())[0]
    with pytest.raises(EvaluationError, match="too few"):
        hay.buried(SMALL, Letters(), random.Random(0), [(0.5, sample.document)], 20)
