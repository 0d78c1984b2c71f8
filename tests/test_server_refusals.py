"""Requests that are refused: each with a status below 500 and a sentence, by a server that goes on."""

from __future__ import annotations

import httpx
import openai
import pytest
from server_process import serving

PICTURE = {"type": "image_url", "image_url": {"url": "x"}}
TOOL = {
    "type": "function",
    "function": {"name": "open_lantern", "description": "Open it.", "parameters": {"type": "object"}},
}
TOOLS = [TOOL]
LIMITED = {"type": "integer", "maximum": 3}
WORDS = [{"role": "user", "content": "The secret code of the amber lantern is 4817. Which code opens it?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("refusals")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url, timeout=120) as made:
        yield made


def ask(client, **more):
    return client.chat.completions.create(
        model="any", **{"messages": WORDS, "max_tokens": 12, "temperature": 0, **more}
    )


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        ({"messages": []}, None, "at least 1 item"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, "context_length_exceeded", "8192 tokens"),
        ({"messages": [{"role": "user", "content": "x " * 9000}], "stream": True}, "context_length_exceeded", "8192"),
        ({"n": 2}, None, "n: "),
        ({"temperature": "hot"}, None, "temperature: "),
        ({"logprobs": True, "top_logprobs": 2}, None, "--logits_all"),
        ({"logprobs": True, "top_logprobs": 2, "stream": True}, None, "--logits_all"),
        ({"messages": [{"content": "x"}]}, None, "no role"),
        ({"extra_body": {"top_k": 2**31}}, None, "top_k"),
        ({"seed": -(2**40)}, None, "seed"),
        ({"extra_body": {"repeat_penalty": 1e300}}, None, "repeat_penalty"),
        ({"logit_bias": {"999999": 1}}, None, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, None, "logit_bias"),
        ({"logit_bias": {"the": 1}}, None, "logit_bias"),
        ({"max_tokens": 0}, None, "max_tokens is 0"),
        ({"logprobs": True}, None, "--logits_all"),
        ({"response_format": {"type": "json_schema"}}, None, "json_schema.schema"),
        ({"response_format": {"type": "json_object", "schema": LIMITED}}, None, "schema.maximum"),
        ({"response_format": {"type": "json_object", "schema": {"$ref": "#"}}}, None, "enforced"),
        ({"tools": [], "tool_choice": "required"}, None, "no tools"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, None, "text only"),
        ({"extra_body": {"grammar": "root ::= ("}, "stream": True}, None, "grammar"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, None, "not found in tools"),
    ],
)  # fmt: skip
def test_bad_requests(client, request_, code, words):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **request_)
    assert caught.value.body["code"] == code
    assert words in caught.value.body["message"]
    assert caught.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/completions", "v1/embeddings", "extras/tokenize"])
@pytest.mark.parametrize("body", [b"{nope", b"", b"[1, 2]", b'"text"', b"\xff\xfe\x00", b"null"])
def test_malformed_bodies(http, path, body):
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("tokens", [[2**31 - 1], [1, -1], [-(2**31) - 1], [3072]])
def test_tokens_beyond_the_vocabulary_end_no_process(http, tokens):
    assert http.post("extras/detokenize", json={"tokens": tokens}).status_code == 400


def test_null_is_the_default(client):
    nulls = dict.fromkeys(("frequency_penalty", "presence_penalty", "seed", "top_p", "stop", "logit_bias"))
    extra = {"extra_body": {"top_k": None, "mirostat_mode": None}}
    assert ask(client, **nulls, **extra).choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize("body", [{"messages": [{"role": []}]}, {"messages": [{"role": "user"}], "model": []}])
def test_what_is_no_conversation(http, body):
    assert http.post("extras/kv/kept", json=body).status_code == 400


def test_unknown_places(http):
    assert http.get("nowhere").json()["error"]["type"] == "not_found_error"
    assert http.get("v1/chat/completions").status_code == 405
    assert http.get("health").json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["docs", "redoc", "docs/oauth2-redirect"])
def test_no_page_that_loads_scripts_from_elsewhere(http, path):
    assert http.get(path).status_code == 404


def test_the_schema_of_the_routes(http):
    paths = http.get("openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/extras/document", "/extras/sessions/{name}"} <= set(paths)


def test_a_page_of_another_site_is_refused(http):
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    for path in ("extras/document?name=x.txt", "v1/completions"):
        answer = http.post(path, content=b"x", headers=foreign)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_an_upgrade_to_a_websocket_is_not_taken(http):
    answer = http.get("v1/models", headers={"connection": "upgrade", "upgrade": "websocket",
                                            "sec-websocket-version": "13", "sec-websocket-key": "x"})  # fmt: skip
    assert answer.status_code == 200  # as if it had not been asked


def test_deep_nesting_is_a_bad_request(http):
    for value in ("[" * 10**5, '{"messages": ' + "[" * 200 + "]" * 200 + "}"):
        answer = http.post("v1/chat/completions", content=value, headers={"content-type": "application/json"})
        assert answer.status_code == 400


def test_answers_bear_the_id_of_their_request(http):
    assert http.get("health", headers={"x-request-id": "mine-2"}).headers["x-request-id"] == "mine-2"
    assert len(http.get("nowhere").headers["x-request-id"]) == 32
