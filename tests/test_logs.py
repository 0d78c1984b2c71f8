"""What is said beside results: how much, where, and by whom."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compresskv_edge.apps.cli import options
from compresskv_edge.engine import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("compresskv_edge", "llama.cpp", "pypdf")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    with warnings.catch_warnings():
        yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.parametrize(
    ("verbose", "quiet", "expected"),
    [
        (0, False, {"warning"}),
        (1, False, {"warning", "info"}),
        (2, False, {"warning", "info", "debug"}),
        (0, True, set()),
    ],
)
def test_how_much_is_said(verbose: int, quiet: bool, expected: set[str], capsys: Any) -> None:
    logs.configure(verbose, quiet=quiet)
    log = logging.getLogger("compresskv_edge.somewhere")
    for level in ("debug", "info", "warning"):
        getattr(log, level)(f"this is {level}")
    assert {line.split()[-1] for line in capsys.readouterr().err.splitlines()} == expected
    assert logs.is_quiet() == quiet


def test_configuring_twice_says_things_once(capsys: Any) -> None:
    logs.configure()
    logs.configure()
    logging.getLogger("compresskv_edge").warning("once")
    assert capsys.readouterr().err == "compresskv: once\n"


def test_warnings_are_one_line(capsys: Any) -> None:
    logs.configure()
    warnings.warn("the profile is old", stacklevel=1)
    assert capsys.readouterr().err == "compresskv: the profile is old\n"


def test_pieces_become_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "llama.cpp")
    lines = logs._Lines()
    for level, text in ((2, "load: "), (5, "40 layers\n"), (5, "....\n"), (4, "no memory\nat all\n")):
        lines.take(level, text)
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("DEBUG", "load: 40 layers"), ("ERROR", "no memory"), ("ERROR", "at all"),
    ]  # fmt: skip


@pytest.mark.parametrize(("flags", "said"), [([], ""), (["-v"], ""), (["-vv"], "llama.cpp: llama_model_loader")])
def test_llama_cpp_speaks_only_when_asked(flags: list[str], said: str, tiny_gguf: Any) -> None:
    command = ["bench", str(tiny_gguf("qwen2")), "--prompt-tokens=100", "--budget=32", "--tail=32", "--decode-tokens=2"]
    more = ["--repeats=1", "--threads=1"]
    run = [sys.executable, "-m", "compresskv_edge", *flags, *command, *more]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert said in done.stderr if said else done.stderr == ""


def test_quiet_silences_progress(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes anything for a terminal
    for quiet in (False, True):
        logs.configure(quiet=quiet)
        with options.progress(2) as step:
            step("half")
        assert bool(capsys.readouterr().err) is not quiet


def test_a_broken_pdf_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.pdf").write_bytes(b"no PDF")
    command = [sys.executable, "-m", "compresskv_edge", "chat", "demo", "--file", str(tmp_path / "broken.pdf")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is no PDF that pypdf can read" in done.stderr
