"""Chats on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import chat_model
import pytest
from rich.console import Console

from compresskv_edge.apps.chat import saved
from compresskv_edge.apps.chat.commands import Commands
from compresskv_edge.apps.chat.conversation import Conversation
from compresskv_edge.apps.chat.document import Document
from compresskv_edge.errors import ChatError

FACTS = chat_model.facts()


def conversation() -> Conversation:
    return Conversation(chat_model.load(), Document("facts.txt", chat_model.text()), "", chat_model.SAMPLING)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved chat with one question: its folder."""
    folder = tmp_path_factory.mktemp("saved")
    chat = conversation()
    "".join(chat.ask(FACTS[0].question))
    assert saved.save(chat, str(folder / "trip")) == folder / "trip.chat.json"
    chat.close()
    return folder


@pytest.fixture
def copy(files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files, tmp_path / "copy"))


@pytest.fixture
def chat() -> Iterator[Conversation]:
    made = Conversation(chat_model.load(), sampling=chat_model.SAMPLING)
    yield made
    made.close()


def test_a_loaded_chat_goes_on_without_reading(files: Path, chat: Conversation) -> None:
    assert sorted(path.name for path in files.iterdir()) == ["trip.chat.json", "trip.chat.kv"]
    said = saved.load(chat, str(files / "trip"))
    assert "nothing is read anew" in said
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]
    assert chat.document is not None
    assert "".join(chat.ask(FACTS[0].question)).rstrip(".") == FACTS[0].answer
    assert chat.timing.n_prompt < 60


@pytest.mark.parametrize(
    "name", ["trip \U0001f389", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea.v2"]
)
def test_names_may_hold_emoji(name: str, chat: Conversation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    "".join(chat.ask("Hm?"))
    commands = Commands(chat, Console(), lambda: None)
    commands.run(f"/save {name}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.chat.json", f"{name}.chat.kv"]
    chat.clear()
    commands.run(f"/load {name}")
    assert chat.messages[0]["content"] == "Hm?"


def test_again_after_loading_reads_everything(files: Path, chat: Conversation) -> None:
    saved.load(chat, str(files / "trip.chat.json"))
    assert chat.again() == FACTS[0].question
    assert "".join(chat.ask(FACTS[1].question)).rstrip(".") == FACTS[1].answer
    assert chat.timing.n_prompt > 800


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_cache_is_read_again(damage: str, copy: Path, chat: Conversation) -> None:
    kv = copy / "trip.chat.kv"
    whole = bytearray(kv.read_bytes())
    whole[len(whole) // 2] ^= 1
    kv.write_bytes(whole[:1000] if damage == "cut" else whole)
    if damage == "gone":
        kv.unlink()
    assert "could not be restored" in saved.load(chat, str(copy / "trip"))
    assert "".join(chat.ask(FACTS[1].question)).rstrip(".") == FACTS[1].answer
    assert chat.timing.n_prompt > 800


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "other"}, "no chat saved with /save"),
        ({"version": 2}, "version 2, this program reads 1"),
        ({"model": {"name": "big", "hash": "sha256:0"}}, "saved with the model 'big': start the chat with that file"),
        ({"messages": [{"role": "user"}]}, "is damaged"),
        ({"messages": 5}, "is damaged"),
        ({"document": {"name": "x"}}, "is damaged"),
    ],
)
def test_a_wrong_file_changes_nothing(changes: dict[str, object], said: str, copy: Path, chat: Conversation) -> None:
    file = copy / "trip.chat.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ChatError, match=said):
        saved.load(chat, str(copy / "trip"))
    assert chat.messages == []
    assert chat.document is None


def test_a_chat_that_has_not_begun(chat: Conversation, tmp_path: Path) -> None:
    chat.attach(Document("facts.txt", chat_model.text()))
    saved.save(chat, str(tmp_path / "empty"))
    chat.restore([], None, "", attached=True)
    assert saved.load(chat, str(tmp_path / "empty")) == "nothing had been read yet"
    assert "".join(chat.ask(FACTS[0].question)).rstrip(".") == FACTS[0].answer


def test_files_that_cannot_be_read_or_written(chat: Conversation, tmp_path: Path) -> None:
    (tmp_path / "x.chat.json").write_text("no json")
    with pytest.raises(ChatError, match="is damaged"):
        saved.load(chat, str(tmp_path / "x"))
    with pytest.raises(ChatError, match="No such file"):
        saved.load(chat, str(tmp_path / "y"))
    with pytest.raises(ChatError, match="cannot save the chat"):
        saved.save(chat, str(tmp_path / "none" / "trip"))
    with pytest.raises(ChatError, match="give the chat a name"):
        saved.save(chat, "")
    assert [path.name for path in tmp_path.iterdir()] == ["x.chat.json"]
