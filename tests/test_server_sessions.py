"""Saved chats: the words, the cache beside them, and what is no name."""

from __future__ import annotations

import httpx
import pytest
from server_process import serving

DOCUMENT = "The gardener carried water to the barn. " * 60 + "The secret code of the amber lantern is 4817. "
ASKED = [{"role": "user", "content": f"{DOCUMENT}\n\nWhich code opens the amber lantern?"}]
AGAIN = {"role": "user", "content": "Which code opens the amber lantern?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sessions")


@pytest.fixture(scope="module")
def http(folder):
    with serving(folder) as server, httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def ask(http, messages):
    body = {"messages": messages, "max_tokens": 12, "temperature": 0}
    answer = http.post("v1/chat/completions", json=body).json()
    return [*messages, answer["choices"][0]["message"]], answer["usage"]


def chat(messages):
    return {"messages": messages, "turns": [{"role": "user", "text": "shown"}], "settings": {"temperature": "0.5"}}


def test_a_chat_comes_back_as_it_was(http):
    messages, _ = ask(http, ASKED)
    assert http.put("extras/sessions/Amber lantern", json=chat(messages)).status_code == 200
    opened = http.post("extras/sessions/Amber lantern/open").json()
    assert {name: opened[name] for name in ("messages", "turns", "settings")} == chat(messages)
    assert "Amber lantern" in [each["name"] for each in http.get("extras/sessions").json()["sessions"]]


def test_its_cache_comes_back_after_other_chats(http):
    messages, before = ask(http, ASKED)
    saved = http.put("extras/sessions/kept", json=chat(messages)).json()
    assert saved["kv"] is True
    ask(http, [{"role": "user", "content": "Something else altogether."}])
    opened = http.post("extras/sessions/kept/open").json()
    assert opened["restored"] is True
    assert opened["usage"]["kv"]["n_tokens_seen"] == before["kv"]["n_tokens_seen"]
    again, usage = ask(http, [*messages, AGAIN])
    assert usage["prompt_tokens_details"]["cached_tokens"] >= before["prompt_tokens"]
    assert "4817" in again[-1]["content"]


def test_a_chat_that_no_slot_remembers_is_saved_without_a_cache(http):
    ask(http, [{"role": "user", "content": "Something else altogether."}])
    assert http.put("extras/sessions/words", json=chat(ASKED)).json()["kv"] is False
    assert http.post("extras/sessions/words/open").json()["restored"] is False


def test_a_cache_that_does_not_fit_is_not_used(http, folder):
    messages, _ = ask(http, ASKED)
    http.put("extras/sessions/damaged", json=chat(messages))
    (folder / "sessions" / "damaged.kv").write_bytes(b"nonsense")
    ask(http, [{"role": "user", "content": "Something else altogether."}])
    opened = http.post("extras/sessions/damaged/open").json()
    assert opened["restored"] is False
    assert opened["messages"] == messages


def test_deleted_is_gone(http, folder):
    messages, _ = ask(http, ASKED)
    http.put("extras/sessions/gone", json=chat(messages))
    assert http.delete("extras/sessions/gone").json() == {"deleted": "gone"}
    assert not list((folder / "sessions").glob("gone*"))
    assert http.post("extras/sessions/gone/open").status_code == 404
    assert http.delete("extras/sessions/gone").status_code == 404


@pytest.mark.parametrize(
    "name", ["..", ".hidden", "a%2Fb", "..%2F..%2Fetc%2Fpasswd", "a%00b", "x" * 81, "%20x", "a%5Cb"]
)
def test_what_is_no_name_is_no_path(http, folder, name):
    before = sorted(folder.rglob("*"))
    for answer in (http.put(f"extras/sessions/{name}", json=chat(ASKED)), http.delete(f"extras/sessions/{name}")):
        assert answer.status_code in (400, 404, 405)
    assert sorted(folder.rglob("*")) == before


def test_a_chat_without_words_is_refused(http):
    assert http.put("extras/sessions/empty", json={"messages": [], "turns": []}).status_code == 400
