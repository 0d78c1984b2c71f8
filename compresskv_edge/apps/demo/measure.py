"""What the demo shows, measured: one long document, asked with the full cache and with a compressed one.

The document is generated, its facts are as in evaluate/haystack.py.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from ...evaluate import haystack
from ...model.packaged import model_path
from ...runtime.llama import KVStats, Llama

BUDGET = 0.03  # what the demo model bears: docs/results/needle.json
N_TOKENS = 3700  # of the prompt
SEED = 1
N_QUESTIONS = 5

N_CELLS = 36  # of the picture of what was kept

_N_DECODE = 64
_EVIDENCE_KEPT = 0.5  # of the evidence's tokens, by the layer that holds most of them


@dataclass(frozen=True)
class Answer:
    """One question. `depth` is where its fact lies: 0 at the start of the document, 1 at its end.

    `kept` (N_CELLS,): along the document, the share of tokens that the compressed cache holds, mean over the layers.
    `evidence` is the cell of the fact, `evidence_kept` the share of the fact's tokens in the layer that holds most.
    """

    question: str
    depth: float
    expected: str
    full: str
    compressed: str
    kept: tuple[float, ...]
    evidence: int
    evidence_kept: float

    @property
    def full_is_right(self) -> bool:
        return self.full == self.expected

    @property
    def compressed_is_right(self) -> bool:
        return self.compressed == self.expected

    @property
    def has_evidence(self) -> bool:
        """Some layer holds most of the fact."""
        return self.evidence_kept >= _EVIDENCE_KEPT


@dataclass(frozen=True)
class Measurement:
    """One prompt read, compressed (or not), then tokens decoded one by one. Times in milliseconds."""

    prefill_ms: float
    eviction_ms: float
    decode_tokens_per_s: float
    kv: KVStats


@dataclass(frozen=True)
class DemoResult:
    """What the demo shows, as it goes into the JSON file."""

    n_prompt_tokens: int
    budget: int | float
    answers: tuple[Answer, ...]
    full: Measurement
    compressed: Measurement


def measure(
    budget: int | float, n_questions: int = N_QUESTIONS, step: Callable[[str], None] = lambda phase: None
) -> DemoResult:
    """Ask every question with both caches, then time both on the last prompt. `step` is told of each thing done."""
    full, compressed = _open(), _open(kv_profile="demo", kv_budget=budget, kv_prefill="full")
    placed = facts(n_questions)
    document = haystack.document(random.Random(SEED), [(d, f.sentence) for d, f in placed], N_TOKENS - 40, _count(full))
    answers = []
    for depth, fact in placed:
        prompt = haystack.question_prompt(document, fact.question)
        # the full cache still holds the document from the question before; the compressed one reads it anew
        texts = _ask(full, prompt, step), _ask(compressed, prompt, step)
        kept, evidence, evidence_kept = _look(compressed, document, fact.sentence)
        answers.append(Answer(fact.question, depth, fact.answer, *texts, kept, evidence, evidence_kept))
    tokens = full.tokenize(prompt.encode())
    timed = (_time(full, tokens, step, compress=False), _time(compressed, tokens, step, compress=True))
    return DemoResult(len(tokens), budget, tuple(answers), *timed)


def _open(**kv: Any) -> Llama:
    # Decoding: a model this small is fastest on one core. Prompts: threads that wait for a busy core cost more than
    # they bring, so half of the cores. Without `kv` all else is llama-cpp-python's default, as users have it today.
    n_threads_batch = max(1, (os.cpu_count() or 1) // 2)
    return Llama(model_path(), n_ctx=4096, n_threads=1, n_threads_batch=n_threads_batch, verbose=False, **kv)


def facts(n: int = N_QUESTIONS) -> list[tuple[float, haystack.Fact]]:
    """(depth, fact) of n different facts, spread evenly over the document."""
    rng = random.Random(SEED)
    kinds = [haystack.KINDS[i % len(haystack.KINDS)] for i in range(n)]
    drawn = haystack.draw_facts(rng, kinds)
    return [((i + 0.5) / n, fact) for i, fact in enumerate(drawn)]


def _count(llm: Llama) -> haystack.TokenCounter:
    return lambda text: len(llm.tokenize(text.encode(), add_bos=False))


def _ask(llm: Llama, prompt: str, step: Callable[[str], None]) -> str:
    out: Any = llm.create_completion(prompt, max_tokens=16, temperature=0.0, stop=[".", "\n"])
    step("answering")
    return str(out["choices"][0]["text"]).strip()


def _look(llm: Llama, document: str, sentence: str) -> tuple[tuple[float, ...], int, float]:
    """`kept`, `evidence` and `evidence_kept` of an Answer, from the cache as it is after it."""
    pieces = [llm.detokenize([token]) for token in llm.input_ids[: llm.n_tokens].tolist()]
    ends = np.cumsum([len(piece) for piece in pieces])
    start = b"".join(pieces).index(document.strip().encode())
    n_document = int(np.searchsorted(ends, start + len(document.strip().encode())))
    at = start + document.strip().encode().index(sentence.encode())
    first, last = (int(np.searchsorted(ends, char, "right")) for char in (at, at + len(sentence.encode()) - 1))
    edges = np.linspace(0, n_document, N_CELLS + 1).round().astype(int)
    share = llm.kv_share()
    kept = tuple(float(share[a:b].mean()) for a, b in zip(edges, edges[1:]))
    fact = np.arange(first, last + 1)
    by_layer = [float(np.isin(fact, llm.kv_kept(layer)).mean()) for layer in range(len(llm.kv_stats().n_tokens_kept))]
    return kept, min(int(np.searchsorted(edges, first, "right")) - 1, N_CELLS - 1), max(by_layer)


def _time(llm: Llama, tokens: Sequence[int], step: Callable[[str], None], *, compress: bool) -> Measurement:
    llm.reset()
    eviction_ms = llm.kv_stats().eviction_ms
    start = time.perf_counter()
    llm.eval(tokens)
    prefill_ms = 1000 * (time.perf_counter() - start)
    if compress:
        llm.compress()
    kv = llm.kv_stats()
    seconds = statistics.median(_decode_time(llm, token) for token in tokens[1 : _N_DECODE + 1])
    step("measuring")
    return Measurement(prefill_ms, kv.eviction_ms - eviction_ms, 1 / seconds, kv)


def _decode_time(llm: Llama, token: int) -> float:
    start = time.perf_counter()
    llm.eval([token])
    return time.perf_counter() - start
