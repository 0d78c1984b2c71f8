"""`compresskv chat demo`: the model that ships with the package, in the form it was trained for, and a text to ask."""

from __future__ import annotations

import functools
import random
from typing import Any

from .. import demo
from ..demo import model_path as model_path
from ..evaluate import haystack
from ..gguf_file import GGUF
from ..llama import llama_cpp
from .document import Document

NAME = "demo"
CHAT_FORMAT = "compresskv-demo"
BUDGET = demo.BUDGET

_N_WORDS = 1600  # 2770 tokens: room for some forty questions before the context of 4096 ends
_formats = llama_cpp.llama_chat_format


@_formats.register_chat_format(CHAT_FORMAT)  # type: ignore[untyped-decorator]
def format_demo(messages: list[dict[str, str]], **_: Any) -> Any:
    """`text`, a blank line, `Question: ... Answer:`, as haystack.question_prompt makes it. An answer is a sentence."""
    parts = [_part(message["role"], message["content"] or "") for message in messages]
    return _formats.ChatFormatterResponse(prompt="".join(parts), stop=["\n", ". "])


def _part(role: str, content: str) -> str:
    if role == "assistant":
        return f" {content}\n\n"
    if role != "user":
        return f"{content}\n\n"
    text, gap, question = content.rpartition("\n\n")  # a document stands before its question
    return f"{text}{gap}Question: {question} Answer:"


def chat_format() -> str | None:
    """For llama_cpp.Llama; None if the model brings a template of its own."""
    has_template = "tokenizer.chat_template" in GGUF.open(demo.model_path()).metadata
    return None if has_template else CHAT_FORMAT


@functools.lru_cache(maxsize=1)
def document() -> Document:
    """A generated text that hides the facts of `compresskv demo`, the same every time."""
    placed = [(depth, fact.sentence) for depth, fact in demo.facts()]
    text = haystack.document(random.Random(demo.SEED), placed, _N_WORDS, lambda part: len(part.split()))
    return Document("the demo's text", text.strip())


def welcome(asked: Document) -> str:
    """One line: what this small model can be asked about a document."""
    if asked is not document():
        return "It only finds facts that the text states: codes, places, jobs, colours, prices."
    return f"It only finds facts in its text. Ask: {demo.facts()[1][1].question}"
