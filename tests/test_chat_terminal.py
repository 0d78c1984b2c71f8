"""The chat program as a user meets it: in a (pseudo-)terminal, and in a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import chat_model
import pexpect
import pyte
import pytest

FACTS = chat_model.facts()
LONG = 2500  # words: some seconds of reading, so that there is time to stop it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Profile and documents, and the home of the program's own files."""
    folder = tmp_path_factory.mktemp("chat")
    chat_model.profile().save(folder / "profile.json")
    (folder / "facts.txt").write_text(chat_model.text())
    (folder / "long.txt").write_text(chat_model.text(LONG))
    return folder


def command(folder: Path, *more: str, file: str = "facts.txt") -> list[str]:
    model = [chat_model.MODEL, "--profile", str(folder / "profile.json"), "--file", str(folder / file)]
    return ["-m", "compresskv_edge", "chat", *model, "--budget", "128", "--temperature", "0", "--threads", "1", *more]


def environment(folder: Path, **more: str) -> Any:
    places = {f"XDG_{name}_HOME": str(folder / name) for name in ("CACHE", "STATE", "CONFIG")}
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**inherited, **places, "HOME": str(folder), "TERM": "xterm-256color", **more}


class Screen:
    """A terminal of 100 columns: what it shows, and a user's hands."""

    def __init__(self, args: list[str], environ: Any) -> None:
        self.child = pexpect.spawn(sys.executable, args, env=environ, dimensions=(50, 100), encoding="utf-8")
        self.display = pyte.HistoryScreen(100, 50)
        self.stream = pyte.Stream(self.display)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.display.display).rstrip()

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Until the screen shows it."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, f"{pattern!r} did not come:\n{self.text}"
            self._take()
        return self.text

    def type(self, text: str) -> None:
        self.child.send(text)

    def enter(self, line: str, then: str) -> str:
        """Type a line and wait for what it brings and the prompt after it."""
        self.type(f"{line}\r")
        return self.wait_for(rf"> {re.escape(line)}\n(?s:.*){then}(?s:.*)\n>\s*\n")

    def leave(self) -> int:
        self.type("\x04")
        self.child.expect(pexpect.EOF, timeout=30)
        self.child.close()
        return int(self.child.exitstatus)

    def _take(self) -> None:
        try:
            data = self.child.read_nonblocking(100_000, timeout=0.2)
        except pexpect.TIMEOUT:
            return
        self.stream.feed(data)
        for _ in range(data.count("\x1b[6n")):  # where is the cursor?
            self.child.send(f"\x1b[{self.display.cursor.y + 1};{self.display.cursor.x + 1}R")


@pytest.fixture
def screen(folder: Path) -> Iterator[Any]:
    opened = []

    def start(*more: str, file: str = "facts.txt", **environ: str) -> Screen:
        opened.append(Screen(command(folder, *more, file=file), environment(folder, **environ)))
        return opened[-1]

    yield start
    for each in opened:
        each.child.close(force=True)


def test_a_chat_from_the_first_question_to_the_last(screen: Any, folder: Path) -> None:
    user = screen()
    shown = user.wait_for(r"\n>\s*\n(?s:.*)context")
    assert re.search(r"facts.txt: (\d+) of \1 tokens read", shown)
    shown = user.enter(FACTS[2].question, FACTS[2].answer)
    status = r"context \d+ of 8192 \| kept 1\d\d \(\d+%\) \| KV \d\.\d MB, stock \d\.\d MB \| [\d.]+ tokens/s"
    assert re.search(status, user.wait_for(status))

    shown = user.enter("/why 3", "of the layers")
    assert re.search(rf"\d+% +at \d+% +{re.escape(FACTS[2].sentence)}", shown)
    colours = {user.display.buffer[y][x].bg for y, x in find(user, FACTS[2].sentence)}
    assert colours != {"default"}, "the passage is shaded"

    assert "evictions" in user.enter("/stats", "a second")
    user.enter("/budget 0.25", "sees the whole document with it")
    user.enter(FACTS[0].question, FACTS[0].answer)
    user.enter(f"/save {folder / 'trip'}", "saved to")
    user.enter("/new", "A new conversation")
    user.enter(f"/load {folder / 'trip'}", "nothing is read anew")
    user.enter("/again", FACTS[0].answer)
    assert user.leave() == 0


def find(user: Screen, text: str) -> list[tuple[int, int]]:
    """Cells of a text on the screen, at its last place."""
    y = max(i for i, line in enumerate(user.display.display) if text in line)
    x = user.display.display[y].index(text)
    return [(y, x + i) for i in range(len(text))]


def test_errors_are_shown_and_the_chat_goes_on(screen: Any, folder: Path) -> None:
    user = screen()
    user.wait_for(r"\n>\s*\n")
    user.enter("/stat", "there is no command /stat, did you mean /stats\\?")
    user.enter("/why x", "/why takes a number of passages or all")
    user.enter("/budget none", "'none' is neither a number of tokens nor a fraction")
    user.enter("/budget 3", "3")
    user.enter("/file none.pdf", "cannot read document 'none.pdf'")
    user.enter("/load none", "cannot load the chat")
    user.type("/he\t")
    user.wait_for("\n> /help")
    user.type("\r")
    user.wait_for(r"Ctrl-C stops an answer(?s:.*)\n>\s*\n")
    user.enter(FACTS[1].question, FACTS[1].answer)
    user.type("half a line\x03")
    user.wait_for("Ctrl-D or /quit leaves")
    user.type("/quit\r")
    user.child.expect(pexpect.EOF, timeout=30)


def test_ctrl_c_stops_the_reading_and_keeps_the_chat(screen: Any) -> None:
    user = screen(file="long.txt")
    user.wait_for(r"reading .* [1-9]\d* of \d{4} tokens Ctrl-C stops")
    user.type("\x03")
    shown = user.wait_for(r"long.txt: \d+ of \d+ tokens read(?s:.*)\n>\s*\n")
    n_read, n_tokens = map(int, re.search(r"(\d+) of (\d+) tokens read", shown).groups())  # type: ignore[union-attr]
    assert 0 < n_read < n_tokens
    user.type(f"{FACTS[3].question}\r")
    user.wait_for(r"reading .* of \d{4} tokens")
    user.type("\x03")
    user.wait_for(r"\(stopped\)(?s:.*)\n>\s*\n")
    user.type("\x1b[A")  # the question is in the history
    user.wait_for(rf"(?s:\(stopped\).*)> {re.escape(FACTS[3].question)}")
    user.type("\r")
    user.wait_for(rf"(?s:\(stopped\).*)\n{FACTS[3].answer}")
    assert "removing memory" not in user.text, "llama.cpp's log is not the user's"
    assert user.leave() == 0


def test_no_color_is_respected(screen: Any) -> None:
    user = screen(NO_COLOR="1")
    user.wait_for(r"\n>\s*\n")
    user.enter(FACTS[2].question, FACTS[2].answer)
    assert f"[{FACTS[2].sentence}]" in user.enter("/why 2", "of the layers")
    cells = [cell for row in user.display.buffer.values() for cell in row.values()]
    assert {(cell.fg, cell.bg) for cell in cells} == {("default", "default")}


def pipe(folder: Path, text: str, *more: str, status: int = 0, file: str = "facts.txt") -> Any:
    done = subprocess.run(
        [sys.executable, *command(folder, *more, file=file)],
        input=text, capture_output=True, text=True, env=environment(folder), timeout=120,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


def test_a_pipe_gives_answers_and_nothing_else(folder: Path) -> None:
    done = pipe(folder, f"{FACTS[0].question}\n\n{FACTS[1].question}\n")
    assert [line.rstrip(".") for line in done.stdout.splitlines()] == [FACTS[0].answer, FACTS[1].answer]
    assert done.stderr == ""


def test_why_in_a_pipe_has_brackets(folder: Path) -> None:
    done = pipe(folder, f"{FACTS[2].question}\n/why 2\n")
    assert "\x1b" not in done.stdout
    assert f"[{FACTS[2].sentence}]" in done.stdout


def test_an_error_ends_a_pipe(folder: Path) -> None:
    done = pipe(folder, f"/nope\n{FACTS[0].question}\n", status=1)
    assert done.stderr == "compresskv: there is no command /nope: /help lists them\n"
    assert done.stdout == ""


def test_questions_on_the_command_line(folder: Path) -> None:
    asked = ["--ask", FACTS[0].question, "--ask", FACTS[2].question]
    assert [a.rstrip(".") for a in pipe(folder, "", *asked).stdout.splitlines()] == [FACTS[0].answer, FACTS[2].answer]
    results = json.loads(pipe(folder, "", *asked, "--json").stdout)
    assert [result["answer"].rstrip(".") for result in results] == [FACTS[0].answer, FACTS[2].answer]
    assert results[0]["kv_bytes"] < results[0]["kv_bytes_full"] < results[0]["kv_bytes_stock"]
    assert results[0]["reading_seconds"] > 0
    assert mean(results[1]["n_tokens_kept"]) < 200 < 800 < results[1]["n_tokens"]


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, this test run perhaps, ignore it


def _wait_for_the_model(running: Any) -> None:
    """Until the file is mapped: the program is up then, however busy the machine is."""
    maps = Path(f"/proc/{running.pid}/maps")
    if not maps.is_file():  # not Linux
        time.sleep(5)
        return
    while running.poll() is None and Path(chat_model.MODEL).name not in maps.read_text():
        time.sleep(0.1)


def test_ctrl_c_in_a_pipe_ends_with_130(folder: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, *command(folder, file="long.txt")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment(folder), preexec_fn=_listen_to_ctrl_c,
    )  # fmt: skip
    _wait_for_the_model(running)
    for _ in range(5):  # the first one stops the reading
        running.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=5)
            break
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (["--json"], 2, "needs --ask"),
        (["--budget", "much"], 2, "'much' is neither"),
        (["--kv", "q3"], 2, "'q3' is not one of"),
        (["--memory", "lots"], 1, "kv_memory is 'lots'"),
        (["--ctx", "500"], 1, "the document has"),
    ],
)
def test_wrong_options(more: list[str], status: int, said: str, folder: Path) -> None:
    done = pipe(folder, "Why?\n", *more, status=status)
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_without_prompt_toolkit(folder: Path, screen: Any) -> None:
    (folder / "hidden" / "prompt_toolkit").mkdir(parents=True)
    (folder / "hidden" / "prompt_toolkit" / "__init__.py").write_text("raise ImportError('hidden')")
    user = screen(PYTHONPATH=str(folder / "hidden"))
    user.wait_for(r'compresskv: the chat needs prompt_toolkit: pip install "compresskv-edge\[chat\]"')
    user.child.expect(pexpect.EOF, timeout=30)
    user.child.close()
    assert user.child.exitstatus == 1
