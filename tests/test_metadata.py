"""GGUF files as strangers write them: they load where stock loads them, or a named error tells the remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from compresskv_edge import Llama, Profile
from compresskv_edge.apps.server.app import create_app
from compresskv_edge.apps.server.load import load_slots
from compresskv_edge.apps.server.settings import ModelSettings, ServerSettings
from compresskv_edge.errors import ModelError, UnsupportedModelError
from compresskv_edge.model import random_gguf
from compresskv_edge.model.sizes import ModelSizes
from compresskv_edge.runtime.metadata import usable

BROKEN = "{% for x in %}{{"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
REMEDY = r"does not compile \(.*\): name another format with chat_format \(--chat-format\), such as chatml"


def write(folder: Path, template: str) -> str:
    """A random model with this chat template."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_gguf, "_CHAT_TEMPLATE", template)
        path = random_gguf.write_random_gguf(folder / "model.gguf", random_gguf.TINY_SHAPES["llama"])
    return str(path)


@pytest.fixture(params=["stock", "compressed"])
def options(request: pytest.FixtureRequest) -> Any:
    return {"n_ctx": 256, "n_threads": 1, "verbose": False, "compressed": request.param == "compressed"}


def load(path: str, *, compressed: bool, **options: Any) -> Llama:
    return Llama(path, **({"kv_profile": Profile.uniform(path), "kv_budget": 64} if compressed else {}), **options)


def test_one_that_does_not_compile(tmp_path: Path, options: Any) -> None:
    path = write(tmp_path, BROKEN)
    with pytest.raises(ModelError, match=REMEDY):
        load(path, **options)
    llm = load(path, chat_format="chatml", **options)
    assert llm.create_chat_completion(MESSAGES, max_tokens=1)["object"] == "chat.completion"
    assert "tokenizer.chat_template" not in llm.metadata


def test_one_that_nobody_uses() -> None:
    key = "tokenizer.chat_template"
    kept, error = usable({key: "{{ 1 }}", f"{key}.tool_use": BROKEN, "general.name": "x"}, "m.gguf")
    assert (kept, error) == ({key: "{{ 1 }}", "general.name": "x"}, None)


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_commands_name_it(tmp_path: Path, command: str) -> None:
    path = write(tmp_path, BROKEN)
    more = {"chat": ["--profile", "uniform", "--ask", "Hm?"], "serve": ["--kv_profile", "uniform", "--port", "0"]}
    done = subprocess.run(
        [sys.executable, "-m", "compresskv_edge", command, path, *more[command]],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "does not compile" in done.stderr
    assert "--chat-format" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("template", "status", "words"),
    [
        (NO_SYSTEM, 400, "the chat template cannot render these messages: System role not supported"),
        ("{{ nothing.at.all }}", 400, "the chat template cannot render these messages"),
        ("{# nothing #}", 400, "makes an empty prompt of these messages: start the server with --chat_format"),
    ],
)
def test_through_the_server(tmp_path: Path, template: str, status: int, words: str) -> None:
    model = ModelSettings(model=write(tmp_path, template), kv_profile="uniform", kv_budget=64, n_ctx=256, n_threads=1)
    with TestClient(create_app(ServerSettings(), [model]), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 1})
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]
        asked = client.post("/v1/completions", json={"prompt": "Hello.", "max_tokens": 1})
        assert asked.status_code == 200, "it is the template's fault alone"


def test_none_at_all_is_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (slot,) = load_slots(ModelSettings(model=write(tmp_path, ""), kv_profile="uniform", kv_budget=64, n_ctx=256))
    slot.close()
    assert "has no chat template: it may not be made for chats (--chat_format names one)" in caplog.text


def patched(folder: Path, before: bytes, after: bytes) -> str:
    """A random model in whose header some bytes are others."""
    path = Path(write(folder, "{{ messages[0].content }}"))
    data = path.read_bytes()
    assert len(before) == len(after)
    path.write_bytes(data.replace(before, after, 1))
    return str(path)


def test_a_byte_that_is_no_utf8(tmp_path: Path, options: Any) -> None:
    path = patched(tmp_path, b"tiny-llama", b"t\xe9ny-llama")
    llm = load(path, **options)
    assert llm.metadata["general.name"] == "t\ufffdny-llama"
    assert llm.chat_format == "chat_template.default", "the binding would lose its template over that byte"
    llm.create_completion("Hello.", max_tokens=2)
    llm.save_session(tmp_path / "saved")
    load(path, **options).load_session(tmp_path / "saved")


def test_what_the_binding_reads_is_read_alike(path: str) -> None:
    llm = Llama(path, n_ctx=256, verbose=False)
    assert llm.metadata == llm._model.metadata()


def test_no_trained_length_no_plan(tmp_path: Path) -> None:
    path = patched(tmp_path, b"llama.context_length", b"llama.kontext_length")
    with pytest.raises(UnsupportedModelError, match=r"has no llama\.context_length.*: give a complete \.gguf file"):
        ModelSizes.from_gguf(path)


@pytest.mark.parametrize("profile", ["uniform", "auto"])
def test_a_vocabulary_alone_has_nothing_to_compress(path: str, profile: str) -> None:
    with pytest.raises(
        UnsupportedModelError, match="vocab_only=True loads no layers to compress: load the model without"
    ):
        Llama(path, vocab_only=True, kv_profile=Profile.uniform(path) if profile == "uniform" else profile)


def test_a_whole_model_may_be_named_like_a_part(tmp_path: Path, options: Any) -> None:
    path = Path(write(tmp_path, "")).rename(tmp_path / "model-00001-of-00003.gguf")
    load(str(path), **options).create_completion("Hello.", max_tokens=2)
    assert ModelSizes.from_gguf(path).n_layer > 0
