"""Code in README and docs/ is run as it stands; commands are checked, and run where that is cheap.

A page runs in a folder of its own with `model.gguf` (the demo model) and `manual.txt`, its blocks one after the other.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from typer.main import get_command
from typer.testing import CliRunner

from compresskv_edge.apps.cli import app
from compresskv_edge.apps.server import arguments as server_arguments

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]
CHEAP = {"profile", "doctor", "plan"}  # run, the others' arguments are checked only
FOREIGN = {"pip", "git", "llm", "curl", "export"}  # commands that are not ours to check

FACT = "The secret code of the amber lantern is 4817. "
HAY = "The survey confirms the limits of the first experiment, and no further comment is made. " * 30


def check_commands(example: Any) -> None:
    """One `sh` block: a command a line."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            check(words)


def check(words: list[str]) -> None:
    """A command exists, takes these arguments, and, if it is cheap, works."""
    words = [word for i, word in enumerate(words) if not (i == 0 and "=" in word)]  # CMAKE_ARGS="..." make
    program, arguments = words[0].split("/")[-1], words[1:]
    if program == "make":
        for target in (word for word in arguments if "=" not in word):
            assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), f"no make target {target!r}"
    elif program in ("python", "python3"):
        check_python(arguments)
    elif program == "compresskv":
        check_ours(arguments)
    else:
        assert program in FOREIGN, f"nobody knows how to check {' '.join(words)!r}"


def check_python(arguments: list[str]) -> None:
    """A script of the repository, or a module of ours."""
    if arguments[0] == "-m":
        module = arguments[1].replace(".", "/")
        assert any((ROOT / each).exists() for each in (f"{module}.py", module)) or arguments[1] in ("venv", "pytest")
    else:
        assert (ROOT / arguments[0]).exists(), arguments[0]


def check_ours(arguments: list[str]) -> None:
    """The arguments are parsed by the command itself: unknown options and missing files are errors."""
    if arguments[:1] == ["serve"]:  # which has a parser of its own
        server_arguments.parse(arguments[1:])
        return
    command: Any = get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context("compresskv", rest)
    if CHEAP & set(arguments[:1]) or "--ask" in arguments:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"compresskv {' '.join(arguments)}: {done.output}"


def parse(page: str) -> Any:
    """A page with its examples."""
    parsers = [PythonCodeBlockParser(), CodeBlockParser("sh", check_commands), SkipParser()]
    return Sybil(parsers=parsers, path=str(ROOT)).parse(ROOT / page)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_model: Path) -> Path:
    """Where a page's reader would be."""
    shutil.copy(demo_model, tmp_path / "model.gguf")
    (tmp_path / "manual.txt").write_text(HAY + FACT + HAY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # which decides the number of threads
    return tmp_path


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server of docs/server.md, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["serve", "model.gguf", "--kv_budget", "256", "--n_threads", "1", "--n_threads_batch", "1"]
    command = [sys.executable, "-m", "compresskv_edge", *arguments, "--port", str(port)]
    with subprocess.Popen(command) as process:
        for _ in range(600):
            assert process.poll() is None
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.1)
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield
        process.terminate()


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_works(page: str, folder: Path, request: pytest.FixtureRequest) -> None:
    if page == "docs/server.md":
        request.getfixturevalue("server")
    for example in parse(page).examples():
        example.evaluate()


@pytest.mark.slow
@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="make works in .venv, which this Python is not of")
def test_a_newcomers_first_commands_work_as_they_stand() -> None:
    block = next(iter(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)))
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # of the make that runs this test
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    assert len(block.splitlines()) == 3
    for line in block.splitlines():
        done = subprocess.run(line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        assert len(done.stdout.splitlines()) > 5, line


def test_the_quickstart_finds_the_fact(folder: Path) -> None:
    document = parse("docs/quickstart.md")
    for example in document.examples():
        example.evaluate()
    assert "4817" in document.namespace["answer"]["choices"][0]["text"]
    assert sum(document.namespace["stats"].n_tokens_kept) < 6 * (512 + 16)


@pytest.mark.parametrize(
    "command",
    [
        "compresskv demo --budgets 3",
        "compresskv nothing",
        "make nothing",
        "python nothing.py",
        "nothing",
        "compresskv bench no.gguf --x",
    ],
)
def test_a_wrong_command_would_be_noticed(command: str, folder: Path) -> None:
    with pytest.raises(Exception, match=r"nothing|--budgets|--x"):
        check(shlex.split(command))


def test_a_wrong_block_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```python\nassert False\n```\n")
    with pytest.raises(AssertionError):
        next(iter(parse(str(tmp_path / "page.md")).examples())).evaluate()
