"""The loop of a chat: on a terminal with history, editing and a status line, elsewhere line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Optional

import platformdirs
from rich.console import Console
from rich.text import Text

from ...errors import ChatError, CompressKVError
from .commands import NAMES, Commands, Quit
from .conversation import Conversation
from .interrupt import on_ctrl_c
from .status import Status
from .view import show_answer, show_reading


class Terminal:
    """One chat in one terminal, or pipe. Errors end a pipe and are shown on a terminal. hint: ends the welcome."""

    def __init__(self, chat: Conversation, console: Optional[Console] = None, *, hint: str = "") -> None:
        self.chat, self.hint = chat, hint
        self.console = console or Console()
        self.commands = Commands(chat, self.console, self.read_ahead)

    def run(self) -> None:
        """Until the user leaves or the input ends. Raises ChatError, and in a pipe any CompressKVError."""
        interactive = self.console.is_terminal and sys.stdin.isatty()
        lines = self._edited_lines() if interactive else (line.rstrip("\n") for line in sys.stdin)
        try:
            self.read_ahead()
            if interactive:
                self._welcome()
            for line in lines:
                self._take(line, forgiving=interactive)
        except Quit:
            return

    def read_ahead(self) -> None:
        """Read the document, with a bar; Ctrl-C leaves the rest to the first question."""
        if self.chat.document is None:
            return
        n_tokens = self.chat.n_ahead()
        with on_ctrl_c(self.chat.stop), show_reading(self.chat, n_tokens, self.console):
            n_read = self.chat.read_ahead()
        if self.console.is_terminal:
            later = "read anew for every question, in bounded memory (--no-fresh: for the first one)"
            how = f"{n_read} of {n_tokens} tokens read" if n_read else f"{n_tokens} tokens, {later}"
            self.console.print(Text(f"{self.chat.document.name}: {how}", style="dim"))

    def ask(self, question: str) -> None:
        """Ask, and show the answer as it comes. Ctrl-C stops it; a second one raises KeyboardInterrupt."""
        with on_ctrl_c(self.chat.stop):
            pieces = self.chat.ask(question)
            show_answer(self.chat, pieces, self.console)
        if self.chat.timing.stopped:
            self.console.print(Text("(stopped)", style="dim"))

    def _take(self, line: str, *, forgiving: bool) -> None:
        if not line.strip():
            return
        try:
            question = self.commands.run(line.strip()) if line.startswith("/") else line
            if question:
                self.ask(question)
        except CompressKVError as error:
            if not forgiving:
                raise
            self.console.print(Text(str(error), style="red"))
        except KeyboardInterrupt:
            if not forgiving:
                raise
            self.console.print(Text("(stopped)", style="dim"))

    def _welcome(self) -> None:
        name = self.chat.llm.metadata.get("general.name", "the model")
        self.console.print(Text(f"Chat with {name}. /help lists the commands, Ctrl-D leaves.", style="dim"))
        if self.hint:
            self.console.print(Text(self.hint, style="dim"))

    def _edited_lines(self) -> Iterator[str]:
        session = _session(self)
        while True:
            try:
                yield session.prompt("> ")
            except KeyboardInterrupt:
                self.console.print(Text("Ctrl-D or /quit leaves", style="dim"))
            except EOFError:
                return


def _session(terminal: Terminal) -> Any:
    """An editor for one line after the other: history, completion of commands and files, the status below."""
    try:
        from prompt_toolkit import PromptSession
    except ImportError as error:
        raise ChatError('the chat needs prompt_toolkit: pip install "compresskv-edge[chat]"') from error
    return PromptSession(
        history=_history(),
        completer=_completer(),
        complete_while_typing=False,
        multiline=True,
        key_bindings=_keys(),
        prompt_continuation="  ",
        bottom_toolbar=lambda: Status.of(terminal.chat).line(),
    )


def _history() -> Any:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    folder = platformdirs.user_state_path("compresskv", appauthor=False)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "chat_history").touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(folder / "chat_history"))


def _completer() -> Any:
    """Commands, and paths behind those that take one."""
    from prompt_toolkit.completion import NestedCompleter, PathCompleter, WordCompleter, merge_completers

    paths = PathCompleter(expanduser=True)
    names = WordCompleter([f"/{name}" for name in NAMES], sentence=True)
    return merge_completers([names, NestedCompleter({f"/{name}": paths for name in ("file", "save", "load")})])


def _keys() -> Any:
    """Enter sends, Alt-Enter begins a new line: a pasted text keeps its lines."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    return keys


def answer_all(chat: Conversation, questions: Iterable[str]) -> list[dict[str, Any]]:
    """Ask one question after the other without a terminal: question, answer and figures of each, for JSON."""
    results = []
    for question in questions:
        with on_ctrl_c(chat.stop):
            answer = "".join(chat.ask(question))
        status = Status.of(chat)
        results.append(
            {
                "question": question,
                "answer": answer,
                **({"thoughts": chat.thoughts} if chat.thoughts else {}),
                "n_tokens": status.n_tokens,
                "n_tokens_kept": list(status.stats.n_tokens_kept),
                "kv_bytes": status.kv_bytes,
                "kv_bytes_stock": status.stats.kv_bytes_stock,
                "kv_bytes_full": status.stock_bytes,
                "reading_seconds": status.timing.reading_seconds,
                "prompt_seconds": status.timing.prompt_seconds,
                "tokens_per_second": status.timing.tokens_per_second,
            }
        )
    return results
