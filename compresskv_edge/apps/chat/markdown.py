"""Markdown that arrives in pieces: blocks that are complete, and the rest that may still change."""

from __future__ import annotations

import re
from typing import Any

from markdown_it import MarkdownIt
from rich.markdown import Markdown

_MARKS = re.compile(r"[.)#>*+-]")


def _parser() -> MarkdownIt:
    # tags are text: models write <think> and <b>, and rich would drop them with what they hold
    return MarkdownIt("commonmark", {"html": False}).enable("table").enable("strikethrough")


class PlainTagMarkdown(Markdown):
    """rich's Markdown, with tags shown as they stand."""

    def __init__(self, markup: str, **more: Any) -> None:
        super().__init__(markup, **more)
        self.parsed = _parser().parse(markup)
        if not any(token.content or token.type == "hr" for token in self.parsed):
            self.parsed = _parser().parse(_MARKS.sub(r"\\\g<0>", markup))  # "42." is an answer, no empty list


class MarkdownStream:
    """Feed pieces, get complete blocks. Complete is what comes before the last block: that one may still change."""

    def __init__(self) -> None:
        self.rest = ""

    def feed(self, piece: str) -> str:
        """Markdown of the blocks that are complete now, "" if none is."""
        self.rest += piece
        if "\n" not in piece:
            return ""
        starts = [token.map[0] for token in _parser().parse(self.rest) if token.level == 0 and token.map]
        lines = self.rest.splitlines(keepends=True)
        last = max(starts, default=0)
        done, self.rest = "".join(lines[:last]), "".join(lines[last:])
        return done

    def end(self) -> str:
        """What is left when the text is over."""
        rest, self.rest = self.rest, ""
        return rest
