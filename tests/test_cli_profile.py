from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from compresskv_edge import Profile
from compresskv_edge.apps import cli
from compresskv_edge.apps.cli import profile as cli_profile
from compresskv_edge.calibration import runner

app = typer.Typer(cls=cli._Group)
cli_profile.register(app)

FAST = ["--documents", "2", "--max-tokens", "320", "--threads", "1"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_calibrate_writes_a_profile(demo_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "demo.json"
    result = call("calibrate", demo_model, "-o", out, *FAST)
    assert result.exit_code == 0, result.output
    assert "needles found" in result.output
    assert [file.name for file in out.parent.iterdir()] == ["demo.json"]
    assert Profile.load(out).calibration is not None
    again = call("calibrate", demo_model, "-o", tmp_path / "again.json", *FAST)
    assert again.exit_code == 0
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes()


def test_a_model_that_never_finds_the_needle(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    result = call("calibrate", tiny_gguf("qwen2"), "-o", out, *FAST)
    assert result.exit_code == 1
    assert "uncalibrated heads" in result.output
    assert re.search(r"found the needle in 0 of \d+ prompts", result.output)
    assert not Profile.load(out).calibration.heads_calibrated
    assert call("calibrate", tiny_gguf("qwen2"), "-o", out, *FAST, "--allow-uncalibrated").exit_code == 0


def test_ctrl_c_leaves_a_state(demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo.json"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner.Runner, "_add_errors", interrupt)
        result = call("calibrate", demo_model, "-o", out, *FAST)
    assert result.exit_code == 130
    assert "the same command goes on" in result.output
    assert [file.name for file in tmp_path.iterdir()] == [".demo.state.npz"]
    read, measure = [], runner.Runner._measure
    monkeypatch.setattr(runner.Runner, "_measure", lambda self, i: (read.append(i), measure(self, i)))
    assert call("calibrate", demo_model, "-o", out, *FAST).exit_code == 0
    assert read == [2], "the document that ranks the heads is in the state, the one beside the plan is not needed"
    assert [file.name for file in tmp_path.iterdir()] == ["demo.json"]


def test_text_and_needles_of_the_user(demo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("Nothing else was changed. The rest of it is dull. " * 60)
    needle = {
        "sentence": "The secret code of the amber lantern is 4821.",
        "question": "Which code opens the amber lantern?",
        "answer": "4821",
    }
    (tmp_path / "n.json").write_text(json.dumps([needle]))
    out = tmp_path / "m.json"
    own = ["--text", tmp_path / "books", "--needles", tmp_path / "n.json", "--allow-uncalibrated"]
    result = call("calibrate", demo_model, "-o", out, *FAST, *own)
    assert result.exit_code == 0, result.output
    assert "haystacks 'books', needles 'n'" in Profile.load(out).provenance.text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "x.txt"], 2, "does not end in .json"),
        (["-o", "x.json", "--needles", "nowhere.json"], 1, "compresskv: cannot read 'nowhere.json'"),
        (["-o", "x.json", "--max-tokens", "9999"], 1, "use 8192 or less"),
        ([], 2, "--output"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], code: int, message: str, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("calibrate", demo_model, *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.output.split())


def test_show_names_heads_errors_and_budgets() -> None:
    result = call("profile", "show", "llama-3.1-8b-instruct", "--budget", "256")
    profile = Profile.load("llama-3.1-8b-instruct")
    assert result.exit_code == 0, result.output
    rows = [line.split("│") for line in result.output.splitlines() if "│" in line]
    assert [int(row[-2]) for row in rows] == profile.budgets(256)
    assert " ".join(map(str, profile.heads_ranked[3][:4])) in result.output
    assert "LongBench" in result.output


def test_show_a_fraction_of_a_prompt(tmp_path: Path, demo_model: Path) -> None:
    result = call("profile", "show", "demo", "--budget", "0.1", "--tokens", "2000")
    assert "budget: 200 tokens a layer on average (0.1 of a prompt of 2000 tokens)" in result.output
    assert call("profile", "show", "demo", "--budget", "many").exit_code == 2
    assert call("profile", "show", "demo", "--budget", "4").exit_code == 1


def test_show_scores_with_their_spread(demo_model: Path, tmp_path: Path) -> None:
    call("calibrate", demo_model, "-o", tmp_path / "m.json", *FAST)
    result = call("profile", "show", tmp_path / "m.json")
    assert "±" in result.output
    assert "classic" in result.output
    assert "sha256:" in result.output


def test_validate(demo_model: Path, tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    result = call("profile", "validate", "demo", "--model", demo_model)
    assert (result.exit_code, "valid, fits" in result.output) == (0, True)
    result = call("profile", "validate", "demo", "--model", tiny_gguf("qwen2"))
    assert (result.exit_code, "does not fit" in result.output) == (1, True)
    (tmp_path / "bad.json").write_text("{}")
    assert call("profile", "validate", tmp_path / "bad.json").exit_code == 1
    call("calibrate", demo_model, "-o", tmp_path / "m.json", *FAST)
    result = call("profile", "validate", tmp_path / "m.json", "--model", demo_model)
    assert "the file that it was measured on" in result.output


def test_plot_wants_a_png() -> None:
    assert call("profile", "plot", "demo", "-o", "x.pdf").exit_code == 2
