"""An answer on its way: words, thoughts and calls, told apart as the text comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable, List, Optional, Tuple, Union

from .form import SPACE, CallForm, NotACall, ToolCall
from .thinking import Thinking


@dataclass(frozen=True)
class Words:
    """A piece of what is said to the user."""

    text: str


@dataclass(frozen=True)
class Thought:
    """A piece of what the model thinks."""

    text: str


Part = Union[Words, Thought, ToolCall]


class Splitter:
    """Give it the pieces of one answer, in order; it hands on what it is sure of.

    form: of the calls; None: there are none. is_thinking: the prompt has begun the thoughts already.
    """

    def __init__(
        self, form: Optional[CallForm] = None, thinking: Optional[Thinking] = None, *, is_thinking: bool = False
    ) -> None:
        self._form, self._thinking = form, thinking
        self._rest = ""  # not handed on yet
        self._open = self._space = ""  # the mark of the call that is read, and the space before it
        self._said = False  # words that are no space
        self._state: Callable[[bool], Optional[Iterable[Part]]] = self._thoughts if is_thinking else self._words

    def feed(self, text: str) -> List[Part]:
        """What is certain now."""
        self._rest += text
        return list(self._parts(is_all=False))

    def end(self) -> List[Part]:
        """The rest: no more text comes."""
        return list(self._parts(is_all=True))

    def _parts(self, *, is_all: bool) -> Iterator[Part]:
        while (parts := self._state(is_all)) is not None:
            yield from parts

    # Each state takes from the rest what it can, or says None where it has to wait.

    def _words(self, is_all: bool) -> Optional[Iterable[Part]]:
        form = self._form
        if form is not None and form.marks.bare and not self._said:
            begun = self._begun(form, is_all)
            if begun is None or begun:
                return None if begun is None else self._go(self._call)
        at, mark = _first_mark(self._rest, self._marks())
        if mark:
            before, self._rest = self._rest[:at], self._rest[at:]
            said = before.rstrip(SPACE)
            self._space = before[len(said) :]
            return [*self._say(said), *self._enter(mark)]
        return self._hand_on(self._say, self._marks(), is_all)

    def _begun(self, form: CallForm, is_all: bool) -> Optional[bool]:
        """Whether the answer begins with a call that has no mark; None: not known yet."""
        words = form.marks.words
        if words and self._rest.startswith(words):
            self._rest, self._said = self._rest[len(words) :], True
            return False
        start = self._rest.lstrip(SPACE)
        if start and any(mark.startswith(start) or start.startswith(mark) for mark in self._marks()):
            return False
        if form.begins(self._rest):
            return True
        return None if not is_all and (not self._rest.strip(SPACE) or form.may_begin(self._rest)) else False

    def _thoughts(self, is_all: bool) -> Optional[Iterable[Part]]:
        assert self._thinking is not None
        end = self._thinking.end
        if end in self._rest:
            text, _, self._rest = self._rest.partition(end)
            self._state = self._behind_thoughts
            return self._think(text.rstrip(SPACE))
        return self._hand_on(self._think, (end,), is_all)

    def _behind_thoughts(self, is_all: bool) -> Optional[Iterable[Part]]:
        self._rest = self._rest.lstrip(SPACE)
        return self._go(self._words) if self._rest or is_all else None

    def _call(self, is_all: bool) -> Optional[Iterable[Part]]:
        assert self._form is not None
        try:
            found = self._form.take(self._rest, is_all=is_all)
        except NotACall:
            return self._no_call()
        if found is None:
            return None
        calls, self._rest = found
        self._space = ""
        self._said = True  # a call without a mark begins an answer, or follows another one
        self._state = self._behind_call
        return calls

    def _no_call(self) -> Iterable[Part]:
        """The mark was text, or what looked like a call without one begins with a character of text."""
        n = 0 if self._open else len(self._rest) - len(self._rest.lstrip(SPACE)) + 1
        text, self._rest = self._space + self._open + self._rest[:n], self._rest[n:]
        self._state, self._space = self._words, ""
        return self._say(text)

    def _behind_call(self, is_all: bool) -> Optional[Iterable[Part]]:
        assert self._form is not None
        self._rest = self._rest.lstrip(SPACE)
        marks = self._form.marks
        opened = any(self._rest.startswith(mark) for mark in marks.opens)
        mark = next((mark for mark in (*marks.behind, *marks.before) if self._rest.startswith(mark)), "")
        if mark and not opened:
            self._rest = self._rest[len(mark) :]
            return ()
        some = (*marks.behind, *marks.before, *marks.opens)
        if not self._rest or not (opened or is_all or self._is_certain(some)):
            return None
        return self._go(self._call) if self._form.begins(self._rest) else self._go(self._words)

    def _is_certain(self, marks: Tuple[str, ...]) -> bool:
        """The rest is not the beginning of a mark, or of a call without one."""
        assert self._form is not None
        return not self._form.may_begin(self._rest) and not any(mark.startswith(self._rest) for mark in marks)

    def _go(self, state: Callable[[bool], Optional[Iterable[Part]]], open_: str = "") -> Iterable[Part]:
        self._state, self._open = state, open_
        return ()

    def _enter(self, mark: str) -> Iterable[Part]:
        """A mark is at the start of the rest."""
        self._rest = self._rest[len(mark) :]
        if self._thinking is not None and mark == self._thinking.begin:
            return self._go(self._thoughts)
        assert self._form is not None
        return self._go(self._call if mark in self._form.marks.opens else self._behind_call, mark)

    def _marks(self) -> Tuple[str, ...]:
        marks = () if self._form is None else (*self._form.marks.opens, *self._form.marks.before)
        return marks if self._thinking is None else (self._thinking.begin, *marks)

    def _hand_on(
        self, as_part: Callable[[str], Iterable[Part]], marks: Tuple[str, ...], is_all: bool
    ) -> Optional[Iterable[Part]]:
        """All but what may be the beginning of a mark, and the space before it."""
        n_held = 0 if is_all else _n_held(self._rest, marks)
        text = self._rest[: len(self._rest) - n_held]
        self._rest = self._rest[len(text) :]
        return as_part(text) if text else None

    def _say(self, text: str) -> Iterable[Part]:
        self._said = self._said or bool(text.strip(SPACE))
        return [Words(text)] if text else []

    def _think(self, text: str) -> Iterable[Part]:
        text = text if self._thought else text.lstrip(SPACE)
        self._thought = self._thought or bool(text)
        return [Thought(text)] if text else []

    _thought = False


def _first_mark(text: str, marks: Tuple[str, ...]) -> Tuple[int, str]:
    """Where the first of the marks is, and which; the longest of those that begin there."""
    found = [(text.index(mark), -len(mark), mark) for mark in marks if mark in text]
    at, _, mark = min(found, default=(0, 0, ""))
    return at, mark


def _n_held(text: str, marks: Tuple[str, ...]) -> int:
    """Characters at the end of a text that must wait: part of a mark, and space, which is dropped before one."""
    if not marks:
        return 0
    begun = max((n for mark in marks for n in range(1, len(mark)) if text.endswith(mark[:n])), default=0)
    words = text[: len(text) - begun]
    return begun + len(words) - len(words.rstrip(SPACE))
