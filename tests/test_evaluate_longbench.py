"""Rows in LongBench's format become samples: metrics, prompts, evidence, halves of a file."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_evaluate_suites import SMALL, Letters

from compresskv_edge.errors import CompressKVError, EvaluationError
from compresskv_edge.evaluate import longbench, qa
from compresskv_edge.evaluate.metrics import METRICS


def write(folder: Path, name: str, *rows: object) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_become_samples_with_the_metric_of_their_set(tmp_path: Path) -> None:
    row = {"context": "c " * 200, "input": "Who?", "answers": ["Anna", "Ann"], "_id": "a1"}
    write(tmp_path, "qasper", row)
    write(tmp_path, "trec", {**row, "all_classes": ["Anna", "Bob"], "dataset": "trec_e"})
    write(tmp_path, "mine", {**row, "all_classes": None})
    samples = {s.turns[0].task: s for s in qa.make(replace(SMALL, data=tmp_path), Letters())}
    assert {name: s.turns[0].metric for name, s in samples.items()} == {
        "qasper": "f1",
        "trec": "classification",
        "mine": "f1",
    }
    assert samples["trec"].raw
    assert samples["trec"].turns[0].classes == ("Anna", "Bob")
    assert samples["qasper"].turns[0].answers == ("Anna", "Ann")
    assert samples["qasper"].turns[0].question == "Who?"
    assert "Who?" not in samples["qasper"].document
    only = qa.make(replace(SMALL, data=tmp_path, tasks=("mine",)), Letters())
    assert [s.name for s in only] == ["qa/mine/a1"]


def test_prompts_of_longbench_are_taken_if_they_are_there(tmp_path: Path) -> None:
    write(tmp_path, "qasper", {"context": "text", "input": "Who?", "answers": ["x"]})
    (tmp_path / "dataset2prompt.json").write_text(json.dumps({"qasper": "READ {context} ASK {input}"}))
    assert qa.make(replace(SMALL, data=tmp_path), Letters())[0].document == "READ text ASK Who?"


def test_a_long_prompt_loses_its_middle(tmp_path: Path) -> None:
    context = " ".join(map(str, range(5000)))
    path = write(tmp_path, "lcc", {"context": context, "input": "", "answers": ["x"]})
    text = qa.make(replace(SMALL, data=path), Letters())[0].document
    assert text.startswith("0 1 2")
    assert text.endswith("4998 4999")
    assert 700 <= Letters().count(text) <= 900


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 of 'x.jsonl' is not JSON"),
        ("[]", "lacks a text `context` or a list `answers`"),
        ('{"context": "a", "answers": []}', "lacks a text"),
        ('{"context": "a", "answers": "b"}', "lacks a text"),
        ("", "no rows of any set"),
    ],
)
def test_bad_rows(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(line + "\n")
    with pytest.raises(CompressKVError, match=message):
        longbench.make(replace(SMALL, data=tmp_path), Letters())


def test_gzipped_rows_and_halves_of_them(tmp_path: Path) -> None:
    rows = [{"context": f"{i} " * 40, "input": "Who?", "answers": ["x"]} for i in range(5)]
    path = tmp_path / "nq.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    names = {
        half: [s.name for s in qa.make(replace(SMALL, data=data, rows=half), Letters())]
        for half, data in (("all", tmp_path), ("even", path), ("odd", path))
    }
    assert names["even"] == ["qa/nq/1", "qa/nq/3", "qa/nq/5"]  # lines; rows 0, 2 and 4
    assert names["odd"] == ["qa/nq/2", "qa/nq/4"]
    assert sorted(names["all"]) == sorted(names["even"] + names["odd"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(EvaluationError, match=r"cannot read .* damaged"):
        qa.make(replace(SMALL, data=path), Letters())


def test_numbers_are_asked_over_pages_of_several_questions(tmp_path: Path) -> None:
    rows = [
        {
            "context": f"{'word ' * 900}. It began in {1900 + i}. {'word ' * 300}",
            "input": "When?",
            "answers": [1900 + i],
        }
        for i in range(3)
    ]
    write(tmp_path, "altqa", *rows)
    samples = qa.make(replace(SMALL, contexts=(2000,), data=tmp_path), Letters())
    assert len({s.document for s in samples}) == 1
    assert len({s.group for s in samples}) == 1
    for s in samples:
        assert s.turns[0].marked == (f"It began in {s.turns[0].answers[0]}.",)
        assert s.turns[0].marked[0] in s.document
        assert METRICS[s.turns[0].metric](f"It was {s.turns[0].answers[0]}!", s.turns[0]) == 1.0


def test_evidence_of_a_row_and_a_shorter_answer(tmp_path: Path) -> None:
    row = {"context": "a b c " * 900, "input": "Who?", "answers": ["x"], "evidence": ["b c a b"]}
    path = write(tmp_path, "qmsum", row)
    (sample,) = qa.make(replace(SMALL, data=path, answer_tokens=48), Letters())
    assert (sample.turns[0].marked, sample.turns[0].max_tokens) == (("b c a b",), 48)
    write(tmp_path, "qmsum", {**row, "evidence": "b"})
    with pytest.raises(EvaluationError, match="no list of texts"):
        qa.make(replace(SMALL, data=path), Letters())
    write(tmp_path, "qmsum", {**row, "evidence": [row["context"]]})
    with pytest.raises(EvaluationError, match="no row's evidence fits 900 tokens"):
        qa.make(replace(SMALL, data=path), Letters())


def test_the_same_row_twice(tmp_path: Path) -> None:
    row = {"context": "c", "answers": ["x"], "_id": "1"}
    with pytest.raises(EvaluationError, match="twice"):
        longbench.make(replace(SMALL, data=write(tmp_path, "x", row, row)), Letters())
