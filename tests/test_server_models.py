"""Several models of a config file, embeddings, and streams that the next request interrupts."""

from __future__ import annotations

import concurrent.futures
import json

import openai
import pytest
from server_process import MODEL, OPTIONS, serving

COMMON = {name: OPTIONS[name] for name in ("n_threads", "n_threads_batch")}
MODELS = [
    {"model": str(MODEL), "model_alias": "small", "kv_profile": "uniform", "kv_budget": 64, "n_ctx": 2048},
    {"model": str(MODEL), "model_alias": "stock", "kv_profile": "none", "n_ctx": 1024, "logits_all": True},
    {"model": str(MODEL), "model_alias": "vectors", "embedding": True, "n_ctx": 512},
]
GREETING = [{"role": "user", "content": "Hello there."}]
ENDLESS = {"max_tokens": 900, "extra_body": {"grammar": "root ::= [a-z ] root"}, "stream": True}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "c.json").write_text(json.dumps({"models": [{**model, **COMMON} for model in MODELS]}))
    none = dict.fromkeys(("kv_profile", "kv_budget", "n_threads", "n_threads_batch"))
    config = {"config_file": folder / "c.json", "model": None}
    with serving(folder, **none, **config, interrupt_requests=True) as server:
        yield openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0)


def ask(client, model, **more):
    return client.chat.completions.create(model=model, messages=GREETING, **{"max_tokens": 3, "temperature": 0, **more})


def test_all_are_listed(client):
    assert [model.id for model in client.models.list()] == ["small", "stock", "vectors"]


def test_each_is_loaded_when_it_is_asked_for(client):
    for name, n_ctx in (("small", 2048), ("stock", 1024), ("small", 2048)):
        answer = ask(client, name)
        kv = answer.usage.model_extra["kv"]
        assert answer.model == name
        assert kv["kv_bytes_stock"] == n_ctx * 6 * 2 * 2 * 64 * 2  # layers, K and V, KV heads, head size, f16
        assert (kv["kv_bytes"] < kv["kv_bytes_stock"]) is (name == "small")


def test_an_unknown_name_is_the_first_model(client):
    assert ask(client, "gpt-4o").model == "small"


def test_logprobs_where_logits_are_kept(client):
    answer = ask(client, "stock", logprobs=True, top_logprobs=2)
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) >= 2


def test_embeddings(client):
    answer = client.embeddings.create(model="vectors", input=["Hello.", "There."], encoding_format="float")
    assert [len(each.embedding[0]) for each in answer.data] == [256, 256]  # this model does not pool: a vector a token
    assert answer.usage.prompt_tokens > 0


def test_two_models_at_once_take_turns(client):
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        names = ["small", "stock"] * 3
        assert [answer.model for answer in threads.map(lambda name: ask(client, name), names)] == names


def test_a_new_request_ends_a_stream_if_asked_for(client):
    with ask(client, "small", **ENDLESS) as stream:
        next(stream)
        assert ask(client, "small").usage.completion_tokens >= 1
        n_chunks = sum(1 for _ in stream)  # ends without an error
    assert n_chunks < ENDLESS["max_tokens"]
