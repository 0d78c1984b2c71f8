"""How a chat looks: an answer while it comes, and the passages that were kept."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from .conversation import Conversation
from .markdown import MarkdownStream, PlainTagMarkdown
from .status import Status
from .why import Passage, Piece

_MARKED = 0.25  # of the layers: without colours, tokens that so many hold stand in brackets
_SHADES = ((0.75, "black on #ffb300"), (0.5, "black on #ffd54f"), (_MARKED, "black on #fff3c4"), (1e-9, "underline"))
_LINES_BESIDE = 3  # of the screen, left free below a growing block
_LINES_OF_THOUGHT = 3
_LEAST_READ = 32  # fewer tokens are read before a bar is drawn
_PER_SECOND = 8  # pictures, at most


class _Growing:
    """What stands at the foot of the screen: a bar while the prompt is read, thoughts, the block that is written."""

    def __init__(self, chat: Conversation, text: MarkdownStream) -> None:
        self.chat, self.text = chat, text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType | Segment]:
        if self.text.rest:
            lines = console.render_lines(PlainTagMarkdown(self.text.rest), options, pad=False)
            for line in lines[-max(console.height - _LINES_BESIDE, 1) :]:
                yield from line
                yield Segment.line()
        elif self.chat.thoughts:
            yield Text("\n".join(self.chat.thoughts.strip().splitlines()[-_LINES_OF_THOUGHT:]), style="dim")
        elif self.chat.n_expected - self.chat.n_cached > _LEAST_READ:
            yield _reading(int(self.chat.llm.n_tokens), self.chat.n_expected)


def _reading(done: int, total: int) -> Table:
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(total, 1), completed=min(done, total), width=30)
    grid.add_row("reading", bar, f"{min(done, total)} of {total} tokens", Text("Ctrl-C stops", style="dim"))
    return grid


def show_answer(chat: Conversation, pieces: Iterable[str], console: Console) -> None:
    """Print an answer as it comes: Markdown on a terminal, the bare text elsewhere."""
    if not console.is_terminal:
        for piece in pieces:
            console.file.write(piece)
            console.file.flush()
        console.file.write("\n")
        return
    text, pieces = MarkdownStream(), iter(pieces)
    with Live(_Growing(chat, text), console=console, transient=True, refresh_per_second=_PER_SECOND):
        first = next(pieces, "")
    # from here on lines are printed above the growing ones: with a thread that refreshes, rich would lose some of them
    with Live(_Growing(chat, text), console=console, transient=True, auto_refresh=False) as live:
        shown = 0.0
        for piece in itertools.chain([first], pieces):
            if done := text.feed(piece):
                console.print(PlainTagMarkdown(done))
            elif time.monotonic() > shown + 1 / _PER_SECOND:
                live.refresh()
                shown = time.monotonic()
    console.print(PlainTagMarkdown(text.end()))


def show_reading(chat: Conversation, n_tokens: int, console: Console) -> Any:
    """A bar on a terminal while a document of n_tokens tokens is read; a context manager."""
    chat.n_expected, chat.n_cached = n_tokens, 0
    return Live(
        _Growing(chat, MarkdownStream()),
        console=console,
        transient=True,
        refresh_per_second=_PER_SECOND,
        auto_refresh=console.is_terminal,
    )


def show_status(status: Status, console: Console) -> None:
    """The table of /stats."""
    table = Table.grid(padding=(0, 2))
    for name, value in status.rows():
        table.add_row(name, value)
    console.print(table)


def show_passages(passages: Iterable[Passage], console: Console) -> None:
    """Each passage with where it lies and the share of layers that hold it."""
    colours = console.is_terminal and not console.no_color
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("held", justify="right")
    table.add_column("where", style="dim", no_wrap=True)
    table.add_column("passage")
    for passage in passages:
        where = f"page {passage.page}" if passage.page else f"at {passage.depth:.0%}"
        table.add_row(f"{passage.share:.0%}", where, _text(passage.pieces, colours))
    console.print(table)
    if colours:
        legend = [Text(f" {limit:.0%} ", style=style) for limit, style in _SHADES[:3]]
        console.print(Text.assemble("held by at least ", *legend, " of the layers; underlined: by fewer"))
    else:
        console.print(Text(f"[in brackets]: held by at least {_MARKED:.0%} of the layers"))


def _text(pieces: Iterable[Piece], colours: bool) -> Text:
    shown = Text()
    for style, group in itertools.groupby(pieces, lambda piece: _style(piece.share)):
        text = "".join(piece.text for piece in group).replace("\n", " ")
        if colours:
            shown.append(text, style=style)
        else:
            shown.append(_bracketed(text) if style in _BRACKETED else text)
    if not colours:
        return Text(shown.plain.replace("] [", " ").replace("][", "").strip())
    return shown[len(shown.plain) - len(shown.plain.lstrip()) :]


_BRACKETED = tuple(style for limit, style in _SHADES if limit >= _MARKED)


def _bracketed(text: str) -> str:
    stripped = text.lstrip()
    return f"{text[: len(text) - len(stripped)]}[{stripped}]"


def _style(share: float) -> str:
    return next((style for limit, style in _SHADES if share >= limit), "dim")
