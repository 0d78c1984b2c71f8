"""Messages as a template wants them, where OpenAI's form would lose something."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Dict, List

from .prompt import Message

# `tool_call.arguments | tojson`: a template that writes a mapping; one that was encoded already would be quoted again
_WRITES_MAPPINGS = re.compile(r"arguments['\"\]\s]*(\|\s*(tojson|items|dictsort)|\.items)")


def for_template(messages: Sequence[Message], template: str) -> List[Message]:
    """A developer's message is a system message, unless the template knows the role; tool arguments are mappings where
    the template encodes them. template: its source, or "" for a format that is code.
    """
    as_mappings = _WRITES_MAPPINGS.search(template) is not None
    developer = "developer" if "developer" in template else "system"
    changed = []
    for message in messages:
        if message.get("role") == "developer":
            message = {**message, "role": developer}
        if as_mappings and message.get("tool_calls"):
            message = {**message, "tool_calls": [_decoded(call) for call in message["tool_calls"]]}
        changed.append(message)
    return changed


def _decoded(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments: Dict[str, Any] = json.loads(function["arguments"])
    except ValueError:
        return call  # a model wrote it; the template shows it as it is
    return {**call, "function": {**function, "arguments": arguments}}
