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
    assert http.post("v1/chat/completions", json={}).status_code == 400
    assert http.get("nowhere").status_code == 404
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
