"""Calls as JSON objects with name and arguments, one after the other or in a list: Hermes and Qwen, Llama 3, older
Mistral models, Granite, Command R and others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, FrozenSet, List, Optional, Tuple

from .form import SPACE, Marks, NotACall, ToolCall, call_of, json_at

_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "args")
_BETWEEN = SPACE + ",;"
FENCE = "```json"


@dataclass(frozen=True)
class JsonCalls:
    """tools: names that there are, if they are known: JSON of other names is an answer."""

    marks: Marks
    tools: FrozenSet[str] = frozenset()

    def begins(self, text: str) -> bool:
        """An object, or a list of them."""
        return text.lstrip(_BETWEEN)[:1] in ("{", "[")

    def may_begin(self, text: str) -> bool:
        """As CallForm.may_begin."""
        return self.marks.bare and not text.strip(_BETWEEN)

    def take(self, text: str, *, is_all: bool) -> Optional[Tuple[List[ToolCall], str]]:
        """As CallForm.take."""
        text = text.lstrip(_BETWEEN)
        found = json_at(text, is_all=is_all) if text or is_all else None
        if found is None:
            if any(mark in text for mark in self.marks.behind):
                raise NotACall("the JSON is broken")
            return None
        value, rest = found
        calls = [self._call(each) for each in (value if isinstance(value, list) else [value])]
        if not calls:
            raise NotACall("a list without a call")
        return calls, rest

    def _call(self, value: Any) -> ToolCall:
        if not isinstance(value, dict):
            raise NotACall("no object")
        if isinstance(value.get("function"), dict):  # OpenAI's own form
            value = value["function"]
        name = _first(value, _NAMES)
        if name is None and len(value) == 1:  # {"name of the tool": {arguments}}
            ((name, arguments),) = value.items()
        else:
            arguments = _first(value, _ARGUMENTS)
        if self.tools and name not in self.tools:
            raise NotACall(f"there is no tool {name!r}")
        return call_of(name, arguments)


def names_of(tools: Iterable[Any]) -> FrozenSet[str]:
    """Of OpenAI's list of tools."""
    return frozenset(tool["function"]["name"] for tool in tools)


def _first(value: dict[str, Any], keys: Iterable[str]) -> Any:
    return next((value[key] for key in keys if key in value), None)
