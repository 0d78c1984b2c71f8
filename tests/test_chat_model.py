"""Which model a chat opens, and what it says where it cannot."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import chat_model
import pytest
import stand_in_hub

from compresskv_edge.apps.chat.model import find_model, open_model
from compresskv_edge.errors import CalibrationError, ChatError, ModelError, ProfileError

NAME = "someone/tiny-GGUF:*q8_0.gguf"
ONE_THREAD = {"n_threads": 1, "n_threads_batch": 1}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> stand_in_hub.Hub:
    """A repository of two files."""
    files = {"README.md": b"", "tiny-q8_0.gguf": Path(chat_model.MODEL).read_bytes()}
    return stand_in_hub.use(monkeypatch, files, tmp_path)


def test_a_file() -> None:
    assert find_model(chat_model.MODEL) == chat_model.MODEL


def test_a_name_on_hugging_face(hub: stand_in_hub.Hub, tmp_path: Path) -> None:
    llm = open_model(NAME, profile="uniform", options=ONE_THREAD)
    assert hub.downloaded == ["someone/tiny-GGUF:tiny-q8_0.gguf"]
    assert Path(llm.model_path) == tmp_path / "tiny-q8_0.gguf"
    assert llm.n_ctx() == 8192
    llm.close()


def test_a_name_of_the_catalogue_that_was_not_pulled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path)
    with pytest.raises(ModelError, match='run "compresskv pull smollm2-135m-instruct"'):
        open_model("smollm2-135m-instruct")


@pytest.mark.parametrize("name", ["none.gguf", "repo/name", "some/deep/path.gguf", ""])
def test_what_is_neither_a_file_nor_a_name(name: str) -> None:
    with pytest.raises(ModelError, match=f"there is no (model|file) '{name}'.*\"compresskv pull\" lists"):
        find_model(name)


def test_without_a_profile_the_context_is_what_the_cache_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compresskv_edge.apps.chat.model.STOCK_CONTEXT", 2048)
    llm = open_model(chat_model.MODEL, profile="none", options=ONE_THREAD)
    assert llm.n_ctx() == 2048
    assert llm._compression is None
    llm.close()


def test_auto_takes_the_profile_that_calibration_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compresskv_edge.calibration.auto.resolve", lambda *_, **__: chat_model.profile())
    llm = open_model(chat_model.MODEL, budget=77, options=ONE_THREAD)
    assert llm._compression is not None
    assert (llm.kv_settings.profile, llm.kv_settings.budget) == (chat_model.profile(), 77)
    llm.close()


def test_a_calibration_that_was_stopped(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def stopped(*_: Any, allow_calibration: bool = True, **__: Any) -> None:
        raise KeyboardInterrupt if allow_calibration else CalibrationError("none")

    monkeypatch.setattr("compresskv_edge.calibration.auto.resolve", stopped)
    llm = open_model(chat_model.MODEL, options=ONE_THREAD)
    assert "measuring one now, once" in caplog.text
    assert "going on uncalibrated" in caplog.text
    assert llm._compression is not None
    assert "uncalibrated" in llm._compression.profile.provenance.how
    llm.close()


def test_a_model_without_a_chat_template(tiny_gguf: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    path = tmp_path / "base.gguf"
    path.write_bytes(tiny_gguf("llama").read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_nothing_"))
    open_model(str(path), profile="uniform", options=ONE_THREAD).close()
    assert "has no chat template" in caplog.text


def test_errors_of_the_model_and_the_profile(tiny_gguf: Any, tmp_path: Path) -> None:
    with pytest.raises(ChatError, match="--profile none chats with the full cache"):
        open_model(str(tiny_gguf("mamba")), profile="uniform", options=ONE_THREAD)
    with pytest.raises(ProfileError, match="llama-3"):
        open_model(chat_model.MODEL, profile="llama-3", options=ONE_THREAD)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(chat_model.MODEL).read_bytes()[:100_000])
    with pytest.raises(ChatError, match=r"broken\.gguf"):
        open_model(str(broken), profile="none", n_ctx=512, options=ONE_THREAD)
