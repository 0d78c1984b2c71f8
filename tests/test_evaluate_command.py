"""`compresskv eval` writes what it shows, goes on where it was stopped, and says what is wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import rich.console
from rich.console import Console
from typer.testing import CliRunner, Result

from compresskv_edge.apps.cli import app
from compresskv_edge.apps.cli import eval as command
from compresskv_edge.evaluate import form, suite_run
from compresskv_edge.evaluate.grid import Step


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, args)])


SHORT = ("--contexts", 300, "--depths", 2, "--policies", "compresskv,streaming_llm", "--budgets", "0.12,48")


def test_its_choices_are_those_of_the_modules() -> None:
    assert tuple(name.replace("-", "_") for name in command._SUITES) == suite_run.SUITES
    assert command._FORMS == form.FORMS
    assert tuple(map(float, command._BUDGETS.split(","))) == suite_run.BUDGETS
    suite_run.check(command._POLICIES.split(","), suite_run.BUDGETS)


def test_it_writes_what_it_shows(demo_model: Path, tmp_path: Path) -> None:
    args = ("niah", demo_model, *SHORT, "--profile", "demo", "--out", tmp_path / "new", "--plot")
    result = run(*args)
    assert result.exit_code == 0, result.output
    stem = "niah-demo-q8_0"
    summary = json.loads((tmp_path / "new" / f"{stem}.json").read_text())
    assert [(row["policy"], row["budget"]) for row in summary["rows"]] == [
        *(("full", 1.0), ("compresskv", 0.12), ("compresskv", 48), ("streaming_llm", 0.12), ("streaming_llm", 48))
    ]
    for row in summary["rows"]:
        assert f"{row['score']:.2f} ({row['low']:.2f} to {row['high']:.2f})" in result.output
    lines = (tmp_path / "new" / f"{stem}.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 2 * 5
    assert (tmp_path / "new" / f"{stem}-budget.png").exists()
    assert all(line.startswith("wrote ") for line in result.stderr.splitlines())  # no bar: not a terminal
    assert run(*args).exit_code == 0
    assert (tmp_path / "new" / f"{stem}.jsonl").read_text().splitlines() == lines


def test_a_base_that_is_not_measured(demo_model: Path, tmp_path: Path) -> None:
    result = run("niah", demo_model, *SHORT, "--base", "snapkv", "--out", tmp_path)
    assert result.exit_code == 2
    assert "add it to" in result.output


def test_equal_budgets_are_equal_bytes(demo_model: Path, tmp_path: Path) -> None:
    """Whatever the window of a policy."""
    short = ("--contexts", 600, "--depths", 1, "--policies", "compresskv,edge,snapkv", "--budgets", "0.05,0.12")
    assert run("niah", demo_model, *short, "--profile", "demo", "--tail", 32, "--out", tmp_path).exit_code == 0
    rows = json.loads((tmp_path / "niah-demo-q8_0.json").read_text())["rows"]
    for budget in (0.05, 0.12):
        assert len({(row["kv_bytes"], row["n_kept"]) for row in rows if row["budget"] == budget}) == 1


def test_what_llama_cpp_says_is_not_the_users(demo_model: Path, tmp_path: Path) -> None:
    short = ("--contexts", 300, "--depths", 1, "--policies", "streaming_llm", "--budgets", 0.5, "--profile", "none")
    args = ["eval", "niah", demo_model, *short, "--out"]

    def said(*words: object) -> str:
        command = [sys.executable, "-m", "compresskv_edge", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert said(*args, tmp_path / "quiet") == ""
    assert "llama.cpp: " in said("-vv", *args, tmp_path / "loud")


def test_it_goes_on_after_ctrl_c(demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compresskv_edge.evaluate.suite_run import SuiteRun

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SuiteRun, "run", stop)
    result = run("kv", demo_model, *SHORT, "--profile", "none", "--out", tmp_path)
    assert result.exit_code == 130
    assert "the same command goes on where it was" in result.output


def test_a_task_that_the_model_cannot_do_is_named(demo_model: Path, tmp_path: Path) -> None:
    result = run(
        *("kv", demo_model, *SHORT, "--tasks", "uuids", "--profile", "none", "--out", tmp_path, "--policies", "random")
    )
    assert result.exit_code == 0, result.output
    assert "the full cache hardly answers 'uuids'" in result.output


def test_rows_in_longbench_format(demo_model: Path, tmp_path: Path) -> None:
    fact = "The secret code of the amber lantern is 4817."
    rows = [
        {"context": f"{'Care is needed here. ' * n} {fact} {'Opinions differ on this point. ' * n}", "_id": n}
        for n in (5, 10)
    ]
    (tmp_path / "mine.jsonl").write_text(
        "".join(json.dumps({**row, "input": "Which code opens it?", "answers": ["4817"]}) + "\n" for row in rows)
    )
    result = run("qa", demo_model, *SHORT, "--data", tmp_path, "--profile", "none", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "qa-demo-q8_0.json").read_text())
    assert {(row["task"], row["n"]) for row in summary["by_task"]} == {("mine", 2)}
    assert summary["settings"]["data"] == tmp_path.name


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        rich.console, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100, legacy_windows=False)
    )
    with command._bar("niah") as report:
        report(Step(30, 60, "niah/1"))
    assert "niah" in screen.getvalue()
    assert "30/60" in screen.getvalue()
    assert screen.getvalue().count(":") >= 2  # elapsed and left
    shown = screen.getvalue()
    monkeypatch.setattr(command.logs, "is_quiet", lambda: True)
    with command._bar("niah") as report:
        report(Step(30, 60, "niah/1"))
    assert screen.getvalue().strip() == shown.strip()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("needles",), 2, "is not one of niah, ruler, kv, qa, multi-turn, fidelity"),
        (("niah", "--policies", "snapvk"), 1, "snapvk"),
        (("niah", "--budgets", "lots"), 2, "neither a number of tokens"),
        (("niah", "--budgets", "1.5"), 1, "1.5"),
        (("niah", "--contexts", "1k"), 2, "not a number of tokens"),
        (("niah", "--contexts", "64"), 1, "128 tokens or more"),
        (("niah", "--contexts", "300", "--tasks", "codes"), 1, "task is 'codes': use code, keep"),
    ],
)
def test_errors(args: tuple[str, ...], code: int, message: str, demo_model: Path, tmp_path: Path) -> None:
    suite, *options = args
    result = run(suite, demo_model, *options, "--out", tmp_path)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
