"""Calls as a name between two marks, then JSON arguments: newer Mistral models, functionary, DeepSeek, Kimi."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Tuple

from .form import Marks, NotACall, ToolCall, call_of, json_at

_LONGEST_NAME = 200


@dataclass(frozen=True)
class NamedCalls:
    """behind_name: a regular expression of what stands between the name and its arguments."""

    marks: Marks
    behind_name: str

    def begins(self, text: str) -> bool:
        """Only its mark says that a call begins."""
        return self.marks.bare and re.match(rf"\s*[\w.-]+{self.behind_name}", text) is not None

    def may_begin(self, text: str) -> bool:
        """As CallForm.may_begin."""
        return re.fullmatch(r"[\w.-]{1,200}\s*", text) is not None

    def take(self, text: str, *, is_all: bool) -> Optional[Tuple[List[ToolCall], str]]:
        """As CallForm.take."""
        head = re.match(rf"\s*([\w.-]+){self.behind_name}", text)
        if head is None:
            if is_all or len(text) > _LONGEST_NAME:
                raise NotACall("no name of a tool")
            return None
        if not text[head.end() :].strip() and not is_all:
            return None
        found = json_at(text[head.end() :], is_all=is_all)
        if found is None:
            return None
        value, rest = found
        return [call_of(head[1], value)], rest
