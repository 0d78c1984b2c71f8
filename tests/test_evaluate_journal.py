"""What a run has found survives it, whole lines only, and is not taken for another run's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compresskv_edge.errors import EvaluationError
from compresskv_edge.evaluate.journal import Journal
from compresskv_edge.evaluate.outcome import Outcome, Score

HEADER = {"suite": "niah", "settings": {"contexts": (512, 1024), "seed": 1}}
SCORES = (Score("code", 1.0, True, "48\u00e917"), Score("facts", 0.5, False, "", {"kl": 0.25}))
OUTCOME = Outcome("niah/1", "snapkv", 0.03, SCORES, 512, 15.5, 4096, 10.0, 1.5, 0.25)
OTHERS = [replace(OUTCOME, policy="h2o"), replace(OUTCOME, budget=0.06), replace(OUTCOME, sample="niah/2", budget=256)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "run.jsonl"


def test_outcomes_come_back(path: Path) -> None:
    journal = Journal(path, HEADER)
    for outcome in (OUTCOME, *OTHERS):
        journal.add(outcome)
    again = Journal(path, HEADER)
    assert again.outcomes() == [OUTCOME, *OTHERS] == journal.outcomes()
    assert ("niah/1", "snapkv", 0.03) in again
    assert ("niah/1", "snapkv", 0.06) in again
    assert ("niah/2", "snapkv", 0.06) not in again


def test_a_line_that_was_cut_off_is_dropped(path: Path) -> None:
    journal = Journal(path, HEADER)
    journal.add(OUTCOME)
    journal.add(OTHERS[0])
    text = path.read_bytes()
    for n_lost in (1, 20, len(text.splitlines()[-1])):
        path.write_bytes(text[:-n_lost])
        again = Journal(path, HEADER)
        assert again.outcomes() == [OUTCOME]
        again.add(OTHERS[0])
        assert path.read_bytes() == text


@pytest.mark.parametrize("content", ["", '{"suite": '])
def test_a_file_without_a_whole_header_starts_anew(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    Journal(path, HEADER).add(OUTCOME)
    assert Journal(path, HEADER).outcomes() == [OUTCOME]


def test_another_run(path: Path) -> None:
    Journal(path, HEADER)
    with pytest.raises(EvaluationError, match=r"another run.*'seed': 1}.*'seed': 2}.*another --out, or remove it"):
        Journal(path, {**HEADER, "settings": {"contexts": (512, 1024), "seed": 2}})


def test_a_damaged_line(path: Path) -> None:
    Journal(path, HEADER).add(OUTCOME)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "rubbish", lines[1], ""]))
    with pytest.raises(EvaluationError, match=r"line 2 of .* is damaged"):
        Journal(path, HEADER)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot write"):
        Journal(tmp_path / "file" / "run.jsonl", HEADER)
