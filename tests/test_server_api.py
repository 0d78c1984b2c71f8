"""The server as its clients meet it: the official openai client, and plain HTTP where that client cannot misbehave."""

from __future__ import annotations

import json
import time

import httpx
import openai
import pytest
from server_process import serving
from test_chat_document import write_pdf

FACT = "The secret code of the amber lantern is 4817. "
HAY = "The survey confirms the limits of the first experiment, and no further comment is made. "
QUESTION = "Which code opens the amber lantern?"
PICTURE = {"type": "image_url", "image_url": {"url": "x"}}
LIMITED = {"type": "integer", "maximum": 3}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "open_lantern",
            "description": "Open it.",
            "parameters": {"type": "object", "properties": {"code": {"type": "integer"}}, "required": ["code"]},
        },
    }
]

# seconds of work: a grammar without an end
GRAMMAR = {"grammar": "root ::= [a-z ] root"}
ENDLESS = {"max_tokens": 7000, "extra_body": GRAMMAR, "extra_headers": {"X-Request-Id": "mine"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("api"), n_slots=2) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url, timeout=120) as made:
        yield made


def document(n=40):
    return [{"role": "user", "content": HAY * n + FACT + HAY * n + f"\n\n{QUESTION}"}]


def ask(client, messages, **more):
    return client.chat.completions.create(
        model="any", messages=messages, **{"max_tokens": 12, "temperature": 0, **more}
    )


def test_chat(client):
    answer = ask(client, document())
    assert "4817" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "demo-q8_0.gguf"


def test_usage_tells_the_cache(client):
    usage = ask(client, document()).usage
    kv = usage.model_extra["kv"]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert kv["n_tokens_seen"] == usage.total_tokens
    assert 128 <= max(kv["n_tokens_kept"]) <= 128 + usage.completion_tokens
    assert kv["kv_bytes"] < kv["kv_bytes_full"] < kv["kv_bytes_stock"]


def test_stream_gives_the_same_words_and_the_usage_last(client):
    whole = ask(client, document(30))
    chunks = list(ask(client, document(30), stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.model_extra["kv"]["kv_bytes"] == whole.usage.model_extra["kv"]["kv_bytes"]


def test_stream_without_the_option_has_no_usage(client):
    assert all(chunk.usage is None for chunk in ask(client, document(5), stream=True))


def test_next_turn_reuses_the_conversation(client):
    messages = document(35)
    first = ask(client, messages)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}]
    second = ask(client, [*messages, {"role": "user", "content": QUESTION}])
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    assert "4817" in second.choices[0].message.content


def test_tools(client):
    choice = {"type": "function", "function": {"name": "open_lantern"}}
    call = ask(client, document(10), tools=TOOLS, tool_choice=choice, max_tokens=40).choices[0].message.tool_calls[0]
    assert call.function.name == "open_lantern"
    assert isinstance(json.loads(call.function.arguments)["code"], int)


def test_json_mode(client):
    answer = ask(client, document(5), response_format={"type": "json_object"}, max_tokens=60, stop=["}"])
    assert answer.choices[0].message.content.lstrip().startswith("{")


def test_completions(client):
    answer = client.completions.create(model="any", prompt=f"{HAY * 20}{FACT}\n\nQuestion: {QUESTION} Answer:",
                                       temperature=0, max_tokens=8, stop=["."])  # fmt: skip
    assert answer.choices[0].text.strip() == "4817"
    chunks = client.completions.create(model="any", prompt="The secret", max_tokens=3, stream=True)
    assert 1 <= sum(bool(chunk.choices[0].text) for chunk in chunks) <= 3


def test_text_parts_and_the_newer_name_of_max_tokens(client):
    parts = [{"type": "text", "text": part} for part in (HAY * 5, FACT, QUESTION)]
    answer = ask(client, [{"role": "user", "content": parts}], max_tokens=openai.omit, max_completion_tokens=2)
    assert answer.usage.completion_tokens == 2


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == client.models.retrieve(model.id).id == "demo-q8_0.gguf"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other.gguf")


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
        ({"tools": TOOLS * 2, "tool_choice": "required"}, None, "several tools"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, None, "text only"),
        ({"extra_body": {"grammar": "root ::= ("}, "stream": True}, None, "grammar"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, None, "not found in tools"),
    ],
)  # fmt: skip
def test_bad_requests(client, request_, code, words):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **{"messages": document(1), **request_})
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
    assert ask(client, document(1), **nulls, **extra).choices[0].finish_reason in ("stop", "length")


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


def test_no_embeddings_without_the_option(http):
    answer = http.post("v1/embeddings", json={"input": "x"})
    assert answer.status_code == 400
    assert "--embedding true" in answer.json()["error"]["message"]


def test_tokens_there_and_back(http):
    tokens = http.post("extras/tokenize", json={"input": FACT}).json()["tokens"]
    assert http.post("extras/tokenize/count", json={"input": FACT}).json() == {"count": len(tokens)}
    assert http.post("extras/detokenize", json={"tokens": tokens}).json()["text"].strip() == FACT.strip()


def test_slots_work_at_the_same_time_and_tell_what_they_do(client, http):
    with ask(client, [{"role": "user", "content": "Tell me everything."}], **ENDLESS, stream=True) as stream:
        next(stream)
        assert "4817" in ask(client, document(2)).choices[0].message.content  # the other slot
        mine = next(slot for slot in http.get("extras/slots").json()["slots"] if slot["request_id"] == "mine")
        assert mine["state"] == "answer"
        assert 0 < mine["n_generated"] < ENDLESS["max_tokens"]
    idle(http)


def test_a_client_that_leaves_frees_its_slot(client, http):
    before = metric(http, "compresskv_generated_tokens_total")
    for _ in range(2):  # both slots
        with ask(client, document(2), **ENDLESS, stream=True) as stream:
            next(stream)
    idle(http)
    assert metric(http, "compresskv_generated_tokens_total") < before + ENDLESS["max_tokens"]


def test_a_client_that_leaves_without_streaming_stops_its_answer(http, client):
    with pytest.raises(openai.APITimeoutError):
        ask(client, document(3), **ENDLESS, timeout=0.5)
    idle(http)
    assert metric(http, "compresskv_generated_tokens_total") > 0


def test_a_prompt_that_was_left_midway_gives_its_memory_back(client, http):
    with pytest.raises(openai.APITimeoutError):
        ask(client, [{"role": "user", "content": HAY * 250}], timeout=0.6)
    idle(http)
    for slot in http.get("extras/slots").json()["slots"]:
        assert slot["kv_bytes"] < 0.2 * slot["kv_bytes_stock"]
    assert "4817" in ask(client, document(12)).choices[0].message.content


def test_kept_words(client, http):
    messages = document(33)
    ask(client, messages)
    kept = http.post("extras/kv/kept", json={"messages": messages}).json()
    text = "".join(piece for piece, _ in kept["pieces"])
    assert messages[0]["content"] in text
    counts = [count for piece, count in kept["pieces"] for _ in piece]
    assert max(counts) == kept["n_layers"] == 6
    at = text.index("4817")
    assert max(counts[at : at + 4]) > 0
    assert sum(map(bool, counts)) < 0.5 * len(counts)
    other = http.post("extras/kv/kept", json={"messages": [{"role": "user", "content": "Something else."}]})
    assert other.status_code == 404


def test_metrics(client, http):
    before = metric(http, "compresskv_prompt_tokens_total")
    usage = ask(client, document(4)).usage
    assert metric(http, "compresskv_prompt_tokens_total") == before + usage.prompt_tokens
    text = http.get("metrics").text
    assert 'compresskv_kv_bytes_stock{slot="0"} 2.5165824e+07' in text
    assert 'path="/v1/chat/completions",status="400"' in text
    assert 'path="other",status="404"' in text


def test_properties(http):
    props = http.get("extras/props").json()
    assert {props[name] for name in ("n_ctx", "n_slots", "kv_budget")} == {8192, 2, 128}
    assert props["chat_template"] is True


def test_text_of_a_pdf(http, tmp_path):
    file = write_pdf(tmp_path / "manual.pdf", ["The code is 4817."])
    answer = http.post("extras/document?name=manual.pdf", content=file.read_bytes())
    assert answer.json() == {"name": "manual.pdf", "text": "The code is 4817."}


def test_document_text(http):
    assert http.post("extras/document?name=notes.md", content="\ufeff# Überschrift\n".encode()).json() == {
        "name": "notes.md", "text": "# Überschrift"
    }  # fmt: skip
    broken = http.post("extras/document?name=../x.pdf", content=b"no pdf")
    assert broken.status_code == 400
    assert "'x.pdf'" in broken.json()["error"]["message"]


def metric(http, name):
    lines = http.get("metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def idle(http):
    """Wait until no slot is busy: the thread of a stopped one has to notice."""
    until = time.monotonic() + 30
    while any(slot["busy"] for slot in http.get("extras/slots").json()["slots"]):
        assert time.monotonic() < until, "a slot stays busy"
        time.sleep(0.02)
