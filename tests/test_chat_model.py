"""Which model a chat opens, and what it says where it cannot."""

from __future__ import annotations

import logging
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import chat_model
import pytest

from compresskv_edge.apps.chat.model import find_model, open_model
from compresskv_edge.errors import CalibrationError, ChatError, ProfileError

NAME = "someone/tiny-GGUF:*q8_0.gguf"
ONE_THREAD = {"n_threads": 1, "n_threads_batch": 1}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A Hugging Face hub with one repository of two files, as far as llama-cpp-python asks for it."""
    asked = []

    class HfFileSystem:
        def ls(self, repo_id: str, recursive: bool) -> list[dict[str, str]]:
            asked.append(repo_id)
            return [{"name": f"{repo_id}/{name}"} for name in ("README.md", "tiny-q8_0.gguf")]

    def hf_hub_download(*, filename: str, **_: Any) -> str:
        shutil.copy(chat_model.MODEL, tmp_path / filename)
        return str(tmp_path / filename)

    module = types.ModuleType("huggingface_hub")
    module.HfFileSystem, module.hf_hub_download = HfFileSystem, hf_hub_download  # type: ignore[attr-defined]
    utils = types.ModuleType("huggingface_hub.utils")
    utils.validate_repo_id = lambda repo_id: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    return asked


def test_a_file() -> None:
    assert find_model(chat_model.MODEL) == chat_model.MODEL


def test_a_name_on_hugging_face(hub: Any, tmp_path: Path) -> None:
    llm = open_model(NAME, profile="uniform", options=ONE_THREAD)
    assert hub == ["someone/tiny-GGUF"]
    assert Path(llm.model_path) == tmp_path / "tiny-q8_0.gguf"
    assert llm.n_ctx() == 8192
    llm.close()


def test_a_file_that_the_repository_has_not(hub: Any) -> None:
    with pytest.raises(ChatError, match=r"cannot fetch '\*q9\.gguf' of 'someone/tiny-GGUF'(?s:.*)No file found"):
        find_model("someone/tiny-GGUF:*q9.gguf")


def test_a_network_that_is_down(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(sys.modules["huggingface_hub"], "hf_hub_download", refuse)
    with pytest.raises(ChatError, match=r"cannot fetch .*: no route to host"):
        find_model(NAME)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ChatError, match="pip install huggingface-hub"):
        find_model(NAME)


@pytest.mark.parametrize("name", ["none.gguf", "repo/name", "some/deep/path.gguf", ""])
def test_what_is_neither_a_file_nor_a_name(name: str) -> None:
    with pytest.raises(ChatError, match=f"there is no model '{name}': give a .gguf file, or a name on Hugging Face"):
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
    assert (llm._compression.profile, llm._compression.budget) == (chat_model.profile(), 77)
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
