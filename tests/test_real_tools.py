"""Tools with a real model, through the openai client: one call, two in parallel, streamed, forced, none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Dict, List, Tuple

import openai
import pytest
from server_process import serving

pytestmark = pytest.mark.real

WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
BOTH = [{"role": "user", "content": "Get the weather in Paris. Get the time in Tokyo."}]


def tool(name: str, what: str) -> Any:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city's name"}},
        "required": ["city"],
    }
    return {"type": "function", "function": {"name": name, "description": what, "parameters": parameters}}


TOOLS = [
    tool("get_weather", "Get the current weather of a city"),
    tool("get_time", "Get the current time in a city"),
]


@pytest.fixture(scope="module")
def client(qwen_coder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    options = {"model": qwen_coder, "kv_budget": 512, "n_ctx": 4096}
    folder = tmp_path_factory.mktemp("tools")
    with serving(folder, **options) as server, openai.OpenAI(base_url=f"{server.url}v1", api_key="none") as made:
        yield made


def ask(client: openai.OpenAI, messages: List[Any], **options: Any) -> Any:
    return client.chat.completions.create(
        model="any", messages=messages, tools=TOOLS, temperature=0, max_tokens=100, **options
    )


def calls(message: Any) -> List[Tuple[str, Dict[str, Any]]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


def test_one_call_and_its_result(client: openai.OpenAI) -> None:
    choice = ask(client, WEATHER).choices[0]
    assert calls(choice.message) == [("get_weather", {"city": "Paris"})]
    assert choice.finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "Rain, 11 degrees"}
    history = [*WEATHER, choice.message.model_dump(exclude_none=True), result]
    answer = ask(client, history, tool_choice="none").choices[0]  # so small a model would call once more
    assert answer.message.tool_calls is None
    assert "Rain" in answer.message.content


def test_streamed(client: openai.OpenAI) -> None:
    names: Dict[int, str] = {}
    arguments: Dict[int, str] = {}
    words, reasons = "", []
    for chunk in ask(client, WEATHER, stream=True):
        choice = chunk.choices[0]
        words += choice.delta.content or ""
        reasons.append(choice.finish_reason)
        for part in choice.delta.tool_calls or []:
            names[part.index] = names.get(part.index, "") + (part.function.name or "")
            arguments[part.index] = arguments.get(part.index, "") + (part.function.arguments or "")
    assert (names, json.loads(arguments[0]), words) == ({0: "get_weather"}, {"city": "Paris"}, "")
    assert reasons[-1] == "tool_calls"


def test_two_in_parallel(client: openai.OpenAI) -> None:
    message = ask(client, BOTH, tool_choice="required", parallel_tool_calls=True).choices[0].message
    assert calls(message) == [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Tokyo"})]
    assert len({call.id for call in message.tool_calls}) == 2


def test_forced(client: openai.OpenAI) -> None:
    hello = [{"role": "user", "content": "Hello! I am in Paris."}]
    assert len(calls(ask(client, hello, tool_choice="required").choices[0].message)) == 1
    named = {"type": "function", "function": {"name": "get_time"}}
    assert [name for name, _ in calls(ask(client, hello, tool_choice=named).choices[0].message)] == ["get_time"]


def test_none(client: openai.OpenAI) -> None:
    choice = ask(client, WEATHER, tool_choice="none").choices[0]
    assert choice.message.tool_calls is None
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
