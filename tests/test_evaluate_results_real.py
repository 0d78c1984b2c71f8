"""Real models lead the page; what is stored of a run is its table and what every prompt came to, and both agree."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from test_evaluate_results import SECTION
from test_evaluate_summary import RIGHT, SAMPLES, outcome

from compresskv_edge.evaluate import results, results_real
from compresskv_edge.evaluate.summary import summarise

REAL = Path(__file__).parents[1] / "docs" / "results" / "real"


def run(**settings: Any) -> dict[str, Any]:
    outcomes = [
        outcome(i, policy, budget if policy == "full" else int(1000 * budget), float(right[i]), agreement=1.0, kl=0.25)
        for (policy, budget), right in RIGHT.items()
        for i in range(8)
    ]
    made = {**SECTION["settings"], "haystack": "novels", "contexts": [2048], **settings}
    profile = {**SECTION["profile"], "hash": "abcd"}
    return {**SECTION, "profile": profile, "settings": made, "base": "compresskv", **summarise(outcomes, SAMPLES)}


def test_real_models_lead(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "needles-m.json").write_text(json.dumps(run()))
    (tmp_path / "real" / "summary.txt").write_text("It fails at this.\n")
    (tmp_path / "niah.json").write_text(json.dumps({**SECTION, "model": {"file": "ours.gguf", "name": "ours"}}))
    (tmp_path / "summary.txt").write_text("Ours are small.\n")
    page = results.render(tmp_path)
    order = ["# Results\n\nIt fails at this.\n\nMade by", "## m.gguf", "## Appendix", "Ours are small.", "## ours.gguf"]
    assert sorted(order, key=page.index) == order
    assert "### needles in novels, 2048 tokens: m.gguf" in page
    assert "[needles-m.json](results/real/needles-m.json)" in page
    assert "(results/real/needles-m.prompts.jsonl.gz): 8 prompts, tasks code" in page
    assert "seed 1; profile abcd, 4 heads a layer" in page
    assert "| policy | needles in novels, 2048 tokens (n = 8) |" in page
    assert "| snapkv | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |" in page  # agreement at 30 and 120
    assert "| compresskv | 0.250 (0.250 to 0.250) |" in page


def test_titles() -> None:
    asked = {**run(data="altqa.jsonl.gz"), "suite": "qa"}
    assert results_real.title(asked) == "altqa, 2048 tokens"


def tables() -> list[Path]:
    return sorted(REAL.glob("*.json"))


@pytest.mark.parametrize("table", tables(), ids=lambda path: path.stem)
def test_tables_are_those_of_the_prompts(table: Path) -> None:
    data = json.loads(table.read_text(encoding="utf-8"))
    lines = gzip.decompress(table.with_suffix(".prompts.jsonl.gz").read_bytes()).decode().splitlines()
    prompts = [json.loads(line) for line in lines]
    cells = {(row["policy"], row["budget"]) for row in data["rows"]}
    found: dict[str, set[tuple[str, Any]]] = {}
    for sample, policy, budget, *_ in prompts:
        found.setdefault(sample, set()).add((policy, budget))
    whole = {sample for sample, its in found.items() if its >= cells}
    assert len(whole) == data["n_prompts"]
    for row in data["rows"]:
        mine = [p for p in prompts if p[0] in whole and (p[1], p[2]) == (row["policy"], row["budget"])]
        assert row["n"] == len(mine)
        assert row["score"] == pytest.approx(fmean(p[3] for p in mine), abs=1e-3)
        for measure in mine[0][5]:
            assert row[measure] == pytest.approx(fmean(p[5][measure] for p in mine), abs=1e-3)


def test_figures_of_the_text_are_in_a_table() -> None:
    """Shares and divergences that people wrote, as the tables of this folder show them."""
    text = REAL / "summary.txt"
    shown = "\n".join(results_real.sections({path.name: json.loads(path.read_text()) for path in tables()}))
    figures = re.findall(r"(?<![\d.])\.\d{2,3}\b", text.read_text(encoding="utf-8"))
    assert figures
    assert {figure for figure in figures if f"0{figure}" not in shown} == set()
