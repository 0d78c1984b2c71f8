"""n_ctx is what the caller asked for, also where llama.cpp pads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from compresskv_edge import Batch, Llama
from compresskv_edge.errors import ContextError

N_CTX = 300  # llama.cpp allocates 512


@pytest.fixture(params=["stock", "compressed"])
def narrow(request: pytest.FixtureRequest, load: Callable[..., Llama], path: str) -> Any:
    if request.param == "compressed":
        return load(n_ctx=N_CTX)
    return Llama(path, n_ctx=N_CTX, n_threads=1, n_threads_batch=1, verbose=False)


def prompt(n: int) -> list[int]:
    return [65 + i % 20 for i in range(n)]


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_around_n_ctx_answer_or_are_refused_by_name(narrow: Llama, stream: bool) -> None:
    assert narrow.n_ctx() == N_CTX
    for n in range(N_CTX - 3, N_CTX + 3):
        answer = lambda n=n: list(  # noqa: E731
            narrow.create_completion(prompt(n), max_tokens=9, temperature=0, stream=stream)
        )
        if n < N_CTX:
            assert answer()
            assert narrow.n_tokens <= N_CTX
        else:
            with pytest.raises(ContextError, match=rf"\({n}\) exceed context window of {N_CTX}: raise n_ctx"):
                answer()


def test_nothing_goes_past_n_ctx(narrow: Llama) -> None:
    narrow.eval(prompt(N_CTX))
    with pytest.raises(ContextError, match="raise n_ctx"):
        narrow.eval([65])
    assert narrow.n_tokens == N_CTX
    narrow.reset()
    with pytest.raises(ContextError, match=f"{N_CTX + 1}"):
        next(narrow.generate(prompt(N_CTX + 1), temp=0))


def test_what_is_saved_is_what_is_loaded(narrow: Llama, tmp_path: Path) -> None:
    narrow.eval(prompt(N_CTX - 1))
    narrow.save_session(tmp_path / "a.session")
    other = Llama.load_session(tmp_path / "a.session", n_threads=1, n_threads_batch=1)
    assert (other.n_ctx(), other.n_tokens) == (N_CTX, N_CTX - 1)
    np.testing.assert_array_equal(other.input_ids[: other.n_tokens], prompt(N_CTX - 1))
    np.testing.assert_array_equal(other.last_logits(), narrow.last_logits())


def test_several_sequences_end_there_as_well(narrow: Llama) -> None:
    with Batch(narrow, n_seq_max=2) as batch:
        batch.read(prompt(N_CTX))
        with pytest.raises(ContextError, match="raise n_ctx"):
            batch.read(prompt(N_CTX + 1))


def test_a_state_of_another_n_ctx_leaves_the_text_its_length(narrow: Llama, load: Callable[..., Llama]) -> None:
    narrow.eval(prompt(100))
    settings = narrow.kv_settings
    other = Llama(narrow.model_path, n_ctx=200, verbose=False, **(settings.arguments() if settings else {}))
    other.load_state(narrow.save_state())
    assert (len(other.input_ids), other.n_tokens) == (200, 100)
    narrow.eval(prompt(150))
    with pytest.raises(ContextError, match="250"):
        other.load_state(narrow.save_state())
    assert other.n_tokens == 100
