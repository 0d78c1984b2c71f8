"""One `Llama`, several threads and several streams: what answers is what it would be alone, or a named error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest

from compresskv_edge import Llama
from compresskv_edge.errors import EngineError
from compresskv_edge.runtime.turn import CacheTurn

OPTIONS: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
PROMPTS = [[65 + (i * k) % 20 for i in range(150)] for k in (1, 3, 7, 11)]


def said(answer: Any) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in ([answer] if isinstance(answer, dict) else answer))


@pytest.fixture
def alone(load: Callable[..., Llama]) -> list[str]:
    llm = load()
    return [said(llm.create_completion(prompt, **OPTIONS)) for prompt in PROMPTS]


@pytest.mark.parametrize("stream", [False, True])
def test_threads_answer_as_if_alone(load: Callable[..., Llama], alone: list[str], stream: bool) -> None:
    llm = load()
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda prompt: said(llm.create_completion(prompt, stream=stream, **OPTIONS)), PROMPTS)
        assert list(answers) == alone


def test_a_stream_resumed_after_another_call_is_over(load: Callable[..., Llama], alone: list[str]) -> None:
    llm = load()
    stream = llm.create_completion(PROMPTS[0], stream=True, **OPTIONS)
    next(stream)
    assert said(llm.create_completion(PROMPTS[1], **OPTIONS)) == alone[1], "a stream left open holds nobody up"
    with pytest.raises(EngineError, match="this stream is over: a later call used the same Llama"):
        list(stream)
    assert said(llm.create_completion(PROMPTS[2], **OPTIONS)) == alone[2]


def test_a_look_at_the_cache_leaves_a_stream_open(load: Callable[..., Llama], alone: list[str]) -> None:
    llm = load()
    stream = llm.create_completion(PROMPTS[0], stream=True, **OPTIONS)
    first = next(stream)
    llm.save_state(), llm.kv_stats()
    assert said([first, *stream]) == alone[0]


def test_a_stream_may_move_from_thread_to_thread(load: Callable[..., Llama], alone: list[str]) -> None:
    """As where an event loop reads it through a pool."""
    stream, chunks = load().create_completion(PROMPTS[0], stream=True, **OPTIONS), []
    while True:
        with ThreadPoolExecutor(1) as pool:
            chunk = pool.submit(next, stream, None).result()
        if chunk is None:
            break
        chunks.append(chunk)
    assert said(chunks) == alone[0]


def test_another_thread_waits_for_the_end_of_a_stream() -> None:
    turn, order = CacheTurn(), []
    stream = turn.stream(i for i in range(2))
    next(stream)

    def call() -> None:
        with turn.call():
            order.append("call")

    other = threading.Thread(target=call)
    other.start()
    order.append(next(stream))
    other.join(0.1)
    assert order == [1], "it waits"
    stream.close()
    other.join()
    assert order == [1, "call"]


def test_a_failed_call_gives_its_turn_back() -> None:
    turn = CacheTurn()

    def fails() -> Any:
        yield 1
        raise ValueError("broken")

    stream = turn.stream(fails())
    next(stream)
    with pytest.raises(ValueError, match="broken"):
        next(stream)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: turn.call().__enter__()).result()


def test_a_stream_that_nobody_reads_is_named() -> None:
    turn = CacheTurn(patience_s=0.05)
    stream = turn.stream(i for i in range(3))
    next(stream)

    def call() -> str:
        try:
            with turn.call():
                return "called"
        except EngineError as error:
            return str(error)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(call).result().endswith("for 0.05 s: read it to its end, or close() it")
        assert next(stream) == 1, "it goes on"
        stream.close()
        assert pool.submit(call).result() == "called"
