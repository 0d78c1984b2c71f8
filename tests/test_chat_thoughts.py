"""A reasoning model in the terminal chat: its thoughts are shown, and no later question finds them in the cache."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import chat_model
import pytest
from llama_cpp import LlamaGrammar
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from rich.console import Console
from test_reply_reading import TEMPLATE, literal

from compresskv_edge.apps.chat.conversation import Conversation
from compresskv_edge.apps.chat.markdown import MarkdownStream
from compresskv_edge.apps.chat.terminal import answer_all
from compresskv_edge.apps.chat.view import _Growing

THOUGHT = "Lantern, amber and eleven. " * 4


@pytest.fixture(params=[16, 512], ids=["evicted", "in-the-tail"])
def chat(request: pytest.FixtureRequest) -> Iterator[Conversation]:
    llm = chat_model.load(kv_budget=64, kv_tail=request.param, n_ctx=1024)
    llm.chat_handler = Jinja2ChatFormatter(TEMPLATE, eos_token="<EOS>", bos_token="").to_chat_handler()
    grammar = LlamaGrammar.from_string(literal(f"<think>{THOUGHT}</think>Yes."), verbose=False)
    chat = Conversation(llm, sampling={"temperature": 0, "repeat_penalty": 1, "grammar": grammar})
    yield chat
    chat.close()


def text_of(chat: Conversation) -> str:
    llm: Any = chat.llm
    return str(llm.detokenize(llm.input_ids[: llm.n_tokens].tolist()).decode())


def test_thoughts_do_not_stay(chat: Conversation) -> None:
    for n_turns in (1, 2, 3):
        assert "".join(chat.ask("Hm?")) == "Yes."
        assert chat.thoughts == THOUGHT.strip()
        assert text_of(chat).count("eleven") == 4, "those of this turn"
        assert [message["content"] for message in chat.messages] == ["Hm?", "Yes."] * n_turns


def test_they_are_shown(chat: Conversation) -> None:
    (result,) = answer_all(chat, ["Hm?"])
    assert (result["answer"], result["thoughts"]) == ("Yes.", THOUGHT.strip())
    console = Console(file=io.StringIO(), width=200)
    console.print(_Growing(chat, MarkdownStream()))
    assert "amber and eleven" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_model_is_asked_not_to_think(chat: Conversation) -> None:
    chat.template_options = Conversation(chat.llm, thinks=False).template_options
    prompt = chat._prompt("Hm?")
    assert prompt is not None
    assert prompt.text.endswith("<think></think>")
