"""OpenAI's conventions: schemas, tools that must be called, prompts in all forms, and nothing to embed."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from server_process import serving
from test_server_api import TOOLS, ask, document


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("conventions")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url, timeout=120) as made:
        yield made


def test_parse_by_a_schema(client):
    schema = {"name": "code", "strict": True, "schema": {**TOOLS[0]["function"]["parameters"], "title": "Code"}}
    answer = ask(client, document(5), response_format={"type": "json_schema", "json_schema": schema}, max_tokens=40)
    assert isinstance(json.loads(answer.choices[0].message.content)["code"], int)


def test_a_tool_is_required(client):
    call = (
        ask(client, document(10), tools=TOOLS, tool_choice="required", max_tokens=40).choices[0].message.tool_calls[0]
    )
    assert isinstance(json.loads(call.function.arguments)["code"], int)


@pytest.mark.parametrize(
    ("prompt", "n_prompt"), [("", 1), ([1, 65, 66], 3), ([[1, 65]], 2), (["The secret"], None), ([[]], None)]
)
def test_prompts_in_all_forms(http, prompt, n_prompt):
    answer = http.post("v1/completions", json={"prompt": prompt, "max_tokens": 2})
    assert answer.status_code == (400 if prompt == [[]] else 200)
    assert n_prompt in (None, answer.json().get("usage", {}).get("prompt_tokens"))


@pytest.mark.parametrize(
    ("prompt", "words"), [([65, 3072], "3071"), ([-1], "3071"), (["a", "b"], "2 prompts"), ([[65], [66]], "2 prompts")]
)
def test_prompts_that_are_none(http, prompt, words):
    answer = http.post("v1/completions", json={"prompt": prompt, "max_tokens": 2})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("input_", ["", [], ["a", ""]])
def test_nothing_to_embed(http, input_):
    answer = http.post("v1/embeddings", json={"input": input_})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")
