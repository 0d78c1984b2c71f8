"""What is on the screen when an answer has come is what a rendering in one go would show."""

from __future__ import annotations

import io
import random
import types
from collections.abc import Iterator
from typing import Any

import pyte
import pytest
from rich.console import Console

from compresskv_edge.apps.chat.markdown import PlainTagMarkdown
from compresskv_edge.apps.chat.view import show_answer, show_passages, show_reading
from compresskv_edge.apps.chat.why import Passage, Piece

WIDTH, HEIGHT = 60, 12
CODE = "\n".join(f"line_{i} = {i}" for i in range(30))
WORDS = "Some *words* and more of them, so that they fold at the end of a line."
ANSWER = f"# A title\n\n{WORDS}\n\n```python\n{CODE}\n```\n\nThe end."


def terminal(**more: Any) -> Console:
    return Console(file=io.StringIO(), width=WIDTH, height=HEIGHT, force_terminal=True, legacy_windows=False, **more)


def seen(console: Console) -> list[str]:
    """All lines that a terminal showed, those that scrolled away included."""
    screen = pyte.HistoryScreen(WIDTH, HEIGHT, history=1000)
    pyte.Stream(screen).feed(console.file.getvalue().replace("\n", "\r\n"))  # type: ignore[attr-defined]
    above = ["".join(row[x].data for x in range(WIDTH)) for row in screen.history.top]
    return [line.rstrip() for line in [*above, *screen.display] if line.strip()]


@pytest.fixture
def chat() -> Any:
    return types.SimpleNamespace(n_expected=0, n_cached=0, thoughts="", llm=types.SimpleNamespace(n_tokens=0))


def pieces(seed: int) -> Iterator[str]:
    rng, at = random.Random(seed), 0
    while at < len(ANSWER):
        n = rng.randint(1, 12)
        yield ANSWER[at : at + n]
        at += n


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_longer_than_the_screen(seed: int, chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    streamed, whole = terminal(), terminal()
    show_answer(chat, pieces(seed), streamed)
    whole.print(PlainTagMarkdown(ANSWER))
    assert seen(streamed) == seen(whole)


def test_a_pipe_gets_the_bare_text(chat: Any) -> None:
    console = Console(file=io.StringIO(), width=WIDTH)
    show_answer(chat, pieces(0), console)
    assert console.file.getvalue() == ANSWER + "\n"  # type: ignore[attr-defined]


def test_reading_has_a_bar_that_goes_away(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    console = terminal()
    with show_reading(chat, 2000, console) as live:
        chat.llm.n_tokens = 512
        live.refresh()
        assert any("512 of 2000 tokens" in line for line in seen(console))
    assert seen(console) == []


def test_reading_is_silent_in_a_pipe(chat: Any) -> None:
    console = Console(file=io.StringIO(), width=WIDTH)
    with show_reading(chat, 2000, console):
        pass
    assert console.file.getvalue().strip() == ""  # type: ignore[attr-defined]


def test_shades_and_brackets() -> None:
    held = (Piece("The", 0, 0.0), Piece(" code", 3, 0.3), Piece(" is", 8, 0.8), Piece("\nlost", 11, 0.1))
    passage = Passage(held, 0.5, 0, 0.3)
    plain = Console(file=io.StringIO(), width=WIDTH)
    show_passages([passage], plain)
    assert "30% at 50% The [code is] lost" in " ".join(plain.file.getvalue().split())  # type: ignore[attr-defined]
    coloured = terminal(color_system="truecolor")
    show_passages([Passage(held, 0.5, 7, 0.3)], coloured)
    text = coloured.file.getvalue()  # type: ignore[attr-defined]
    assert "page 7" in text
    assert "\x1b[30;48;2;255;243;196m code" in text
    assert "\x1b[30;48;2;255;179;0m is" in text
