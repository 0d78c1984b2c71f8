"""Calls as tags, one for each argument: Qwen3-Coder, GLM, Seed, MiniMax and others."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from .form import SPACE, Marks, NotACall, ToolCall, call_of

_LONGEST_NAME = 200


@dataclass(frozen=True)
class TaggedCalls:
    """What stands behind the name of the tool, before and behind an argument's name, and behind its value.

    types: JSON types of the tools' arguments, by the tool's and the argument's name: a text says not what it is.
    """

    marks: Marks
    behind_name: str
    before_key: str
    behind_key: str
    behind_value: str
    types: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def begins(self, text: str) -> bool:
        """Only its mark says that a call begins."""
        return False

    def may_begin(self, text: str) -> bool:
        """As CallForm.may_begin."""
        return False

    def take(self, text: str, *, is_all: bool) -> Optional[Tuple[List[ToolCall], str]]:
        """As CallForm.take. Arguments end where no further one begins."""
        head = re.match(rf"\s*([\w.-]+)\s*{re.escape(self.behind_name)}", text)
        if head is None:
            if is_all or len(text) > _LONGEST_NAME:
                raise NotACall("no name of a tool")
            return None
        name, rest = head[1], text[head.end() :].lstrip(SPACE)
        arguments: Dict[str, Any] = {}
        while rest.startswith(self.before_key):
            key, found, value = rest[len(self.before_key) :].partition(self.behind_key)
            value, closed, rest = value.partition(self.behind_value)
            if not (found and closed):
                if is_all:
                    raise NotACall("an argument has no end")
                return None
            if not re.fullmatch(r"\s*[\w.-]+\s*", key):
                raise NotACall(f"{key:.40} is no name of an argument")
            arguments[key.strip()] = self._value(name, key.strip(), value)
            rest = rest.lstrip(SPACE)
        if self.before_key.startswith(rest) and not is_all:  # perhaps one more argument
            return None
        return [call_of(name, arguments)], rest

    def _value(self, tool: str, key: str, text: str) -> Any:
        text = text[text.startswith("\n") : len(text) - text.endswith("\n")]
        if self.types.get(tool, {}).get(key) == "string":
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text


def types_of(tools: List[Any]) -> Dict[str, Dict[str, Any]]:
    """The types of all tools' arguments, as far as they say them."""
    found: Dict[str, Dict[str, Any]] = {}
    for tool in tools:
        function = tool["function"]
        properties = (function.get("parameters") or {}).get("properties") or {}
        found[function["name"]] = {
            key: schema.get("type") for key, schema in properties.items() if isinstance(schema, Mapping)
        }
    return found
