"""What a benchmark times: prefill, eviction and decoding, the contexts in turns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Callable

from ...engine.machine import resident_bytes
from ...runtime.llama import Llama, llama_cpp
from .result import BLOCK, CHUNK, WARM_UP, BenchPlan, Eviction

Step = Callable[[str], None]


def prefill(contexts: Sequence[Llama], tokens: Sequence[int], step: Step) -> list[tuple[float, ...]]:
    """Milliseconds of each chunk, per context: (n_contexts, n_chunks). Contexts swap their order with each chunk."""
    times: list[list[float]] = [[] for _ in contexts]
    for start in range(0, len(tokens), CHUNK):
        for i in _turns(len(contexts), start // CHUNK):
            began = time.perf_counter()
            if start == 0:
                contexts[i].kv_begin(len(tokens))  # as an eval of all of it would
            _eval(contexts[i], tokens[start : start + CHUNK])
            times[i].append((time.perf_counter() - began) * 1e3)
            step("prefill")
    return [tuple(row) for row in times]


def _eval(llm: Llama, tokens: Sequence[int]) -> None:
    llm.eval(tokens)
    llama_cpp.llama_synchronize(llm.ctx)  # devices compute behind our back


def evict(llm: Llama) -> Eviction:
    ms_before, resident_before = llm.kv_stats().eviction_ms, resident_bytes()
    began = time.perf_counter()
    llm.compress()
    wall_ms = (time.perf_counter() - began) * 1e3
    return Eviction(llm.kv_stats().eviction_ms - ms_before, wall_ms, resident_before, resident_bytes())


def decode(contexts: Sequence[Llama], tokens: Sequence[int], plan: BenchPlan, step: Step) -> list[tuple[float, ...]]:
    """Milliseconds a token of each block, (n_contexts, n_blocks). Each repeat starts at the prompt's end."""
    ends = [llm.n_tokens for llm in contexts]
    for llm in contexts:
        _decode_block(llm, tokens[:WARM_UP])
    times: list[list[float]] = [[] for _ in contexts]
    for _ in range(plan.repeats):
        for llm, end in zip(contexts, ends):
            llm.n_tokens = end  # the next eval removes what comes after
        for start in range(0, plan.decode_tokens, BLOCK):
            n_tokens = min(BLOCK, plan.decode_tokens - start)
            for i in _turns(len(contexts), start // BLOCK):
                times[i].append(_decode_block(contexts[i], tokens[:n_tokens]))
                step("decode")
    return [tuple(row) for row in times]


def _decode_block(llm: Llama, tokens: Sequence[int]) -> float:
    began = time.perf_counter()
    for token in tokens:
        _eval(llm, [token])
    return (time.perf_counter() - began) * 1e3 / len(tokens)


def _turns(n: int, i: int) -> Iterable[int]:
    return range(n) if i % 2 == 0 else reversed(range(n))
