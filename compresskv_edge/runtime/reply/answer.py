"""Answers in the form of OpenAI's chats, with the calls and thoughts that are in them apart from the words."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from .form import CallForm, ToolCall
from .splitter import Part, Splitter, Thought, Words
from .thinking import Thinking


@dataclass(frozen=True)
class AnswerReading:
    """How an answer is read. parallel: it may hold several calls, else what follows the first is left out."""

    form: Optional[CallForm] = None
    thinking: Optional[Thinking] = None
    is_thinking: bool = False
    parallel: bool = True

    @property
    def marks(self) -> List[str]:
        """All that an answer's text has to show."""
        form = () if self.form is None else (*self.form.marks.opens, *self.form.marks.before, *self.form.marks.within)
        return [*form, *(() if self.thinking is None else (self.thinking.begin, self.thinking.end))]

    def splitter(self) -> Splitter:
        """For one answer."""
        return Splitter(self.form, self.thinking, is_thinking=self.is_thinking)


def whole(chat: Dict[str, Any], reading: AnswerReading) -> Dict[str, Any]:
    """chat: a chat.completion whose message holds all as words."""
    (choice,) = chat["choices"]
    splitter = reading.splitter()
    parts = [*splitter.feed(choice["message"]["content"] or ""), *splitter.end()]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    calls = calls if reading.parallel else calls[:1]
    words = "".join(part.text for part in parts if isinstance(part, Words))
    thoughts = "".join(part.text for part in parts if isinstance(part, Thought))
    message = {**choice["message"], "content": words or None if calls else words}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return {**chat, "choices": [{**choice, "message": message, "finish_reason": _reason(choice, bool(calls))}]}


def chunks(chat: Iterator[Dict[str, Any]], reading: AnswerReading) -> Iterator[Dict[str, Any]]:
    """chat: the chunks of one whose deltas hold all as words. A call comes whole, in one chunk."""
    splitter, n_calls = reading.splitter(), 0
    for chunk in chat:
        (choice,) = chunk["choices"]
        is_end = choice["finish_reason"] is not None
        parts = splitter.feed(choice["delta"].get("content") or "") if "content" in choice["delta"] else []
        parts = [*parts, *(splitter.end() if is_end else [])]
        deltas: List[Dict[str, Any]] = []
        for part in parts:
            if isinstance(part, ToolCall) and n_calls and not reading.parallel:
                continue
            deltas.append(_delta(part, n_calls))
            n_calls += isinstance(part, ToolCall)
        if not deltas and choice["logprobs"]:
            deltas = [{"content": ""}]
        for i, delta in enumerate(deltas):
            yield _chunk(chunk, delta, choice["logprobs"] if i == 0 else None)
        if is_end:
            yield _chunk(chunk, {}, None, _reason(choice, n_calls > 0))
        elif "content" not in choice["delta"]:
            yield chunk


def named_once(chat: Iterator[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
    """The chunks of a forced call, with its name and id in the first alone: clients put the parts together."""
    is_named = False
    for chunk in chat:
        (choice,) = chunk["choices"]
        calls = choice["delta"].get("tool_calls")
        if calls and is_named:
            arguments = {"arguments": calls[0]["function"]["arguments"]}
            delta = {"tool_calls": [{"index": calls[0]["index"], "function": arguments}], "function_call": arguments}
            chunk = {**chunk, "choices": [{**choice, "delta": delta}]}
        is_named = is_named or bool(calls)
        yield chunk


def _chunk(
    chunk: Dict[str, Any], delta: Dict[str, Any], logprobs: Any, finish_reason: Optional[str] = None
) -> Dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return {**chunk, "choices": [choice]}


def _delta(part: Part, n_calls: int) -> Dict[str, Any]:
    if isinstance(part, ToolCall):
        return {"tool_calls": [{"index": n_calls, **_call(part)}]}
    return {"reasoning_content" if isinstance(part, Thought) else "content": part.text}


def _call(call: ToolCall) -> Dict[str, Any]:
    # nine letters and digits: Mistral's templates accept no other id
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": secrets.token_hex(5)[:9], "type": "function", "function": function}


def _reason(choice: Dict[str, Any], has_calls: bool) -> str:
    return "tool_calls" if has_calls and choice["finish_reason"] == "stop" else str(choice["finish_reason"])
