"""Words, thoughts and calls come apart wherever the pieces of an answer are cut, and what is none stays text."""

from __future__ import annotations

import json
from typing import Any, List, Optional, Tuple

import pytest

from compresskv_edge.runtime.reply.form import CallForm, Marks, ToolCall
from compresskv_edge.runtime.reply.json_calls import JsonCalls
from compresskv_edge.runtime.reply.named_calls import NamedCalls
from compresskv_edge.runtime.reply.splitter import Splitter, Thought, Words
from compresskv_edge.runtime.reply.tagged_calls import TaggedCalls
from compresskv_edge.runtime.reply.thinking import Thinking

HERMES = JsonCalls(Marks(("<tool_call>",), behind=("</tool_call>",)))
CODERS = JsonCalls(
    Marks(("<tool_call>", "```json"), behind=("</tool_call>", "```"), bare=True), frozenset({"weather", "time"})
)
LLAMA = JsonCalls(Marks(("<|python_tag|>",), bare=True), frozenset({"weather", "time"}))
BARE_MISTRAL = JsonCalls(Marks(("[TOOL_CALLS]",), bare=True), frozenset({"weather", "time"}))
MISTRAL = JsonCalls(Marks(("[TOOL_CALLS]",)))
DEEPSEEK = NamedCalls(
    Marks(("<|call|>",), before=("<|calls|>",), behind=("```", "<|end|>", "<|ends|>")), r"\s*\n```json\s*"
)
FUNCTIONARY = NamedCalls(Marks((">>>",), bare=True, words="all\n"), r"\s*\n\s*")
CODER = TaggedCalls(
    Marks(("<tool_call>\n<function=",), behind=("</function>", "</tool_call>")),
    ">", "<parameter=", ">", "</parameter>", {"time": {"city": "string"}},
)  # fmt: skip
THINK = Thinking("<think>", "</think>")

PARIS: Any = ("weather", {"city": "Paris", "days": 3})
TOKYO: Any = ("time", {"city": "12"})
ONE, TWO = json.dumps({"name": PARIS[0], "arguments": PARIS[1]}), json.dumps({"name": TOKYO[0], "arguments": TOKYO[1]})
TAGS = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    "</function>\n</tool_call>\n<tool_call>\n<function=time>\n<parameter=city>\n12\n</parameter>\n</function>\n"
    "</tool_call>"
)


def split(
    text: str,
    form: Optional[CallForm] = None,
    thinking: Optional[Thinking] = None,
    *,
    is_thinking: bool = False,
    n: int = 1,
) -> Tuple[str, str, List[Tuple[str, Any]]]:
    """Words, thoughts, and calls of a text that comes n characters at a time."""
    splitter = Splitter(form, thinking, is_thinking=is_thinking)
    parts = [part for i in range(0, len(text), n) for part in splitter.feed(text[i : i + n])] + splitter.end()
    words = "".join(part.text for part in parts if isinstance(part, Words))
    thoughts = "".join(part.text for part in parts if isinstance(part, Thought))
    return words, thoughts, [(p.name, json.loads(p.arguments)) for p in parts if isinstance(p, ToolCall)]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("form", "text", "words", "calls"),
    [
        (HERMES, f"<tool_call>\n{ONE}\n</tool_call>", "", [PARIS]),
        (HERMES, f"<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>", "", [PARIS, TOKYO]),
        (HERMES, f"Let me look.\n<tool_call>{ONE}</tool_call>\nDone.", "Let me look.Done.", [PARIS]),
        (LLAMA, ONE.replace("arguments", "parameters"), "", [PARIS]),
        (LLAMA, f"<|python_tag|>{ONE}; {TWO}", "", [PARIS, TOKYO]),
        (MISTRAL, f"[TOOL_CALLS][{ONE}, {TWO}]", "", [PARIS, TOKYO]),
        (BARE_MISTRAL, f"[TOOL_CALLS][{ONE}, {TWO}]", "", [PARIS, TOKYO]),
        (BARE_MISTRAL, f"[{ONE}]", "", [PARIS]),
        (DEEPSEEK, '<|calls|><|call|>weather\n```json\n{"city": "Paris", "days": 3}\n```<|end|><|ends|>', "", [PARIS]),
        (FUNCTIONARY, 'weather\n{"city": "Paris", "days": 3}>>>time\n{"city": "12"}', "", [PARIS, TOKYO]),
        (FUNCTIONARY, "all\nIt is fine.", "It is fine.", []),
        (CODER, TAGS, "", [PARIS, TOKYO]),
        (HERMES, "1 < 2, and <b>bold</b> <tool", "1 < 2, and <b>bold</b> <tool", []),
        (HERMES, "  spaces \n stay \n", "  spaces \n stay \n", []),
        (CODERS, f"```json\n{ONE}\n```", "", [PARIS]),
        (CODERS, f"Sure:\n```json\n[{ONE},\n{TWO}]\n```", "Sure:", [PARIS, TOKYO]),
        (CODERS, ONE, "", [PARIS]),
        (CODERS, 'So:\n```json\n{"a": 1}\n```\n', 'So:\n```json\n{"a": 1}\n```\n', []),
        (HERMES, "No\n <tool_call>{broken}</tool_call>", "No\n <tool_call>{broken}</tool_call>", []),
        (HERMES, "<tool_call>{broken}</tool_call>", "<tool_call>{broken}</tool_call>", []),
        (HERMES, '<tool_call>\n{"name": "f", "argum', '<tool_call>\n{"name": "f", "argum', []),
        (HERMES, '<tool_call>{"name": "f", "arguments": 3}</tool_call>',
         '<tool_call>{"name": "f", "arguments": 3}</tool_call>', []),
        (LLAMA, '{"name": "nobody", "parameters": {}}', '{"name": "nobody", "parameters": {}}', []),
        (LLAMA, '[1, 2, 3] and {"a": 1}', '[1, 2, 3] and {"a": 1}', []),
        (CODER, "<tool_call>\n<function=f>\n<parameter=a>no end", "<tool_call>\n<function=f>\n<parameter=a>no end", []),
        (None, "Anything <tool_call> at all.", "Anything <tool_call> at all.", []),
    ],
)  # fmt: skip
def test_calls_and_words(form: Optional[CallForm], text: str, words: str, calls: Any, n: int) -> None:
    assert split(text, form, n=n) == (words, "", calls)


@pytest.mark.parametrize("n", [1, 4, 1000])
def test_thoughts(n: int) -> None:
    call = f"<tool_call>{ONE}</tool_call>"
    assert split("<think>\nHm, 1 < 2.\n</think>\n\nYes.", HERMES, THINK, n=n) == ("Yes.", "Hm, 1 < 2.", [])
    assert split("Hm.</think>Yes.", None, THINK, is_thinking=True, n=n) == ("Yes.", "Hm.", [])
    assert split(f"Hm.\n</think>\n{call}", HERMES, THINK, is_thinking=True, n=n) == ("", "Hm.", [PARIS])
    assert split("Never an end", None, THINK, is_thinking=True, n=n) == ("", "Never an end", [])
    assert split(f"<think>{call}</think>No.", HERMES, THINK, n=n) == ("No.", call, []), "a thought calls nothing"
    assert split("<think>\n\n</think>\n\nYes.", HERMES, THINK, n=n) == ("Yes.", "", [])


def test_what_is_certain_is_not_held_back() -> None:
    splitter = Splitter(HERMES, THINK)
    assert splitter.feed("One two") == [Words("One two")]
    assert splitter.feed(" <tool") == []
    assert splitter.feed("box> three") == [Words(" <toolbox> three")]
    assert splitter.feed(f"<tool_call>{ONE}<") == [ToolCall(PARIS[0], json.dumps(PARIS[1]))], (
        "a call as soon as it ends"
    )
