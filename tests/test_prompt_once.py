"""A turn of a chat renders once and tokenises once, through the server and in the terminal chat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, List

import chat_model
import pytest
from fastapi.testclient import TestClient
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from compresskv_edge import Llama
from compresskv_edge.apps.chat.conversation import Conversation
from compresskv_edge.apps.chat.document import Document
from compresskv_edge.apps.server.app import create_app
from compresskv_edge.apps.server.settings import ModelSettings, ServerSettings

SYSTEM = {"role": "system", "content": "Answer with the value only."}


class Counts:
    """Renderings, and lengths of texts that were tokenised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rendered = 0
        self.tokenised: List[int] = []
        render, tokenize = Jinja2ChatFormatter.__call__, Llama.tokenize

        def counted_render(formatter: Any, **options: Any) -> Any:
            self.rendered += 1
            return render(formatter, **options)

        def counted_tokenize(llm: Llama, text: bytes, *args: Any, **options: Any) -> Any:
            self.tokenised.append(len(text))
            return tokenize(llm, text, *args, **options)

        monkeypatch.setattr(Jinja2ChatFormatter, "__call__", counted_render)
        monkeypatch.setattr(Llama, "tokenize", counted_tokenize)

    def clear(self) -> None:
        self.rendered, self.tokenised = 0, []


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


@pytest.fixture(params=["full", "guided"])
def chat(request: pytest.FixtureRequest, counts: Counts) -> Iterator[Conversation]:
    llm = chat_model.load(kv_prefill=request.param, n_ctx=2048)
    chat = Conversation(llm, Document("facts.txt", chat_model.text()), str(SYSTEM["content"]), chat_model.SAMPLING)
    chat.read_ahead()
    counts.clear()
    yield chat
    chat.close()


def test_in_the_terminal_chat(chat: Conversation, counts: Counts) -> None:
    for n_turns, fact in enumerate(chat_model.facts()[:2], 1):
        assert "".join(chat.ask(fact.question)).rstrip(".") == fact.answer
        assert (counts.rendered, len(counts.tokenised)) == (n_turns, n_turns)


@pytest.mark.parametrize("stream", [False, True])
def test_through_the_server(stream: bool, counts: Counts) -> None:
    model = ModelSettings(model=chat_model.MODEL, kv_profile="demo", kv_budget=128, n_ctx=2048, n_threads=1)
    fact = chat_model.facts()[0]
    question = {"role": "user", "content": f"{chat_model.text()}\n\n{fact.question}"}
    body = {"messages": [SYSTEM, question], "temperature": 0, "max_tokens": 24, "stream": stream}
    with TestClient(create_app(ServerSettings(), [model]), base_url="http://127.0.0.1") as client:
        counts.clear()
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert stream or fact.answer in answer.json()["choices"][0]["message"]["content"]
    assert (counts.rendered, len(counts.tokenised)) == (1, 1)
