"""`compresskv pull`, and the offer to do so, with a catalogue of one tiny model in a folder of packages."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import stand_in_hub
import stand_in_index as stand_in
from typer.testing import CliRunner

from compresskv_edge.apps import cli
from compresskv_edge.apps.cli import pull
from compresskv_edge.model import catalogue

TERMS = "Be good with it."


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The model's packages, and an empty store at tmp_path / "models"."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path)
    monkeypatch.setattr(catalogue, "CATALOGUE", (stand_in.model(n_parts=1),))
    stand_in_hub.leave_out(monkeypatch)
    folder = stand_in.use(monkeypatch, tmp_path / "index")
    stand_in.add_all(folder, n_parts=1)
    return folder


@pytest.fixture
def terms(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has terms of its own."""
    monkeypatch.setattr(catalogue, "CATALOGUE", (stand_in.model(terms=TERMS, n_parts=1),))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits in front of it."""
    monkeypatch.setattr(pull, "_is_asked", lambda: True)


def compresskv(*args: str, typed: str = "") -> Any:
    separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}  # Python 3.9
    return CliRunner(**separate).invoke(cli.app, args, input=typed, prog_name="compresskv", env={"COLUMNS": "200"})


def test_the_path_goes_to_stdout(packages: Path, tmp_path: Path) -> None:
    result = compresskv("pull", "tiny")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'models' / 'tiny.gguf'}\n"
    assert result.stderr == ""
    assert (tmp_path / "models" / "tiny.gguf").read_bytes() == stand_in.BYTES


def test_the_list_says_what_is_here(packages: Path, tmp_path: Path) -> None:
    lines = compresskv("pull").stdout.splitlines()
    assert [line.split() for line in lines if "tiny" in line] == [["tiny", "0", "MB", "no", "MIT", "a", "test"]]
    assert lines[-1] == f"in {tmp_path / 'models'}"
    compresskv("pull", "tiny")
    assert " yes " in compresskv("pull").stdout


def test_a_wrong_name(packages: Path) -> None:
    result = compresskv("pull", "tinny")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "compresskv: there is no model 'tinny' in the catalogue: did you mean 'tiny'?\n"


def test_terms_where_nobody_can_be_asked(terms: None, tmp_path: Path) -> None:
    result = compresskv("pull", "tiny", typed="y\n")  # of a pipe
    assert result.exit_code == 1
    assert result.stderr.startswith(TERMS)
    assert '"compresskv pull tiny --accept-terms"' in result.stderr
    assert not list((tmp_path / "models").glob("*.gguf"))


def test_terms_with_the_flag_are_shown_and_accepted(terms: None) -> None:
    result = compresskv("pull", "tiny", "--accept-terms")
    assert result.exit_code == 0
    assert result.stderr == f"{TERMS}\n"
    assert compresskv("pull", "tiny").stderr == ""  # it is here: said before the first download only


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_terms_at_a_terminal(terms: None, terminal: None, typed: str, status: int) -> None:
    result = compresskv("pull", "tiny", typed=typed)
    assert result.exit_code == status
    assert "Do you accept them?" in result.stderr


@pytest.mark.parametrize("command", [["chat", "tiny", "--ask", "Why?"], ["serve", "tiny", "--port", "0"]])
def test_chat_and_serve_offer_to_fetch(packages: Path, terminal: None, tmp_path: Path, command: list[str]) -> None:
    result = compresskv(*command, typed="n\n")
    assert "tiny is not on this machine. Fetch it now (0 MB)?" in result.stderr
    assert 'run "compresskv pull tiny"' in result.stderr
    assert result.exit_code == 1

    result = compresskv(*command, typed="y\n")
    assert (tmp_path / "models" / "tiny.gguf").is_file()
    assert "tiny.gguf" in result.stderr  # which is no model, so that it is not loaded
    assert result.exit_code == 1


def test_nobody_is_asked_in_a_script(packages: Path) -> None:
    result = compresskv("chat", "tiny", "--ask", "Why?", typed="y\n")
    assert result.stderr == ('compresskv: tiny is not on this machine: run "compresskv pull tiny" (0 MB, MIT)\n')


@pytest.mark.parametrize(
    "command",
    [
        ["bench", "tiny"],
        ["calibrate", "tiny", "-o", "profile.json"],
        ["doctor", "tiny"],
        ["eval", "niah", "tiny"],
        ["plan", "tiny"],
        ["profile", "validate", "demo", "--model", "tiny"],
    ],
    ids=lambda command: command[0],
)
def test_commands_take_a_name(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert 'run "compresskv pull tiny"' in compresskv(*command).stderr
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").write_bytes(stand_in.BYTES)  # no model, but a file of that size
    said = compresskv(*command)
    assert "cannot read the GGUF header of" in said.stderr + said.stdout
    assert "models/tiny.gguf" in said.stderr + said.stdout
