"""Where an answer ends that fills the context: with a letter that is not whole, too."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import pytest

from compresskv_edge import Llama, Profile
from compresskv_edge.runtime.ending import WindowEnd

N_CTX = 256
HALF = "é".encode()[:1]


@pytest.fixture(params=["stock", "compressed"])
def llm(request: pytest.FixtureRequest, path: str) -> Llama:
    kv: Dict[str, Any] = {"kv_profile": Profile.uniform(path), "kv_budget": 64} if request.param == "compressed" else {}
    return Llama(path, n_ctx=N_CTX, n_threads=1, n_threads_batch=1, verbose=False, **kv)


@pytest.fixture
def half_letters(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text ends with half of a letter, so that the binding never stops by itself."""
    real = llm.detokenize
    monkeypatch.setattr(llm, "detokenize", lambda *args, **kwargs: real(*args, **kwargs) + HALF)


PROMPT = [1 + i % 90 for i in range(N_CTX - 5)]


@pytest.mark.usefixtures("half_letters")
def test_a_letter_that_is_not_whole_at_the_end(llm: Llama) -> None:
    answer = llm.create_completion(PROMPT, max_tokens=None, temperature=0)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["text"]
    assert answer["usage"]["total_tokens"] == N_CTX + 1  # the last one is sampled, and not evaluated
    assert llm.n_tokens == N_CTX


@pytest.mark.usefixtures("half_letters")
def test_of_a_stream(llm: Llama) -> None:
    chunks = list(llm.create_completion(PROMPT, max_tokens=10**9, temperature=0, stream=True))
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.usefixtures("half_letters")
def test_a_prompt_of_one_token(llm: Llama) -> None:
    answer = llm.create_completion([1], max_tokens=None, temperature=0)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert llm.n_tokens == N_CTX


def test_criteria_of_the_caller_end_as_before(llm: Llama) -> None:
    """Also where they are given by position, as a stream is."""
    n_seen: List[int] = []

    def enough(input_ids: Any, logits: Any) -> bool:
        n_seen.append(len(input_ids))
        return len(n_seen) > 3

    answer = llm.create_completion(PROMPT[:50], max_tokens=100, temperature=0, stopping_criteria=enough)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 3
    by_position: Callable[..., Any] = llm.create_completion
    positional = [None, 5, 0, 0.95, 0.05, 1.0, None, False, [], 0.0, 0.0, 1.0, 40, True]
    assert len(list(by_position(PROMPT[:50], *positional))) > 1


def test_an_answer_that_did_not_end_there_keeps_its_reason() -> None:
    end = WindowEnd(None)
    answer = {"choices": [{"finish_reason": "stop"}]}
    assert end.named(answer)["choices"][0]["finish_reason"] == "stop"
    assert list(end.until(lambda: False, iter([1, 2]))) == [1, 2]
    assert not end(None, None)
    assert list(end.until(lambda: True, iter([1, 2]))) == [1]
    assert end(None, None)
    assert end.named(answer)["choices"][0]["finish_reason"] == "length"
