"""How a model writes the call of a tool: what all forms have in common."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, List, Optional, Protocol, Tuple

SPACE = " \t\r\n"


@dataclass(frozen=True)
class ToolCall:
    """arguments: a JSON text, as OpenAI's clients want it."""

    name: str
    arguments: str


class NotACall(ValueError):
    """The text behind an opening mark is something else."""


@dataclass(frozen=True)
class Marks:
    """What stands around calls.

    opens: texts one of which begins a call. before: marks that announce one. behind: marks that may come after a call,
    and are no words of the answer there. bare: the first call may have no mark, if it begins the answer. words: with
    this an answer begins that is no call. within: marks between the parts of a call.
    """

    opens: Tuple[str, ...]
    before: Tuple[str, ...] = ()
    behind: Tuple[str, ...] = ()
    bare: bool = False
    words: str = ""
    within: Tuple[str, ...] = ()


class CallForm(Protocol):
    """One way to write calls."""

    @property
    def marks(self) -> Marks: ...

    def begins(self, text: str) -> bool:
        """A call without a mark may begin so: at the start of an answer, or behind another call."""

    def may_begin(self, text: str) -> bool:
        """It may still turn out so."""

    def take(self, text: str, *, is_all: bool) -> Optional[Tuple[List[ToolCall], str]]:
        """The calls at the start of what follows an opening mark, and the text behind them; None: more has to come.

        is_all: nothing comes any more. Raises NotACall.
        """


def call_of(name: Any, arguments: Any) -> ToolCall:
    """A call whose arguments are a mapping, or JSON already. Raises NotACall."""
    if not isinstance(name, str) or not name:
        raise NotACall("a call has no name")
    if arguments is None:
        arguments = {}
    if isinstance(arguments, str):
        return ToolCall(name, arguments)
    if not isinstance(arguments, dict):
        raise NotACall(f"the arguments of {name} are no object")
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def json_at(text: str, *, is_all: bool) -> Optional[Tuple[Any, str]]:
    """The JSON value that text begins with, and the rest; None: it may be there only in part. Raises NotACall."""
    text = text.lstrip(SPACE)
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError) as error:
        if is_all or (text and text[0] not in "{["):
            raise NotACall(str(error)) from error
        return None
    return value, text[end:]
