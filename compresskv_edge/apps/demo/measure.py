"""What the demo shows, measured: one long document, asked with the full cache and with a compressed one."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Callable

import numpy as np

from ...runtime.llama import KVStats, Llama
from ...runtime.prompt import common_prefix
from ...runtime.session.snapshot import Snapshot
from .scene import DemoQuestion, Scene

N_CELLS = 36  # of the picture of what was kept

_N_DECODE = 64
_EVIDENCE_KEPT = 0.5  # of the evidence's tokens, by the layer that holds most of them


@dataclass(frozen=True)
class Answer:
    """One question. `expected` as in scene.DemoQuestion.

    `kept` (N_CELLS,): along the document, the share of tokens that the compressed cache holds, mean over the layers.
    `evidence` is the cell of the fact, `evidence_kept` the share of the fact's tokens in the layer that holds most.
    """

    question: str
    expected: str
    full: str
    compressed: str
    full_is_right: bool
    compressed_is_right: bool
    kept: tuple[float, ...]
    evidence: int
    evidence_kept: float

    @property
    def has_evidence(self) -> bool:
        """Some layer holds most of the fact."""
        return self.evidence_kept >= _EVIDENCE_KEPT


@dataclass(frozen=True)
class Measurement:
    """The document read, a question, compressed (or not), then tokens decoded one by one. Times in milliseconds."""

    prefill_ms: float
    eviction_ms: float
    decode_tokens_per_s: float
    kv: KVStats


@dataclass(frozen=True)
class DemoResult:
    """What the demo shows, as it goes into the JSON file."""

    title: str  # of the document
    n_prompt_tokens: int
    budget: int | float
    answers: tuple[Answer, ...]
    full: Measurement
    compressed: Measurement


def measure(scene: Scene, step: Callable[[str], None] = lambda phase: None) -> DemoResult:
    """Ask every question with both caches, then time both on the last one. `step` is told of each thing done."""
    full, compressed = (_Reader(scene, step, compressed=which) for which in (False, True))
    answers = [_asked(scene, each, full, compressed) for each in scene.asked]
    timed = full.timed(), compressed.timed()
    return DemoResult(scene.title, full.n_prompt, scene.budget, tuple(answers), *timed)


def n_steps(scene: Scene) -> int:
    """How often `measure` calls `step`."""
    return 2 * (len(scene.asked) + 2)


def _asked(scene: Scene, asked: DemoQuestion, full: _Reader, compressed: _Reader) -> Answer:
    whole, ours = full.ask(asked.question), compressed.ask(asked.question)
    kept, evidence, evidence_kept = _look(compressed.llm, scene.document, asked.sentence)
    return Answer(
        question=asked.question,
        expected=asked.expected,
        full=whole,
        compressed=ours,
        full_is_right=asked.is_right(whole),
        compressed_is_right=asked.is_right(ours),
        kept=kept,
        evidence=evidence,
        evidence_kept=evidence_kept,
    )


class _Reader:
    """A model with one of the caches, which has read the document; each question comes right behind it."""

    def __init__(self, scene: Scene, step: Callable[[str], None], *, compressed: bool) -> None:
        self._scene, self._step, self._compressed = scene, step, compressed
        self.llm = scene.open(compressed=compressed)
        first, other = scene.asked[0].question, "?"
        self._document = list(self._prompt(first)[: common_prefix(self._prompt(first), self._prompt(other))])
        start = time.perf_counter()
        self.llm.eval(self._document)
        self._read_ms = 1000 * (time.perf_counter() - start)
        self._read = Snapshot()
        self._read.take(self.llm)
        step("asking")

    @property
    def n_prompt(self) -> int:
        """Tokens of the last question's prompt."""
        return len(self._prompt(self._scene.asked[-1].question))

    def _prompt(self, question: str) -> list[int]:
        return list(self._scene.prompt(self.llm, question))

    def ask(self, question: str) -> str:
        """The greedy answer."""
        self._read.put_back(self.llm)
        answer = self._scene.answer(self.llm, question)
        self._step("asking")
        return answer

    def timed(self) -> Measurement:
        """The last question again."""
        llm = self.llm
        self._read.put_back(llm)
        rest = self._prompt(self._scene.asked[-1].question)[len(self._document) :]
        start = time.perf_counter()
        llm.eval(rest)
        read_ms = self._read_ms + 1000 * (time.perf_counter() - start)
        start = time.perf_counter()
        if self._compressed:
            llm.compress()
        eviction_ms = 1000 * (time.perf_counter() - start) if self._compressed else 0.0
        kv = llm.kv_stats()
        seconds = statistics.median(_decode_time(llm, token) for token in self._document[1 : _N_DECODE + 1])
        self._step("measuring")
        return Measurement(read_ms, eviction_ms, 1 / seconds, kv)


def _decode_time(llm: Llama, token: int) -> float:
    start = time.perf_counter()
    llm.eval([token])
    return time.perf_counter() - start


def _look(llm: Llama, document: str, sentence: str) -> tuple[tuple[float, ...], int, float]:
    """`kept`, `evidence` and `evidence_kept` of an Answer, from the cache as it is after it."""
    pieces = llm.pieces(llm.input_ids[: llm.n_tokens].tolist())
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
