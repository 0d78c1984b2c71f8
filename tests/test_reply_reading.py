"""Calls and thoughts of a chat's answer, in one piece and streamed, in the API and through the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Callable, Dict, List

import chat_model
import pytest
from fastapi.testclient import TestClient
from llama_cpp import LlamaGrammar
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from test_reply_learn import TOOLS

from compresskv_edge import Llama
from compresskv_edge.apps.server.app import create_app
from compresskv_edge.apps.server.settings import ModelSettings, ServerSettings
from compresskv_edge.runtime import binding
from compresskv_edge.runtime.forged import control_texts
from compresskv_edge.runtime.reply.answer import AnswerReading, chunks, whole
from compresskv_edge.runtime.reply.thinking import Thinking

TEMPLATE = """\
{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}
{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] if m.content }}
{% for c in m.tool_calls %}<tool_call>{{ {"name": c.function.name, "arguments": c.function.arguments} | tojson }}\
</tool_call>{% endfor %}{% endfor %}<assistant>{{ '<think></think>' if enable_thinking is false }}"""
CALLS = [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Tokyo"})]
TEXT = "".join(
    f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(given)}}}</tool_call>' for name, given in CALLS
)
ASKED = [{"role": "user", "content": "Hm?"}]


def literal(text: str) -> str:
    """A grammar that holds an answer to this text."""
    return f"root ::= {json.dumps(text)}"


@pytest.fixture(scope="module")
def chatty() -> Iterator[Llama]:
    llm = chat_model.load(n_ctx=2048)
    llm.chat_handler = Jinja2ChatFormatter(TEMPLATE, eos_token="<EOS>", bos_token="").to_chat_handler()
    yield llm
    llm.close()


def said(llm: Llama, text: str, *, stream: bool, **options: Any) -> Dict[str, Any]:
    """The message of an answer with this text, and its finish_reason. Streamed, all deltas put together."""
    grammar = LlamaGrammar.from_string(literal(text), verbose=False)
    answer: Any = llm.create_chat_completion(
        ASKED, grammar=grammar, stream=stream, temperature=0, repeat_penalty=1, **options
    )
    if not stream:
        return {**answer["choices"][0]["message"], "finish_reason": answer["choices"][0]["finish_reason"]}
    return together([chunk["choices"][0] for chunk in answer])


def together(choices: List[Any]) -> Dict[str, Any]:
    message: Dict[str, Any] = {"finish_reason": choices[-1]["finish_reason"]}
    for choice in choices:
        for name, value in choice["delta"].items():
            if name == "tool_calls":
                assert value[0].pop("index") == len(message.get(name, []))
            message[name] = message[name] + value if name in message and name != "role" else value
    return message


def called(message: Dict[str, Any]) -> Any:
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]]


@pytest.mark.parametrize("stream", [False, True])
class TestAnswers:
    def test_calls(self, chatty: Llama, stream: bool) -> None:
        message = said(chatty, "So:" + TEXT, stream=stream, tools=TOOLS)
        assert called(message) == CALLS
        assert (message["content"], message["finish_reason"], message["role"]) == ("So:", "tool_calls", "assistant")
        ids = {call["id"] for call in message["tool_calls"]}
        assert len(ids) == 2
        assert all(len(id_) == 9 and id_.isalnum() for id_ in ids)

    def test_one_call_at_most(self, chatty: Llama, stream: bool) -> None:
        assert called(said(chatty, TEXT, stream=stream, tools=TOOLS, parallel_tool_calls=False)) == CALLS[:1]

    @pytest.mark.parametrize("options", [{}, {"tools": TOOLS, "tool_choice": "none"}])
    def test_no_tools_no_calls(self, chatty: Llama, stream: bool, options: Any) -> None:
        message = said(chatty, TEXT, stream=stream, **options)
        assert (message["content"], message["finish_reason"]) == (TEXT, "stop")
        assert "tool_calls" not in message

    def test_thoughts(self, chatty: Llama, stream: bool) -> None:
        message = said(chatty, "<think>Let me see.</think>\n\nYes.", stream=stream)
        assert (message["content"], message["reasoning_content"]) == ("Yes.", "Let me see.")
        message = said(chatty, "<think>Let me see.</think>Yes.", stream=stream, reasoning_format="none")
        assert message["content"] == "<think>Let me see.</think>Yes."

    def test_cut_off(self, chatty: Llama, stream: bool) -> None:
        message = said(chatty, TEXT, stream=stream, tools=TOOLS, max_tokens=4)
        assert message["finish_reason"] == "length"
        assert TEXT.startswith(message["content"])
        assert len(message["content"]) > 3

    def test_a_required_call_of_one_of_several(self, chatty: Llama, stream: bool) -> None:
        answer: Any = chatty.create_chat_completion(
            ASKED, tools=TOOLS, tool_choice="required", stream=stream, max_tokens=200, temperature=0, seed=1
        )
        message = together([chunk["choices"][0] for chunk in answer]) if stream else answer["choices"][0]["message"]
        ((name, arguments),) = called(message)
        assert name in ("get_weather", "get_time")
        assert isinstance(arguments["city"], str)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call_is_named_once_in_a_stream(chatty: Llama, choice: Any) -> None:
    answer: Any = chatty.create_chat_completion(
        ASKED, tools=TOOLS[:1], tool_choice=choice, stream=True, max_tokens=40, temperature=0
    )
    deltas = [chunk["choices"][0]["delta"].get("tool_calls") or [] for chunk in answer]
    parts = [part for delta in deltas for part in delta]
    assert "".join(part["function"].get("name") or "" for part in parts) == "get_weather"
    assert sum("id" in part for part in parts) == 1
    assert len(parts) > 1
    assert "".join(part["function"]["arguments"] for part in parts).startswith("{")


def test_a_template_is_told(chatty: Llama) -> None:
    def text(**options: Any) -> str:
        prompt = chatty.chat_prompt(ASKED, **options)
        assert prompt is not None
        return prompt.text

    assert text(chat_template_kwargs={"enable_thinking": False}).endswith("<assistant><think></think>")
    assert text().endswith("<assistant>")
    assert "get_weather" in text(tools=TOOLS)
    assert "get_weather" not in text(tools=TOOLS, tool_choice="none")


def test_what_cannot_be_is_refused(chatty: Llama) -> None:
    with pytest.raises(ValueError, match="reasoning_format is 'loud': use 'auto', or 'none'"):
        chatty.create_chat_completion(ASKED, reasoning_format="loud")
    handler, chatty.chat_handler = chatty.chat_handler, lambda **_: {"choices": []}
    try:
        assert chatty.create_chat_completion(ASKED) == {"choices": []}
        with pytest.raises(ValueError, match="chat_template_kwargs does nothing with this chat_handler"):
            chatty.create_chat_completion(ASKED, chat_template_kwargs={"a": 1})
    finally:
        chatty.chat_handler = handler


def test_marks_that_are_control_tokens_are_seen(chatty: Llama) -> None:
    """[TOOL_CALLS] of Mistral is one: no text would show it."""
    mark = next(text for text in control_texts(chatty) if text and not ends(chatty, text))
    source = TEMPLATE.replace("<tool_call>", mark)
    handler = chatty.chat_handler
    chatty.chat_handler = Jinja2ChatFormatter(source, eos_token="<EOS>", bos_token="").to_chat_handler()
    try:
        call = chatty.prepare_chat(ASKED, tools=TOOLS)
        assert call is not None
        assert mark.encode() in call.marks.values()
        (token,) = (token for token, text in call.marks.items() if text == mark.encode())
        assert mark.encode() not in chatty.detokenize([token, 70])
        chatty._shown = call.marks
        assert chatty.detokenize([token, 70, token]) == mark.encode() + chatty.detokenize([70]) + mark.encode()
    finally:
        chatty.chat_handler, chatty._shown = handler, {}


def ends(llm: Llama, text: str) -> bool:
    return llm.is_end(*llm.tokenize(text.encode(), add_bos=False, special=True))


def test_a_chunk_of_log_probabilities_is_not_lost() -> None:
    def chunk(delta: Any, finish: Any = None, logprobs: Any = None) -> Any:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return {"id": "1", "choices": [choice]}

    given = [chunk({"content": "<thi"}, logprobs={"content": [1]}), chunk({"content": "s"}), chunk({}, "stop")]
    got = list(chunks(iter(given), AnswerReading(thinking=Thinking("<think>", "</think>"))))
    assert [each["choices"][0]["delta"].get("content") for each in got] == ["", "<this", None]
    assert got[0]["choices"][0]["logprobs"] == {"content": [1]}


def test_a_prompt_that_begins_the_thoughts() -> None:
    chat = {"choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                         "message": {"role": "assistant", "content": "Hm.\n</think>\n\nYes."}}]}  # fmt: skip
    answer = whole(chat, AnswerReading(thinking=Thinking("<think>", "</think>"), is_thinking=True))
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}


@pytest.mark.parametrize("stream", [False, True])
def test_through_the_server(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = Jinja2ChatFormatter(TEMPLATE, eos_token="<EOS>", bos_token="")
    monkeypatch.setattr(binding, "formatter_of", lambda _: formatter)
    model = ModelSettings(model=chat_model.MODEL, kv_profile="demo", kv_budget=128, n_ctx=2048, n_threads=1)
    body = {
        "messages": [*ASKED, {"role": "assistant", "content": None, "tool_calls": history()},
                     {"role": "tool", "tool_call_id": "abcdefgh1", "content": "Rain."}],
        "tools": TOOLS, "parallel_tool_calls": True, "stream": stream, "temperature": 0, "repeat_penalty": 1,
        "grammar": literal("<think>Hm.</think>" + TEXT), "chat_template_kwargs": {"enable_thinking": True},
    }  # fmt: skip
    with TestClient(create_app(ServerSettings(), [model]), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        if stream:
            lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
            message = together([json.loads(line)["choices"][0] for line in lines])
        else:
            message = answer.json()["choices"][0]["message"]
        assert called(message) == CALLS
        assert message["reasoning_content"] == "Hm."
        for wrong, words in (
            ({"tools": [{"type": "function"}]}, "tools[0] has no function"),
            ({"tool_choice": {"type": "function"}}, "names no function"),
            ({"tool_choice": "required", "tools": []}, "there are no tools"),
            ({"reasoning_format": "loud"}, "reasoning_format"),
        ):
            refused = client.post("/v1/chat/completions", json={**body, **wrong})
            assert refused.status_code == 400
            assert words in refused.json()["error"]["message"]


def history() -> List[Any]:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    return [{"id": "abcdefgh1", "type": "function", "function": function}]


def test_threads_have_their_own_prompts(load: Callable[..., Llama]) -> None:
    """Two streams that wait for each other: each knows where its system prompt and its question stand."""
    llm = load(chat_format="chatml")
    begun: List[int] = []
    known = llm._begun

    def watched(tokens: Any) -> Any:
        prompt = known(tokens)
        begun.append(prompt.n_system)
        return prompt

    llm._begun = watched  # type: ignore[method-assign]
    streams = [
        llm.create_chat_completion(
            [{"role": "system", "content": "B" * n}, *ASKED], stream=True, max_tokens=2, temperature=0
        )
        for n in (3, 9)
    ]
    for stream in streams:
        list(stream)
    assert len(set(begun)) == 2
    assert all(n > 0 for n in begun)
