"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import difflib
from typing import Callable, Optional

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...errors import ChatError
from . import saved, why
from .conversation import Conversation
from .document import read_document
from .status import Status
from .view import show_passages, show_status

_MOST_PASSAGES = 8


class Quit(Exception):
    """The user wants to leave."""


class Commands:
    """What /name does; each takes the rest of the line and may return a question that is to be asked."""

    def __init__(self, chat: Conversation, console: Console, read: Callable[[], None]) -> None:
        self.chat, self.console, self._read = chat, console, read

    def run(self, line: str) -> Optional[str]:
        """Run "/name rest". Raises ChatError for an unknown one, Quit, and what the command raises."""
        name, _, rest = line[1:].partition(" ")
        command = getattr(self, f"do_{name}", None)
        if command is None:
            near = difflib.get_close_matches(name, NAMES, 1)
            raise ChatError(
                f"there is no command /{name}" + (f", did you mean /{near[0]}?" if near else ": /help lists them")
            )
        asked: Optional[str] = command(rest.strip())
        return asked

    def do_help(self, _: str) -> None:
        """this list"""
        table = Table.grid(padding=(0, 2))
        for name in NAMES:
            usage = getattr(Commands, f"do_{name}").__doc__
            table.add_row(f"/{name}", Text(usage))
        self.console.print(table)
        self._say("Enter sends, Alt-Enter begins a new line, Ctrl-C stops an answer, Ctrl-D leaves.")

    def do_why(self, rest: str) -> None:
        """[NUMBER|all] the passages of the document of which the cache kept most"""
        if rest and rest != "all" and not rest.isdecimal():
            raise ChatError(f"/why takes a number of passages or all, not {rest!r}")
        if not self.chat.llm.n_tokens:
            raise ChatError("the cache is empty: ask something first")
        stats = self.chat.llm.kv_stats()
        if not stats.n_evictions or min(stats.n_tokens_kept) == self.chat.llm.n_tokens:
            self._say("Everything is kept: all tokens fit the budget so far.")
            return
        pieces = why.pieces(self.chat.llm, self.chat.document if self.chat.is_attached else None)
        most = None if rest == "all" else int(rest or _MOST_PASSAGES)
        show_passages(why.passages(pieces, self.chat.document, most), self.console)

    def do_stats(self, _: str) -> None:
        """what the cache holds, and how fast it was"""
        show_status(Status.of(self.chat), self.console)

    def do_budget(self, rest: str) -> None:
        """[TOKENS|FRACTION] what a layer keeps on average: 1024, or 0.1 of the prompt"""
        if not rest:
            self._say(f"The budget is {Status.of(self.chat).budget}.")
            return
        try:
            budget = float(rest) if "." in rest else int(rest)
        except ValueError:
            raise ChatError(f"{rest!r} is neither a number of tokens nor a fraction of the prompt") from None
        self._say(f"budget {budget}: {self.chat.set_budget(budget)}")

    def do_again(self, _: str) -> str:
        """ask the last question again, and read everything for it"""
        return self.chat.again()

    def do_file(self, rest: str) -> None:
        """PATH put a .pdf, .txt or .md before the next question"""
        if not rest:
            raise ChatError("name a file: /file manual.pdf")
        self.chat.attach(read_document(rest))
        self._read()

    def do_save(self, rest: str) -> None:
        """NAME write this chat and its cache to NAME.chat.json and NAME.chat.kv"""
        self._say(f"saved to {saved.save(self.chat, rest)}")

    def do_load(self, rest: str) -> None:
        """NAME go on with a saved chat"""
        self._say(saved.load(self.chat, rest))

    def do_new(self, _: str) -> None:
        """forget what was said; the document stays"""
        self.chat.clear()
        self._say("A new conversation.")

    def do_quit(self, _: str) -> None:
        """leave"""
        raise Quit

    def _say(self, text: str) -> None:
        self.console.print(Text(text, style="dim"))


NAMES = tuple(name[3:] for name in vars(Commands) if name.startswith("do_"))
