"""From outcomes to tables: means, intervals, splits, and nothing but prompts that every policy has answered."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from rich.console import Console

from compresskv_edge.evaluate import report
from compresskv_edge.evaluate.outcome import Outcome, Score
from compresskv_edge.evaluate.sample import Sample
from compresskv_edge.evaluate.summary import double, summarise, to_json, weak_tasks

HEADER = {"suite": "niah", "model": {"file": "m.gguf"}}
# right answers to eight prompts
RIGHT = {
    ("full", 1.0): "11111110",
    ("compresskv", 0.03): "11111100",
    ("snapkv", 0.03): "11100000",
    ("compresskv", 0.12): "11111110",
    ("snapkv", 0.12): "11111100",
}


BUDGETS = (0.007, 0.015, 0.03)


def outcome(i: int, policy: str, budget: float, score: float, **extra: float) -> Outcome:
    scores = (Score("code" if i % 2 else "pet", score, True, "x", extra),)
    return Outcome(f"s{i}", policy, budget, scores, 1000, 1000 * budget, int(4096 * budget), 50.0, 1.0 + i, 0.5)


SAMPLES = [Sample(f"s{i}", "", (), split={"context": 512 * (1 + i // 4), "depth": (i % 4) / 3}) for i in range(8)]
OUTCOMES = [outcome(i, *cell, float(right[i])) for cell, right in RIGHT.items() for i in range(8)]
SUMMARY: dict[str, Any] = {**HEADER, **summarise(OUTCOMES, SAMPLES)}
ROWS = {(row["policy"], row["budget"]): row for row in SUMMARY["rows"]}


def test_scores_and_costs() -> None:
    row = ROWS["snapkv", 0.03]
    assert (row["n"], row["score"], row["kv_bytes"], row["n_kept"]) == (8, 0.375, 122, 30.0)
    assert (row["prefill_ms"], row["evict_ms"], row["decode_ms"]) == (50.0, 4.5, 0.5)  # medians
    assert row["low"] < 0.375 < row["high"]


def test_comparisons() -> None:
    assert ROWS["snapkv", 0.03]["of_full"][0] == pytest.approx(3 / 7, abs=1e-4)
    assert ROWS["full", 1.0]["of_full"] == [1.0, 1.0, 1.0]
    difference, low, high = ROWS["snapkv", 0.03]["versus_base"]
    assert difference == -0.375
    assert low < difference < high <= 0.0
    assert ROWS["compresskv", 0.03]["versus_base"] is None


def test_half_of_the_tokens() -> None:
    cells = {(policy, b): right for policy, right in (("compresskv", "1100"), ("edge", "1110")) for b in BUDGETS}
    outcomes = [outcome(i, *cell, float(right[i])) for cell, right in cells.items() for i in range(4)]
    rows = {(row["policy"], row["budget"]): row for row in summarise(outcomes, SAMPLES)["rows"]}
    assert rows["edge", 0.007]["versus_double"][0] == 0.25  # 1.5 % is the next one above 1.4
    assert rows["edge", 0.03]["versus_double"] is None
    assert rows["compresskv", 0.007]["versus_double"] is None
    assert double(0.015, (0.007, 0.03, 0.06)) == 0.03
    assert double(100, ()) is None


def test_another_policy_to_compare_with() -> None:
    rows = {(row["policy"], row["budget"]): row for row in summarise(OUTCOMES, SAMPLES, "snapkv")["rows"]}
    assert rows["compresskv", 0.03]["versus_base"][0] == 0.375
    assert rows["snapkv", 0.03]["versus_base"] is None


def test_splits() -> None:
    tasks = {(row["policy"], row["budget"], row["task"]): row["score"] for row in SUMMARY["by_task"]}
    assert (tasks["compresskv", 0.03, "pet"], tasks["compresskv", 0.03, "code"]) == (0.75, 0.75)
    contexts = {(row["policy"], row["budget"], row["context"]): row["score"] for row in SUMMARY["by_context"]}
    assert (contexts["snapkv", 0.03, 512], contexts["snapkv", 0.03, 1024]) == (0.75, 0.0)
    heat = SUMMARY["heat"]
    assert (heat["contexts"], heat["depths"]) == ([512, 1024], [0.0, 1 / 3, 2 / 3, 1.0])
    assert len(heat["cells"]) == len(RIGHT)
    assert heat["cells"][2]["scores"] == [[1, 0], [1, 0], [1, 0], [0, 0]]  # snapkv, 3 %


def test_json_comes_back_and_has_a_line_for_each_row() -> None:
    text = to_json(SUMMARY)
    assert json.loads(text) == SUMMARY
    assert sum(line.startswith('  {"policy"') for line in text.splitlines()) >= len(ROWS)


def test_prompts_that_some_policy_has_not_answered_do_not_count() -> None:
    summary = summarise(OUTCOMES[:-1], SAMPLES)
    assert summary["n_prompts"] == 7
    assert {row["n"] for row in summary["rows"]} == {7}


def test_turns_that_do_not_count_are_shown_by_task_only() -> None:
    scores = (Score("question 1", 1.0, False), Score("question 2", 0.0, True), Score("question 3", 1.0, True))
    one = Outcome("s0", "full", 1.0, scores, 10, 10.0, 1, 1.0, 1.0, 1.0)
    summary = summarise([one], SAMPLES[:1])
    assert summary["rows"][0]["score"] == 0.5
    assert [row["score"] for row in summary["by_task"]] == [1.0, 0.0, 1.0]


def test_a_full_cache_that_answers_nothing() -> None:
    summary = summarise([outcome(i, *cell, 0.0) for cell in RIGHT for i in range(4)], SAMPLES)
    assert all(row["of_full"] is None for row in summary["rows"])
    assert weak_tasks(summary) == ["pet", "code"]
    assert weak_tasks(SUMMARY) == []
    assert len(report.markdown(summary).splitlines()) == 2 + len(RIGHT)


def test_extra_measures_are_averaged() -> None:
    summary = summarise([outcome(i, "full", 1.0, 1.0, kl=0.1 * i) for i in range(3)], SAMPLES)
    assert summary["rows"][0]["kl"] == pytest.approx(0.1)
    assert report.cells(summary)[0][-1] == "kl"


def test_tables() -> None:
    lines = report.markdown(SUMMARY).splitlines()
    assert lines[0].startswith("| policy | budget | score | % of full | - compresskv | KV KiB |")
    snapkv = next(line for line in lines if line.startswith("| snapkv | 3 %"))
    score, of_full, difference = (cell.strip() for cell in snapkv.split("|")[3:6])
    assert re.fullmatch(r"0\.38 \(0\.\d\d to 0\.\d\d\)", score)
    assert re.fullmatch(r"43 \(\d+ to \d+\)", of_full)
    assert re.fullmatch(r"-0\.38 \(-0\.\d\d to [-+]0\.\d\d\)", difference)
    assert report.matrix(SUMMARY["rows"]).splitlines()[0] == "| policy | 3 % | 12 % |"
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table(SUMMARY))
    text = console.export_text()
    assert "niah, m.gguf, 8 prompts" in text
    assert text.count("compresskv") == 3  # its two rows and the column of differences
    assert "0.38 (0." in text


def test_titles() -> None:
    assert report.title({**HEADER, "suite": "multi_turn", "n_prompts": 1}) == "multi-turn, m.gguf, 1 prompt"


@pytest.mark.parametrize("extra", [{}, {"kl": 0.25}])
def test_a_narrow_terminal_gets_all_that_matters(extra: dict[str, float]) -> None:
    """Nothing is cut off; differences and the time of evicting are in the files."""
    rows = [{**row, **extra, "kv_bytes": 12345678, "prefill_ms": 98765.4} for row in SUMMARY["rows"]]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table({**SUMMARY, "rows": rows}))
    text = console.export_text()
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= 80
    for shown in ("compresskv", "0.38 (0.", "12056", "98765", "0.50", *(["0.2500"] if extra else ["43 ("])):
        assert shown in text
    assert "- compresskv" not in text


@pytest.mark.parametrize(("width", "shown"), [(80, 0), (130, 1), (220, 2)])
def test_measures_beside_the_score_are_for_wide_terminals(width: int, shown: int) -> None:
    extra = {"agreement": 0.5, "kl": 0.25, "evidence": 0.4, "evidence_any": 0.9}
    rows = [{**row, **extra} for row in SUMMARY["rows"]]
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table({**SUMMARY, "rows": rows}))
    text = console.export_text()
    assert [name in text for name in ("- compresskv", "evidence_any")] == [shown >= 1, shown >= 2]
    assert "\u2026" not in text


@pytest.mark.parametrize(("budget", "text"), [(0.007, "0.7 %"), (0.12, "12 %"), (1.0, "100 %"), (256, "256")])
def test_percent(budget: float, text: str) -> None:
    assert report.percent(budget) == text
