"""Calls that a chat template writes are read back: all templates that llama.cpp comes with, each of its kind."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
import upstream
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from compresskv_edge.runtime.reply.form import CallForm
from compresskv_edge.runtime.reply.json_calls import JsonCalls
from compresskv_edge.runtime.reply.learn import _behind, learned
from compresskv_edge.runtime.reply.named_calls import NamedCalls
from compresskv_edge.runtime.reply.splitter import Splitter, ToolCall
from compresskv_edge.runtime.reply.tagged_calls import TaggedCalls
from compresskv_edge.runtime.reply.thinking import thinking_of

_NO_CALLS = "writes no calls of earlier turns, whatever it tells the model"
_OWN = "a form of its own, which none of ours is"
_SANDBOX = "changes a list, which the binding's sandbox forbids"
NOT_READ = {
    "HuggingFaceTB-SmolLM3-3B": _NO_CALLS,
    "Kimi-K2-Instruct": _SANDBOX,
    "Kimi-K2-Thinking": _SANDBOX,
    "Kimi-K3": _OWN,
    "LFM2-8B-A1B": _NO_CALLS,
    "LFM2.5-8B-A1B": _OWN,
    "LFM2.5-Instruct": _NO_CALLS,
    "MiniMax-M3": _OWN,
    "NVIDIA-Nemotron-Nano-v2": _NO_CALLS,
    "deepseek-ai-DeepSeek-V3.2": _OWN,
    "deepseek-ai-DeepSeek-V4": _OWN,
    "deepseek-ai-DeepSeek-V4-Flash-0731": _OWN,
    "fireworks-ai-llama-3-firefunction-v2": "cannot be rendered without a date that the binding does not give",
    "google-gemma-2-2b-it": _NO_CALLS,
    "google-gemma-4-31B-it": _OWN,
    "google-gemma-4-31B-it-interleaved": _OWN,
    "ibm-granite-granite-3.3-2B-Instruct": _NO_CALLS,
    "llama-cpp-deepseek-r1": "hands a generator to tojson, which the binding cannot write",
    "llama-cpp-rwkv-world": _NO_CALLS,
    "microsoft-Phi-3.5-mini-instruct": _NO_CALLS,
    "muse-glimmer": _OWN,
    "openai-gpt-oss-120b": _OWN,
    "openbmb-MiniCPM5-1B": _OWN,
}
KINDS = {
    "Qwen-Qwen2.5-7B-Instruct": JsonCalls,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": JsonCalls,
    "meta-llama-Llama-3.1-8B-Instruct": JsonCalls,
    "mistralai-Mistral-Nemo-Instruct-2407": JsonCalls,
    "Mistral-Small-3.2-24B-Instruct-2506": NamedCalls,
    "meetkai-functionary-medium-v3.1": NamedCalls,
    "meetkai-functionary-medium-v3.2": NamedCalls,
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": NamedCalls,
    "Qwen3-Coder": TaggedCalls,
    "GLM-4.6": TaggedCalls,
}

CALLS: List[Tuple[str, Dict[str, Any]]] = [
    ("get_weather", {"city": 'Paris "x" {é}\nb', "days": 3}),
    ("get_time", {"city": "12"}),
]


def tool(name: str) -> Dict[str, Any]:
    properties = {"city": {"type": "string", "description": "A."}, "days": {"type": "integer", "description": "B."}}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": "It.", "parameters": parameters}}


TOOLS = [tool(name) for name, _ in CALLS]
USER = {"role": "user", "content": "Q"}


def templates() -> List[Path]:
    return sorted(upstream.folder("templates").glob("*.jinja"))


class Template:
    """One of llama.cpp's, the form that is learned of it, and what it writes for CALLS."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        self.formatter = Jinja2ChatFormatter(self.source, eos_token="<EOS>", bos_token="<BOS>")
        self.thinking = thinking_of(self.source)

    def render(self, messages: List[Dict[str, Any]], tools: List[Any]) -> str:
        return str(self.formatter(messages=messages, tools=tools).prompt)

    def form(self) -> Optional[CallForm]:
        return learned(self.render, TOOLS, self.source, self.thinking)

    def answer(self) -> Tuple[str, int]:
        """What the model is to write for both calls, or for one where the template takes no more; and how many."""
        for n, encode in ((2, lambda a: a), (2, json.dumps), (1, lambda a: a)):
            calls = [
                {"id": f"abcdefgh{i}", "type": "function", "function": {"name": name, "arguments": encode(arguments)}}
                for i, (name, arguments) in enumerate(CALLS[:n])
            ]
            for content in ("", None):
                try:
                    asked = self.render([USER], TOOLS)
                    text = self.render([USER, {"role": "assistant", "content": content, "tool_calls": calls}], TOOLS)
                except Exception:  # a template is a program: this form of the calls is not its own
                    continue
                text = _behind(asked, text, self.thinking)
                if "get_weather" in text:
                    return text, text.count("get_weather") + text.count("get_time")
        raise AssertionError("the template writes nothing")


@functools.cache
def template(name: str) -> Template:
    return Template(upstream.folder("templates") / f"{name}.jinja")


@pytest.mark.parametrize("name", [path.stem for path in templates()])
def test_what_a_template_writes_is_read_back(name: str) -> None:
    form = template(name).form()
    if name in NOT_READ:
        assert form is None, f"{name} is read now: take it off the list"
        return
    assert form is not None
    text, n = template(name).answer()
    for step in (1, 5, len(text)):
        splitter = Splitter(form)
        parts = [part for i in range(0, len(text), step) for part in splitter.feed(text[i : i + step])]
        calls = [(p.name, json.loads(p.arguments)) for p in parts + splitter.end() if isinstance(p, ToolCall)]
        assert calls == CALLS[:n]


def test_the_list_names_what_there_is() -> None:
    assert set(NOT_READ) | set(KINDS) <= {path.stem for path in templates()}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind(name: str) -> None:
    assert type(template(name).form()) is KINDS[name]


def test_a_template_that_only_speaks_of_calls() -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %} Write <tool_call>{...}</tool_call> to call."
    formatter = Jinja2ChatFormatter(source, eos_token="", bos_token="")
    form = learned(lambda messages, tools: str(formatter(messages=messages).prompt), TOOLS, source, None)
    assert form is not None
    assert form.marks.opens == ("<tool_call>", "```json")


def test_a_template_without_calls() -> None:
    formatter = Jinja2ChatFormatter("{% for m in messages %}{{ m.content }}{% endfor %}", eos_token="", bos_token="")
    assert learned(lambda messages, tools: str(formatter(messages=messages).prompt), TOOLS, "", None) is None
