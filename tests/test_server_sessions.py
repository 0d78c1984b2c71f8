"""Saved chats: the words, the cache beside them, and what is no name."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
from server_process import serving

from compresskv_edge.apps.server.errors import ApiError
from compresskv_edge.apps.server.sessions import ChatFolder, _in_folder

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


@pytest.mark.parametrize("name", ["NUL", "com1.chat", "x.", "𐍈" * 80])
def test_a_name_that_another_system_does_not_take(http, folder, name):
    assert http.put(f"extras/sessions/{quote(name)}", json=chat(ASKED)).status_code == 400


@pytest.mark.parametrize("name", ["🏮 amber", "𐍈" * 50])
def test_names_of_any_letters(http, folder, name):
    assert http.put(f"extras/sessions/{quote(name)}", json=chat(ASKED)).status_code == 200
    assert (folder / "sessions" / f"{name}.json").is_file()
    assert http.post(f"extras/sessions/{quote(name)}/open").json()["messages"] == ASKED
    assert http.delete(f"extras/sessions/{quote(name)}").json() == {"deleted": name}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"messages": 3}', b"[" * 10**5, b"\xff"])
def test_a_damaged_file_is_an_error_and_no_failure(http, folder, damage):
    assert http.put("extras/sessions/torn", json=chat(ASKED)).status_code == 200
    (folder / "sessions" / "torn.json").write_bytes(damage)
    answer = http.post("extras/sessions/torn/open")
    assert answer.status_code == 422
    assert "damaged" in answer.json()["error"]["message"]
    assert http.delete("extras/sessions/torn").status_code == 200


def test_two_at_once_write_one_whole_chat(http, folder):
    """One .part file for both would be the words of one in the place of the other's."""
    texts = [letter * 200_000 for letter in "abcdefgh"]

    def save(text):
        return http.put(
            "extras/sessions/both", json=chat([{"role": "user", "content": "x"}]) | {"turns": [{"t": text}]}
        )

    with ThreadPoolExecutor(8) as threads:
        assert {answer.status_code for answer in threads.map(save, texts)} == {200}
    assert http.post("extras/sessions/both/open").json()["turns"][0]["t"] in texts
    assert not list((folder / "sessions").glob(".*"))


def test_partial_files_of_two_writers_are_two(tmp_path, monkeypatch):
    store, seen, replace = ChatFolder(tmp_path), [], os.replace

    def in_the_middle(source, target):
        seen.append(len(list(tmp_path.iterdir())))
        if len(seen) == 1:
            store.write("x", {"b": 2})
        replace(source, target)

    monkeypatch.setattr(os, "replace", in_the_middle)
    store.write("x", {"a": 1})
    assert seen == [1, 2]
    assert store.file("x").read_text() == '{"a": 1}'
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_chat_that_cannot_be_written_leaves_the_one_before(tmp_path):
    store = ChatFolder(tmp_path)
    store.write("x", {"a": 1})
    with pytest.raises(TypeError):
        store.write("x", {"a": object()})
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert store.file("x").read_text() == '{"a": 1}'


def test_a_folder_that_cannot_be_used_is_for_the_log(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ApiError) as refused:
        asyncio.run(_in_folder(ChatFolder(tmp_path / "file").write, "x", {}))
    assert refused.value.status == 507
    assert str(tmp_path) not in refused.value.message
    assert str(tmp_path) in caplog.text


def test_a_chat_without_words_is_refused(http):
    assert http.put("extras/sessions/empty", json={"messages": [], "turns": []}).status_code == 400
