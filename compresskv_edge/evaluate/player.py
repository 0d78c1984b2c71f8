"""Runs samples on a model: one prefill a prompt, which every policy and budget then starts from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from .. import policies
from ..errors import EvaluationError
from ..policies.needs import QUERIES
from ..runtime import applied
from ..runtime.outputs import AllLogits
from . import fidelity, marked, metrics
from .attention import Attention, RememberingLayer
from .forced import Greedy, Reference, kept_shares
from .form import Prompter
from .outcome import FULL, Budget, Outcome, Score
from .sample import Sample, Turn
from .states import KnownText, States

Logits = npt.NDArray[np.float32]


@dataclass
class Counters:
    """Tokens run through the model."""

    prefill: int = 0
    decoded: int = 0
    prompts: int = 0
    restored: int = 0


@dataclass
class Prefill:
    """A prompt that was read once: the state after it, its last logits, and what the policies saw.

    marked: positions of the passages that answer its first question. reference: the full cache's answer to it, or its
    predictions for fidelity; both come with the policy "full".
    """

    sample: Sample
    n_tokens: int
    state: Any
    logits: Logits
    seen: Any
    attention: Attention
    ms: float
    marked: list[int]
    reference: Optional[Reference] = None
    predictions: list[Logits] = field(default_factory=list)

    @property
    def needs_full(self) -> bool:
        """The policy "full" has to be played before others."""
        return self.reference is None and not self.predictions and len(self.sample.turns) == 1


class Player:
    """One model, with a profile and kv_prefill="full", and the form of its prompts. Decoding is greedy."""

    def __init__(
        self, llm: AllLogits, prompter: Prompter, *, protect_system: bool = False, states: Optional[States] = None
    ) -> None:
        """states: where documents that groups share are kept."""
        self._states = states
        self._llm = llm
        self._prompter = prompter
        self._protect_system = protect_system
        self.counters = Counters()
        self._seconds = 0.0  # spent on the tokens of the answer at hand, one by one
        self._steps = 0
        self._document: Optional[KnownText] = None  # of the group at hand

    def read(self, sample: Sample, names: Sequence[str]) -> Prefill:
        """Decode the sample's prompt for the policies `names`. Raises EvaluationError if it does not fit n_ctx."""
        tokens = self._prompter.opening(sample)
        self._check_room(sample, tokens)
        self._llm.reset()
        if self._protect_system:
            self._llm.protect([range(self._prompter.n_system(sample))])
        reading = self._read(sample, tokens, names)
        self.counters.prompts += 1
        attention = Attention()
        layers = tuple(RememberingLayer(**vars(layer), shared=attention) for layer in reading.seen.layers)
        seen = replace(reading.seen, layers=layers)
        passages = sample.turns[0].marked
        places = marked.positions(self._llm.pieces(tokens), passages) if passages else []
        return Prefill(sample, len(tokens), reading.state, self._llm.last_logits(), seen, attention, reading.ms, places)

    def play(self, prefill: Prefill, policy: str, budget: Budget) -> Outcome:
        """Restore the prompt, evict by the policy, answer all turns (or follow the text of fidelity)."""
        llm, sample = self._llm, prefill.sample
        self._seconds, self._steps = 0.0, 0
        kept, evict_ms = self._evicted(prefill, policy, budget)
        self.counters.restored += 1
        kv_bytes = llm.kv_bytes()
        held, any_held = self._held(prefill)
        follow = self._follow if sample.turns[0].metric == "agreement" else self._answer_all
        first, *others = follow(prefill, policy, budget)
        evidence = {"evidence": float(np.mean(held)), "evidence_any": any_held} if held else {}
        return Outcome(
            sample=sample.name,
            policy=policy,
            budget=budget,
            scores=(replace(first, extra={**first.extra, **evidence}), *others),
            n_prompt=prefill.n_tokens,
            n_kept=sum(kept) / len(kept),
            kv_bytes=kv_bytes,
            prefill_ms=round(prefill.ms, 3),
            evict_ms=round(evict_ms, 3),
            decode_ms=round(1000 * self._seconds / self._steps, 4) if self._steps else None,
            held=tuple(round(share, 4) for share in held),
        )

    #
    # prompts
    #

    def _read(self, sample: Sample, tokens: list[int], names: Sequence[str]) -> KnownText:
        """A prompt from its start, or from the end of the document that its group shares."""
        if not sample.group:
            return self._read_whole(tokens, names, self._prompter.n_question(sample))
        document = self._read_document(tokens[: self._prompter.n_document(sample)], names)
        rest = tokens[len(document.seen.tokens) :]
        self._llm.load_state(document.state)
        start = time.perf_counter()
        seen = applied.read_on(self._llm, rest, document.seen, n_question=self._prompter.n_question(sample))
        ms = document.ms + 1000 * (time.perf_counter() - start)
        self.counters.prefill += len(rest)
        return KnownText(self._llm.save_state(), seen, ms)

    def _read_whole(self, tokens: list[int], names: Sequence[str], n_question: Optional[int]) -> KnownText:
        start = time.perf_counter()
        seen = applied.read(self._llm, tokens, names, n_question=n_question)
        ms = 1000 * (time.perf_counter() - start)
        self.counters.prefill += len(tokens)
        return KnownText(self._llm.save_state(), seen, ms)

    def _read_document(self, tokens: list[int], names: Sequence[str]) -> KnownText:
        """Read once for a group, however its questions go on."""
        known = self._document
        if known is not None and list(known.seen.tokens) == tokens and applied.serves(known.seen, names):
            return known
        found = None if self._states is None else self._states.load(tokens, names)
        if found is None:
            found = self._read_whole(tokens, names, None)
            if self._states is not None:
                self._states.save(tokens, found)
        self._document = found
        return found

    def _evicted(self, prefill: Prefill, policy: str, budget: Budget) -> tuple[list[int], float]:
        """The prompt's cache as the policy leaves it: tokens held by each layer, and the ms that it took."""
        self._llm.load_state(prefill.state)
        prefill.attention.saved_s = 0.0
        start = time.perf_counter()
        kept = applied.apply(self._llm, policy, budget, _seen_by(policy, prefill.seen))
        return kept, 1000 * (time.perf_counter() - start + prefill.attention.saved_s)

    def _held(self, prefill: Prefill) -> tuple[list[float], float]:
        if not prefill.marked:
            return [], 0.0
        return kept_shares(prefill.marked, [self._llm.kv_kept(layer) for layer in self._llm.kv_layers])

    #
    # answers
    #

    def _answer_all(self, prefill: Prefill, policy: str, budget: Budget) -> list[Score]:
        sample = prefill.sample
        answer, extra = self._first(prefill, policy, budget)
        scores = [_score(sample.turns[0], answer, extra)]
        for i, turn in enumerate(sample.turns[1:], 1):
            logits = self._next_question(self._prompter.following(sample, i))
            scores.append(_score(turn, self._go_on(logits, turn, self._prompter.stops(sample, turn))))
        return scores

    def _first(self, prefill: Prefill, policy: str, budget: Budget) -> tuple[Greedy, dict[str, float]]:
        """The answer to the first question, and how it compares with the full cache's."""
        turn = prefill.sample.turns[0]
        stops = self._prompter.stops(prefill.sample, turn)
        if policy == FULL:
            answer = self._go_on(prefill.logits, turn, stops)
            if prefill.reference is None and len(prefill.sample.turns) == 1:
                self._evicted(prefill, policy, budget)
                prefill.reference = Reference(answer, self._fed(answer.fed))
            return answer, {"agreement": 1.0, "kl": 0.0} if len(prefill.sample.turns) == 1 else {}
        if len(prefill.sample.turns) > 1:  # a conversation goes on after answers of its own
            return self._go_on(prefill.logits, turn, stops), {}
        if prefill.reference is None:
            raise EvaluationError("agreement compares with the full cache: run the policy 'full' first")
        return self._compared(prefill, prefill.reference, policy, budget)

    def _compared(
        self, prefill: Prefill, reference: Reference, policy: str, budget: Budget
    ) -> tuple[Greedy, dict[str, float]]:
        """The full cache's answer is fed; where the predictions part, the policy goes on with its own."""
        turn, full = prefill.sample.turns[0], reference.answer
        logits = self._fed(full.fed)
        n_agreed = reference.n_agreed(logits)
        same = n_agreed == len(full.fed)
        extra = {"agreement": float(same), "kl": reference.kl(logits)}
        if same:
            return full, extra
        stops = self._prompter.stops(prefill.sample, turn)
        if self._llm.take_back(len(full.fed) - n_agreed - 1):
            return self._go_on(logits[n_agreed], turn, stops, full.tokens[: n_agreed + 1]), extra
        self._evicted(prefill, policy, budget)
        return self._go_on(prefill.logits, turn, stops), extra

    def _go_on(self, logits: Logits, turn: Turn, stops: Sequence[str], begun: Sequence[int] = ()) -> Greedy:
        """Greedy, to the end of the answer: a control token, a stop string after some text, or max_tokens."""
        llm, tokens, text, end = self._llm, list(begun), "", None
        while len(tokens) < turn.max_tokens:
            token = int(logits.argmax())
            if llm.is_end(token):
                end = token
                break
            tokens.append(token)
            text = llm.detokenize(tokens).decode(errors="replace")
            if len(tokens) == turn.max_tokens or any(stop in text.lstrip() for stop in stops):
                break
            logits = self._step(token)
        body = llm.detokenize(tokens).decode(errors="replace").lstrip()
        cut = min((body.index(stop) for stop in stops if stop in body), default=len(body))
        return Greedy(tuple(tokens), body[:cut].rstrip(), end)

    def _next_question(self, tokens: list[int]) -> Logits:
        """Decode a later question and compress at its end, as `Llama` does at the end of every prompt."""
        self._llm.eval(tokens)
        self.counters.decoded += len(tokens)
        logits = self._llm.last_logits()
        applied.evict(self._llm, n_question=len(tokens))
        return logits

    #
    # fidelity
    #

    def _follow(self, prefill: Prefill, policy: str, _: Budget) -> list[Score]:
        """Feed the turn's text and compare each prediction after the first with that of the full cache."""
        turn, full = prefill.sample.turns[0], policy == FULL
        tokens = self._prompter.tokens(turn.answers[0], special=False)[: turn.max_tokens]
        if not full and not prefill.predictions:
            raise EvaluationError("fidelity compares with the full cache: run the policy 'full' first")
        if full:
            prefill.predictions.clear()
        agreed, divergences = [], []
        for i, token in enumerate(tokens[:-1]):
            logits = self._step(token)
            if full:
                prefill.predictions.append(logits)
            agreed.append(bool(logits.argmax() == prefill.predictions[i].argmax()))
            divergences.append(fidelity.divergence(prefill.predictions[i], logits))
        return [Score(turn.task, float(np.mean(agreed)), True, extra={"kl": float(np.mean(divergences))})]

    #
    # tokens
    #

    def _fed(self, tokens: Sequence[int]) -> Logits:
        self.counters.decoded += len(tokens)
        return self._llm.eval_all(tokens)

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


def _seen_by(policy: str, seen: applied.Seen) -> applied.Seen:
    """With the queries of its own window alone, where a policy has one: others may have had more recorded."""
    n = policies.get(policy).own_window
    if not n:
        return seen
    layers = (replace(layer, inputs={**layer.inputs, QUERIES.kind: layer[QUERIES][:, -n:]}) for layer in seen.layers)
    return replace(seen, layers=tuple(layers))


def _score(turn: Turn, answer: Greedy, extra: Optional[dict[str, float]] = None) -> Score:
    return Score(turn.task, metrics.score(answer.text, turn), turn.counted, answer.text, extra or {})
