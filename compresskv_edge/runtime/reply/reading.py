"""How the answer to one chat is to be read: by its template, its tools, and what the caller asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Dict, List, Optional

from .answer import AnswerReading
from .form import CallForm, Marks
from .json_calls import JsonCalls, names_of
from .learn import learned
from .thinking import thinking_of

OPTIONS = ("parallel_tool_calls", "reasoning_format")
_FORMATS = (None, "none", "auto", "deepseek")


def check(options: Mapping[str, Any]) -> None:
    """Raise ValueError for what no option can be."""
    if options["reasoning_format"] not in _FORMATS:
        raise ValueError(f"reasoning_format is {options['reasoning_format']!r}: use 'auto', or 'none' for one text")


def tools_of(options: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The tools of a request, which OpenAI named functions before."""
    if options["functions"] is not None:
        return [{"type": "function", "function": function} for function in options["functions"]]
    return list(options["tools"] or [])


def choice_of(options: Mapping[str, Any]) -> Any:
    """tool_choice, or what the older function_call says."""
    older = options["function_call"]
    if older in ("none", "auto"):
        return older
    if isinstance(older, dict) and "name" in older:
        return {"function": {"name": older["name"]}}
    return options["tool_choice"]


def any_of(tools: List[Dict[str, Any]], *, several: bool) -> Dict[str, Any]:
    """The schema of a call of one of the tools, or of a list of such calls."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"].get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
        }
        for tool in tools
    ]
    return {"type": "array", "items": {"anyOf": calls}, "minItems": 1} if several else {"anyOf": calls}


def reading_of(
    formatter: Optional[Callable[..., Any]], prompt: str, options: Mapping[str, Any], *, is_free: bool
) -> Optional[AnswerReading]:
    """None where all of the answer is words. is_free: no grammar holds the answer to a form of its own."""
    template = str(getattr(formatter, "template", ""))
    tools, choice = tools_of(options), choice_of(options)
    thinking = None if options["reasoning_format"] == "none" else thinking_of(template)
    form: Optional[CallForm] = None
    if tools and choice == "required":
        form = JsonCalls(Marks((), bare=True), names_of(tools))
    elif tools and choice != "none" and template:
        form = _form(formatter, tools, template)
    if form is None and thinking is None:
        return None
    is_thinking = is_free and thinking is not None and thinking.is_open(prompt)
    return AnswerReading(form, thinking, is_thinking, options["parallel_tool_calls"] is not False)


def _form(formatter: Any, tools: List[Dict[str, Any]], template: str) -> Optional[CallForm]:
    def render(messages: List[Dict[str, Any]], known: List[Any]) -> str:
        return str(formatter(messages=messages, tools=known).prompt)

    return learned(render, tools, template, thinking_of(template))
