"""docs/results.md is what its command makes of the stored files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_evaluate_summary import SAMPLES, SUMMARY, outcome

from compresskv_edge.evaluate import figures, results
from compresskv_edge.evaluate.summary import summarise

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "results.md").read_text(encoding="utf-8") == results.render(DOCS / "results"), results.__doc__


def test_figures_are_those_of_the_stored_files() -> None:
    """By the digest of what they were drawn from: another matplotlib draws other pixels."""
    pytest.importorskip("PIL")
    page, models = (DOCS / "results.md").read_text(encoding="utf-8"), results._by_model(results._stored(RESULTS))
    expected = {}
    for model, runs in models.items():
        expected |= {f"{results._stem(model)}-{end}.png": figures.digest(runs) for end in ("budget", "bytes")}
        expected[f"{results._stem(model)}-heat.png"] = figures.digest([run for run in runs if run["suite"] == "niah"])
    found = {file.name: file for file in RESULTS.glob("*.png")}
    assert {name: figures.source(file) for name, file in found.items()} == expected, results.__doc__
    for name, file in found.items():
        assert f"(results/{name})" in page
        assert file.stat().st_size < 60_000


def test_every_stored_file_is_linked() -> None:
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    for file in RESULTS.rglob("*.json"):
        assert f"({file.relative_to(DOCS)})" in page


def test_stored_runs_are_whole() -> None:
    """The table of each run is of one set of prompts and has the full cache."""
    for file in RESULTS.rglob("*.json"):
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
    assert "| compresskv | 4.5 % |" in page  # 86 % of full at 3 %, all of it at 12 %: 90 % lies between
    assert "| snapkv | over 12 % |" in page
    assert "| compresskv | 12 % | 12 % |" in page  # 6 of 7 at 3 % is less than 90 %
    assert "| snapkv | none | none |" in page
    assert "| snapkv | -0.38 (" in page


def test_half_of_the_tokens_is_compared_in_score_and_bytes(tmp_path: Path) -> None:
    outcomes = [
        outcome(i, policy, budget, float(i < right))
        for policy, budget, right in (("compresskv", 0.06, 4), ("edge", 0.03, 5), ("edge", 0.06, 8))
        for i in range(8)
    ]
    data = {**SECTION, **summarise(outcomes, SAMPLES)}
    (tmp_path / "run.json").write_text(json.dumps(data))
    page = results.render(tmp_path)
    assert "| suite | 3 % for 6 % |" in page
    assert "| niah | +0.12 (" in page
    assert "; 0.50 |" in page


def test_ablations_show_differences_only(tmp_path: Path) -> None:
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "niah-m.json").write_text(json.dumps(SECTION))
    page = results.render(tmp_path)
    section = page[page.index("## compresskv, part by part: m.gguf") :]
    assert "[niah](results/ablation/niah-m.json), 8 prompts of 512, 1024 tokens, seed 1" in section
    assert "| compresskv | 0.75 (" in section
    assert "| snapkv | -0.38 (" in section
    assert "at a glance" not in page


def test_what_people_wrote_comes_first(tmp_path: Path) -> None:
    (tmp_path / "summary.txt").write_text("It works.\n")
    assert results.render(tmp_path).startswith("# Results\n\nIt works.\n\nMade by")


def test_figures_are_drawn_beside_the_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "run.json").write_text(json.dumps(SECTION))
    names = [path.name for path in results.draw(tmp_path)]
    assert names == ["figure-m-budget.png", "figure-m-bytes.png", "figure-m-heat.png"]
    page = results.render(tmp_path)
    assert all(f"(results/{name})" in page for name in names)


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ({0.03: 0.8, 0.12: 1.0}, "6.0 %"),  # half way, in logarithms
        ({0.03: 0.95, 0.12: 1.0}, "under 3 %"),
        ({0.03: 0.5, 0.12: 0.8}, "over 12 %"),
        ({0.03: 0.95, 0.06: 0.8, 0.12: 1.0}, "8.5 %"),  # where it falls first, from above
        ({64: 0.8, 256: 1.0}, "128"),
        ({0.12: None}, ""),
    ],
)
def test_the_budget_below_which_a_policy_falls(shares: dict[float, float], text: str) -> None:
    rows = [{"policy": "p", "budget": b, "of_full": None if s is None else [s, s, s]} for b, s in shares.items()]
    assert results._crossing(rows, "p", 0.9) == text


def test_a_file_of_another_kind_is_linked(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    assert "[other.json](results/other.json)" in results.render(tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").write_text(json.dumps(SECTION))
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["results", str(tmp_path), str(page)])
    results.main()
    assert page.read_text() == results.render(tmp_path)
