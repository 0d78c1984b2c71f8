"""Real language models, out of the catalogue: the very file, and answers from a compressed cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from compresskv_edge import Llama, Profile
from compresskv_edge.model.catalogue import find
from compresskv_edge.model.store import sha256


def answer(name: str, question: str) -> str:
    """Greedy, of 256 tokens a layer; one thread."""
    llm = Llama(
        name, kv_profile=Profile.uniform(name), kv_budget=256, n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False
    )
    try:
        messages = [{"role": "user", "content": question}]
        choice = llm.create_chat_completion(messages, temperature=0.0, max_tokens=60)["choices"][0]
    finally:
        llm.close()
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"])


def test_smollm2(smollm2: Path) -> None:
    assert sha256(smollm2) == find("smollm2-135m-instruct").sha256
    text = answer("smollm2-135m-instruct", "How many days are in a week?")
    assert "7" in text
    assert "<|" not in text  # the template's own marks


@pytest.mark.real
def test_qwen(qwen_coder: Path) -> None:
    assert sha256(qwen_coder) == find("qwen2.5-coder-0.5b-instruct").sha256
    assert "Paris" in answer("qwen2.5-coder-0.5b-instruct", "What is the capital of France?")
