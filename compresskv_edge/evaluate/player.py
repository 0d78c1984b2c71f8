"""Runs samples on a model: one prefill a prompt, which every policy and budget then starts from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

from ..errors import EvaluationError
from ..policies.layer import Float64, Layer
from ..runtime import applied
from ..runtime.llama import Llama
from . import fidelity, metrics
from .form import Prompter
from .sample import Sample, Turn

Logits = npt.NDArray[np.float32]
Budget = Union[int, float]

_ATTENTION_BYTES = 1 << 28  # of a prompt, that are kept for the next policy or budget


@dataclass(frozen=True)
class Score:
    """One turn under one policy. agreement, KL and the like: `extra`."""

    task: str
    score: float
    counted: bool
    answer: str = ""
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """One sample under one policy and budget. Times in ms: `prefill_ms` of the prompt (shared), `decode_ms` a token.

    n_kept: tokens a layer after the prompt, mean. kv_bytes: as allocated then, tail included.
    """

    sample: str
    policy: str
    budget: Budget
    scores: tuple[Score, ...]
    n_prompt: int
    n_kept: float
    kv_bytes: int
    prefill_ms: float
    evict_ms: float
    decode_ms: float


@dataclass
class Counters:
    """Tokens run through the model."""

    prefill: int = 0
    decoded: int = 0
    prompts: int = 0
    restored: int = 0


@dataclass
class Attention:
    """What the windows of one prompt attend to, computed once for all policies and budgets.

    saved_s: seconds that were not spent again since it was set to 0; they belong to what a policy costs.
    """

    known: dict[tuple[int, int], tuple[float, list[Float64]]] = field(default_factory=dict)  # (layer, window)
    n_bytes: int = 0
    saved_s: float = 0.0

    def of(self, key: tuple[int, int], compute: Iterator[Float64]) -> Iterator[Float64]:
        """compute's arrays, which must not be written to; while there is room they are kept."""
        if key in self.known:
            self.saved_s += self.known[key][0]
            return iter(self.known[key][1])
        if self.n_bytes > _ATTENTION_BYTES:
            return compute
        start = time.perf_counter()
        arrays = list(compute)
        self.known[key] = time.perf_counter() - start, arrays
        self.n_bytes += sum(array.nbytes for array in arrays)
        return iter(arrays)


@dataclass(frozen=True)
class RememberingLayer(Layer):
    """A layer of a prompt that many policies look at."""

    shared: Attention = field(default_factory=Attention)

    def attention(self, window: int, heads: Optional[Sequence[int]] = None) -> Iterator[Float64]:
        """As Layer.attention; that of some heads, which few policies ask for, is computed each time."""
        found = super().attention(window, heads)
        return found if heads is not None else self.shared.of((self.index, window), found)


@dataclass
class Prefill:
    """A prompt that was read once: the state after it, its last logits, and what the policies saw."""

    sample: Sample
    n_tokens: int
    state: Any
    logits: Logits
    seen: Any
    attention: Attention
    ms: float
    reference: list[Logits] = field(default_factory=list)  # of the full cache, for fidelity


class Player:
    """One model, with a profile and kv_prefill="full", and the form of its prompts. Decoding is greedy."""

    def __init__(self, llm: Llama, prompter: Prompter, *, protect_system: bool = False) -> None:
        self._llm = llm
        self._prompter = prompter
        self._protect_system = protect_system
        self.counters = Counters()
        self._seconds = 0.0  # spent on the tokens of the answer at hand
        self._steps = 0

    def read(self, sample: Sample, names: Sequence[str]) -> Prefill:
        """Decode the sample's prompt for the policies `names`. Raises EvaluationError if it does not fit n_ctx."""
        tokens = self._prompter.opening(sample)
        self._check_room(sample, tokens)
        self._llm.reset()
        if self._protect_system:
            self._llm.protect([range(self._prompter.n_system(sample))])
        start = time.perf_counter()
        seen = applied.read(self._llm, tokens, list(names))
        ms = 1000 * (time.perf_counter() - start)
        self.counters.prefill += len(tokens)
        self.counters.prompts += 1
        attention = Attention()
        layers = tuple(RememberingLayer(**vars(layer), shared=attention) for layer in seen.layers)
        seen = replace(seen, layers=layers)
        return Prefill(sample, len(tokens), self._llm.save_state(), self._llm.last_logits(), seen, attention, ms)

    def play(self, prefill: Prefill, policy: str, budget: Budget) -> Outcome:
        """Restore the prompt, evict by the policy, answer all turns (or follow the text of fidelity)."""
        llm, sample = self._llm, prefill.sample
        llm.load_state(prefill.state)
        self.counters.restored += 1
        self._seconds, self._steps, prefill.attention.saved_s = 0.0, 0, 0.0
        start = time.perf_counter()
        kept = applied.apply(llm, policy, budget, prefill.seen)
        evict_ms = 1000 * (time.perf_counter() - start + prefill.attention.saved_s)
        kv_bytes = llm.kv_stats().kv_bytes
        follow = self._follow if sample.turns[0].metric == "agreement" else self._answer_all
        scores = follow(prefill, policy == "full")
        return Outcome(
            sample=sample.name,
            policy=policy,
            budget=budget,
            scores=tuple(scores),
            n_prompt=prefill.n_tokens,
            n_kept=sum(kept) / len(kept),
            kv_bytes=kv_bytes,
            prefill_ms=round(prefill.ms, 3),
            evict_ms=round(evict_ms, 3),
            decode_ms=round(1000 * self._seconds / max(self._steps, 1), 4),
        )

    #
    # answers
    #

    def _answer_all(self, prefill: Prefill, _is_full: bool) -> list[Score]:
        sample, logits, scores = prefill.sample, prefill.logits, []
        for i, turn in enumerate(sample.turns):
            if i > 0:
                logits = self._next_question(self._prompter.following(sample, i))
            answer = self._answer(logits, turn, self._prompter.stops(sample, turn))
            scores.append(Score(turn.task, metrics.score(answer, turn), turn.counted, answer))
        return scores

    def _answer(self, logits: Logits, turn: Turn, stops: Sequence[str]) -> str:
        """Greedy, to the end of the answer: a control token, a stop string after some text, or max_tokens."""
        llm, tokens, text = self._llm, [], ""
        for _ in range(turn.max_tokens):
            token = int(logits.argmax())
            if self._llm.is_end(token):
                break
            tokens.append(token)
            text = llm.detokenize(tokens).decode(errors="replace")
            if any(stop in text.lstrip() for stop in stops):
                break
            logits = self._step(token)
        body = text.lstrip()
        cut = min((body.index(stop) for stop in stops if stop in body), default=len(body))
        return body[:cut].rstrip()

    def _next_question(self, tokens: list[int]) -> Logits:
        """Decode a later question and compress at its end, as `Llama` does at the end of every prompt."""
        self._llm.eval(tokens)
        self.counters.decoded += len(tokens)
        logits = self._llm.last_logits()
        applied.evict(self._llm)
        return logits

    #
    # fidelity
    #

    def _follow(self, prefill: Prefill, is_full: bool) -> list[Score]:
        """Feed the turn's text and compare each prediction after the first with that of the full cache."""
        turn = prefill.sample.turns[0]
        tokens = self._prompter.tokens(turn.answers[0], special=False)[: turn.max_tokens]
        if not is_full and not prefill.reference:
            raise EvaluationError("fidelity compares with the full cache: run the policy 'full' first")
        if is_full:
            prefill.reference.clear()
        agreed, divergences = [], []
        for i, token in enumerate(tokens[:-1]):
            logits = self._step(token)
            if is_full:
                prefill.reference.append(logits)
            agreed.append(bool(logits.argmax() == prefill.reference[i].argmax()))
            divergences.append(fidelity.divergence(prefill.reference[i], logits))
        return [Score(turn.task, float(np.mean(agreed)), True, extra={"kl": float(np.mean(divergences))})]

    #
    # tokens
    #

    def _step(self, token: int) -> Logits:
        start = time.perf_counter()
        self._llm.eval([token])
        self._seconds += time.perf_counter() - start
        self._steps += 1
        self.counters.decoded += 1
        return self._llm.last_logits()

    def _check_room(self, sample: Sample, tokens: Sequence[int]) -> None:
        later = (len(self._prompter.following(sample, i)) for i in range(1, len(sample.turns)))
        needed = len(tokens) + sum(later) + sum(turn.max_tokens for turn in sample.turns)
        if needed > self._llm.n_ctx():
            raise EvaluationError(
                f"{sample.name} takes {needed} tokens but the context holds {self._llm.n_ctx()}: lower --contexts"
            )
