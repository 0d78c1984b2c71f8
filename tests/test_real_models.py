"""Real language models, out of the catalogue: the very file, and answers from a compressed cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from devices import assert_kept
from specified import specified

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


def assert_kept_as_in_the_paper(path: Path, name: str, text: str) -> None:
    """The shipped profile's selection, against the NumPy statement on the keys and queries that the engine holds."""
    profile = Profile.load(name)
    options = {"n_ctx": 1024, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    llm = Llama(str(path), kv_profile=profile, kv_budget=64, kv_protect=False, **options)
    try:
        llm.eval(llm.tokenize(text.encode())[:500])
        budgets = llm._compression.budgets(llm.n_tokens)
        want = specified(llm, profile, budgets)
        llm.compress()
        for layer, expected in enumerate(want):
            assert expected is not None
            assert_kept(llm.kv_kept(layer), *expected)
        assert len(set(budgets)) > 1, "layers have the budgets of their errors"
        assert sum(len(llm.kv_kept(layer)) for layer in range(len(want))) == sum(budgets)
    finally:
        llm.close()


def assert_found_by_its_file(path: Path, name: str, tmp_path: Path) -> None:
    """Under any file name, and without calibrating."""
    (tmp_path / "anything.gguf").symlink_to(path)
    llm = Llama(
        str(tmp_path / "anything.gguf"),
        kv_profile="auto",
        allow_calibration=False,
        n_ctx=256,
        n_threads=1,
        verbose=False,
    )
    assert llm._compression.profile == Profile.load(name)
    llm.close()


def test_smollm2(smollm2: Path) -> None:
    assert sha256(smollm2) == find("smollm2-135m-instruct").sha256
    text = answer("smollm2-135m-instruct", "How many days are in a week?")
    assert "7" in text
    assert "<|" not in text  # the template's own marks


def test_smollm2_keeps_what_the_paper_keeps(smollm2: Path, text: str) -> None:
    assert_kept_as_in_the_paper(smollm2, "smollm2-135m-instruct", text)


def test_the_shipped_profile_of_smollm2_is_found_by_its_file(smollm2: Path, tmp_path: Path) -> None:
    assert_found_by_its_file(smollm2, "smollm2-135m-instruct", tmp_path)


@pytest.mark.real
def test_qwen_keeps_what_the_paper_keeps(qwen_coder: Path, text: str) -> None:
    assert_kept_as_in_the_paper(qwen_coder, "qwen2.5-coder-0.5b-instruct", text)


@pytest.mark.real
def test_the_shipped_profile_of_qwen_is_found_by_its_file(qwen_coder: Path, tmp_path: Path) -> None:
    assert_found_by_its_file(qwen_coder, "qwen2.5-coder-0.5b-instruct", tmp_path)


@pytest.mark.real
def test_qwen(qwen_coder: Path) -> None:
    assert sha256(qwen_coder) == find("qwen2.5-coder-0.5b-instruct").sha256
    assert "Paris" in answer("qwen2.5-coder-0.5b-instruct", "What is the capital of France?")
