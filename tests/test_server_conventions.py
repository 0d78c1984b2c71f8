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
    ("prompt", "words"), [([65, 3072], "3071"), ([-1], "3071"), (["a"] * 129, "129 prompts"), ([], "0 prompts")]
)
def test_prompts_that_are_none(http, prompt, words):
    answer = http.post("v1/completions", json={"prompt": prompt, "max_tokens": 2})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("input_", ["", [], ["a", ""]])
def test_nothing_to_embed(http, input_):
    answer = http.post("v1/embeddings", json={"input": input_})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


def test_several_prompts_and_choices(client):
    options = {"model": "any", "max_tokens": 3, "temperature": 0}
    alone = [client.completions.create(prompt=prompt, **options) for prompt in ("The secret", "The survey")]
    words = [answer.choices[0].text for answer in alone]
    both = client.completions.create(prompt=["The secret", "The survey"], n=2, **options)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in both.choices] == [words[0], words[0], words[1], words[1]]
    assert both.usage.prompt_tokens == 2 * sum(answer.usage.prompt_tokens for answer in alone)
    assert both.usage.completion_tokens == 2 * sum(answer.usage.completion_tokens for answer in alone)
    tokens = client.completions.create(prompt=[[1, 65], [1, 66, 67]], **options)
    assert (len(tokens.choices), tokens.usage.prompt_tokens) == (2, 5)


def test_several_prompts_streamed(client):
    options = {"model": "any", "max_tokens": 3, "temperature": 0}
    whole = client.completions.create(prompt=["The secret", "The survey"], **options)
    usage = {"stream_options": {"include_usage": True}}
    chunks = list(client.completions.create(prompt=["The secret", "The survey"], stream=True, **options, **usage))
    texts = ["", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert len({chunk.id for chunk in chunks[:-1]}) == 1
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_choices_differ_by_their_seeds(client):
    options = {"model": "any", "prompt": "The", "max_tokens": 12, "temperature": 1.5, "n": 3}
    first, again = (client.completions.create(seed=7, **options) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert len(set(texts)) > 1
    assert [choice.text for choice in again.choices] == texts


@pytest.mark.parametrize("more", [{}, {"echo": True}])
def test_a_text_and_its_tokens_are_answered_alike(http, more):
    text = "The secret code"
    tokens = http.post("extras/tokenize", json={"input": text}).json()["tokens"]
    body = {"max_tokens": 3, "temperature": 0}
    of_text, of_tokens = (
        http.post("v1/completions", json={"prompt": prompt, **body, **(more if prompt is text else {})}).json()
        for prompt in (text, tokens)
    )
    assert of_tokens["choices"][0]["text"] in of_text["choices"][0]["text"]
    assert of_text["choices"][0]["text"].startswith(text if "echo" in more else of_tokens["choices"][0]["text"])
