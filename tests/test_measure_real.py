"""The runner for real models: what it asks `compresskv eval` for, and what it stores of a run."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import measure_real


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    found: list[list[str]] = []
    monkeypatch.setattr(measure_real.subprocess, "run", lambda command, **_: found.append(command))
    monkeypatch.setattr(measure_real, "store", lambda *_: None)
    monkeypatch.setattr(measure_real.Path, "glob", lambda *_: iter([Path("x")]))
    return found


def test_halves_share_no_prompts(calls: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    for half, seed, rows in (("report", "2", "odd"), ("tune", "1", "even")):
        calls.clear()
        monkeypatch.setattr(sys, "argv", ["measure_real", "data", "--half", half, "--only", "2048-qwen"])
        measure_real.main()
        assert all(call[call.index("--seed") + 1] == seed for call in calls)
        asked = [call for call in calls if "qa" in call]
        assert asked and all(call[call.index("--rows") + 1] == rows for call in asked)  # noqa: PT018
        assert {half in call[call.index("--out") + 1] for call in calls} == {True}


def test_a_part_and_other_profiles(calls: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "measure_real",
        "data",
        "--only",
        "needles-4096",
        "--limit",
        "7",
        "--profiles",
        "own",
        "--policies",
        "h2o",
        "--budgets",
        "64",
    ]
    monkeypatch.setattr(sys, "argv", words)
    measure_real.main()
    assert len(calls) == 2
    for call in calls:
        assert call[call.index("--limit") + 1] == "7"
        assert call[call.index("--profile") + 1] == str(Path("own", f"{measure_real.QWEN}.json"))
        assert call[call.index("--policies") + 1] == "h2o"
        assert call[call.index("--budgets") + 1] == "64"
        assert call[call.index("--haystack") + 1] == "data"


def test_a_name_that_is_no_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_real", "data", "--only", "nothing"])
    with pytest.raises(SystemExit):
        measure_real.main()
    assert "no run is named 'nothing': there are altqa-2048" in capsys.readouterr().err


def test_what_is_stored_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_real, "RESULTS", tmp_path / "real")
    table, journal = tmp_path / "t.json", tmp_path / "t.jsonl"
    table.write_text(json.dumps({"rows": [], "heat": {}, "by_task": []}))
    score: dict[str, Any] = {"score": 1.0, "answer": "long text", "extra": {"kl": 0.123456}}
    outcome = {"sample": "s", "policy": "full", "budget": 1.0, "n_kept": 9.0, "scores": [score], "held": [1.0]}
    journal.write_text(json.dumps({"suite": "niah"}) + "\n" + json.dumps(outcome) + "\n")
    measure_real.store(table, journal, "run")
    assert json.loads((tmp_path / "real" / "run.json").read_text()) == {"rows": []}
    stored = (tmp_path / "real" / "run.prompts.jsonl.gz").read_bytes()
    assert gzip.decompress(stored) == b'["s","full",1.0,1.0,9.0,{"kl":0.1235}]\n'
    measure_real.store(table, journal, "run")
    assert (tmp_path / "real" / "run.prompts.jsonl.gz").read_bytes() == stored
