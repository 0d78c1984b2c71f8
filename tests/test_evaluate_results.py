"""docs/results.md is what its command makes of the stored files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_evaluate_summary import SUMMARY

from compresskv_edge.evaluate import results

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "results.md").read_text(encoding="utf-8") == results.render(DOCS / "results"), results.__doc__


def test_every_stored_file_is_linked() -> None:
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    for file in (DOCS / "results").glob("*.json"):
        assert f"(results/{file.name})" in page


def test_stored_runs_are_whole() -> None:
    """The table of each run is of one set of prompts and has the full cache."""
    for file in (DOCS / "results").glob("*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        if "suite" in data:
            assert {row["n"] for row in data["rows"]} == {data["n_prompts"]}, file.name
            assert data["rows"][0]["policy"] == "full"


SECTION = {
    **SUMMARY,
    "model": {"file": "m.gguf", "name": "m"},
    "settings": {"contexts": [512, 1024], "tasks": ["code"], "form": "PlainForm", "tail": 128, "seed": 1},
    "profile": {"calibrated": True, "n_heads": 4},
    "machine": {"cpu": "a CPU", "compresskv_edge": "0.1.0"},
}


def test_a_run_becomes_a_section(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(SECTION))
    page = results.render(tmp_path)
    assert "## niah: m.gguf" in page
    assert "| snapkv | 0.38 (" in page
    assert "| compresskv | 12 % | 12 % |" in page  # 6 of 7 at 3 % is less than 90 %
    assert "| snapkv | none | none |" in page
    assert "| snapkv | -0.38 (" in page


def test_a_file_of_another_kind_is_linked(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    assert "[other.json](results/other.json)" in results.render(tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").write_text(json.dumps(SECTION))
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["results", str(tmp_path), str(page)])
    results.main()
    assert page.read_text() == results.render(tmp_path)
