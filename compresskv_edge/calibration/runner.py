"""Calibration: a GGUF, text and needles in, a profile out (sections 3.2 and 3.3 of arXiv:2508.02401).

Each document is read once, and all of its questions are asked behind it. While the model answers, its heads are scored.
The later documents also compress every layer to 32 tokens, on paper, with the heads that the earlier ones ranked, and
measure what that changes after the output projection, for the queries of the full run. If asked for, one question of
each measures error curves as well (curves.py). Keys, values and attention are in memory for one layer at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from ..errors import CalibrationError
from ..method.attention import look_at
from ..method.scoring import select_tokens
from ..model.gguf_file import GGUF
from ..model.profile import Profile
from ..runtime.prompt import common_prefix
from ..version import __version__
from . import curves
from .answer import MIN_RECALL, recall
from .corpus import Corpus, Needle, PathLike
from .engine import MARGIN, Engine, Trace
from .layer_error import Losses, outputs_of_kept
from .progress import DECODE_COST, Progress, Report, ignore
from .prompts import QUESTION_TOKENS, QUICK, NeedleDocument, Plan, make_documents, plain
from .result import ERROR_BUDGET, CalibrationResult
from .retrieval_score import classic_score, semantic_score
from .state import State

Float64 = npt.NDArray[np.float64]


def calibrate(
    model_path: PathLike,
    *,
    plan: Plan = QUICK,
    text: Optional[PathLike] = None,
    needles: Optional[PathLike] = None,
    corpus: Optional[Corpus] = None,
    n_threads: Optional[int] = None,
    use_chat: bool = True,
    llama_options: Optional[Mapping[str, Any]] = None,
    state_path: Optional[PathLike] = None,
    report: Report = ignore,
) -> Profile:
    """Measure a profile for a GGUF with its own engine: the heads that retrieve, and what compression costs each layer.

    The same arguments on the same machine, with as many threads, give the same profile to the byte. A model that does
    not find the needles gets all heads: see `profile.calibration.heads_calibrated` and `.reason`.

    Args:
        plan: how much is measured, see `Plan`.
        text: folder of .txt files, or one; needles: JSON file. None: ours. corpus: in place of both.
        n_threads: None: one a core.
        use_chat: use the chat template of the GGUF if it has one.
        llama_options: more options of llama_cpp.Llama, say n_gpu_layers.
        state_path: file that a stopped calibration goes on from; it is deleted at the end.
        report: called with a `Progress` after each document.

    Raises CalibrationError, UnsupportedModelError.
    """
    with open_engine(model_path, plan, n_threads=n_threads, use_chat=use_chat, llama_options=llama_options) as engine:
        corpus = corpus or Corpus.load(text=text, needles=needles, model_name=engine.facts.name)
        return Runner(engine, corpus, plan, state_path=state_path, report=report).run()


def open_engine(model_path: PathLike, plan: Plan, **options: Any) -> Engine:
    """The model with room for the plan's longest prompt; options: as of Engine.

    Raises CalibrationError if the model was not trained for that length.
    """
    header = GGUF.open(model_path).metadata
    trained = header.get(f"{header.get('general.architecture')}.context_length")
    if trained is not None and plan.max_tokens > int(trained):
        raise CalibrationError(
            f"max_tokens is {plan.max_tokens} but the model's context is {trained}: use {trained} or less"
        )
    n_ctx = plan.max_tokens + plan.answer_tokens + MARGIN
    return Engine(model_path, n_ctx=n_ctx, **options)


def fit_to_context(plan: Plan, model_path: PathLike) -> Plan:
    """The plan with prompts no longer than the model's context allows, answers included."""
    header = GGUF.open(model_path).metadata
    trained = int(header.get(f"{header.get('general.architecture')}.context_length", plan.max_tokens + 4096))
    longest = min(plan.max_tokens, trained - plan.answer_tokens - MARGIN)
    return dataclasses.replace(plan, max_tokens=longest, min_tokens=min(plan.min_tokens, longest))


class Runner:
    """One calibration. `run` may be stopped at any time; another Runner goes on from the same state file."""

    def __init__(
        self,
        engine: Engine,
        corpus: Corpus,
        plan: Plan,
        *,
        state_path: Optional[PathLike] = None,
        report: Report = ignore,
    ) -> None:
        self.engine, self.corpus, self.plan = engine, corpus, plan
        self.model_hash = engine.file.hash()
        self.state_path = None if state_path is None else Path(state_path)
        sizes = (engine.count, engine.overhead())
        planned, more = (make_documents(corpus, each, *sizes) for each in (plan, plan.more()))
        self.n_first, self.n_before_errors = plan.n_head_documents, plan.n_head_documents + len(more)
        self.documents = [*planned[: self.n_first], *more, *planned[self.n_first :]]
        self.report = report
        self.state = self._load_state()

    def run(self) -> Profile:
        """All that is left to do, then the profile. The state file is deleted."""
        self.engine.reserve(self.plan.max_tokens + self.plan.answer_tokens + MARGIN)
        self._report("begin")
        while (i := self._next()) < len(self.documents):
            self._measure(i)
            self._save_state()
            self._report("heads" if i < self.n_before_errors else "layers")
        profile = self.result().profile()
        if self.state_path is not None:
            self.state_path.unlink(missing_ok=True)
        return profile

    def result(self) -> CalibrationResult:
        """What was measured so far."""
        return self._result(self.state)

    def _result(self, state: State) -> CalibrationResult:
        documents = [self.documents[i] for i in self.state.read]
        is_plain = self.engine.render is plain
        return CalibrationResult(state, documents, self.plan, self.corpus, self.engine.profile, is_plain)

    def _next(self) -> int:
        """The document to be read now. Those beside the plan come only while few needles were found."""
        i = max(self.state.read, default=-1) + 1
        is_beside = self.n_first <= i < self.n_before_errors
        return self.n_before_errors if is_beside and self.result().counted.sum() >= self.plan.enough else i

    def _measure(self, i: int) -> None:
        """All that one document tells."""
        document, losses = self.documents[i], Losses()
        heads = self._heads_before_errors() if i >= self.n_before_errors else None
        self.engine.restart()
        self.engine.query_sum, self.engine.n_queries = {}, 0
        scores = []
        for needle in document.needles:
            tokens = self._question(document, needle)
            span = self.engine.span(tokens, needle.sentence)
            self.engine.read(tokens)
            trace = self.engine.answer(self.plan.answer_tokens)
            scores.append(self._score(trace, span, recall(trace.answer, needle.answer)))
            if heads is not None:
                self._lose(trace, heads, losses)
        self._add_scores(scores)
        if heads is not None:
            self._add_errors(losses)
        if i >= len(self.documents) - self.plan.n_curve_documents:
            self._measure_curves(document, self._heads_before_errors())
        self.state.read.append(i)

    def _question(self, document: NeedleDocument, needle: Needle) -> list[int]:
        """Tokens of a prompt."""
        tokens = self.engine.tokens(document.ask(needle, self.engine.render))
        if len(tokens) > self.plan.max_tokens + MARGIN:
            raise CalibrationError(
                f"a prompt of {len(tokens)} tokens passes max_tokens = {self.plan.max_tokens}: "
                "use shorter needles, fewer a document, or raise max_tokens"
            )
        return tokens

    #
    # heads
    #

    def _score(self, trace: Trace, span: tuple[int, int], found: float) -> tuple[Float64, Float64, float]:
        semantic, classic = np.zeros(self.state.semantic.shape[1:]), np.zeros(self.state.classic.shape[1:])
        self.state.lengths.append(len(trace.prompt))
        if found > MIN_RECALL:
            tokens = trace.prompt[span[0] : span[1]]
            n_visible = len(trace.prompt) + np.arange(len(trace.generated))
            for layer, queries in trace.queries.items():
                keys, _ = self.engine.keys_and_values(layer)
                mass, top = look_at(queries, keys, n_visible, span, softcap=self.engine.softcap)
                n_head = queries.shape[0]
                semantic[layer, :n_head] = semantic_score(mass, trace.generated, tokens)
                classic[layer, :n_head] = classic_score(top, trace.generated, tokens, span[0])
        return semantic, classic, found

    def _add_scores(self, scores: Sequence[tuple[Float64, Float64, float]]) -> None:
        state = self.state
        semantic, classic, found = (np.stack([np.asarray(row[i]) for row in scores]) for i in range(3))
        state.semantic = np.concatenate([state.semantic, semantic])
        state.classic = np.concatenate([state.classic, classic])
        state.recall = np.concatenate([state.recall, found])
        state.n_queries += self.engine.n_queries
        for layer, total in self.engine.query_sum.items():
            state.query_sum[layer, : total.shape[0], : total.shape[1]] += total

    def _heads_before_errors(self) -> list[tuple[int, ...]]:
        """The best heads of each layer as the documents before the layer errors rank them: (n_layer,)."""
        n = sum(len(self.documents[i].needles) for i in self.state.read if i < self.n_before_errors)
        rows = {name: getattr(self.state, name)[:n] for name in ("semantic", "classic", "recall")}
        return self._result(dataclasses.replace(self.state, **rows)).heads_used()

    #
    # layers
    #

    def _lose(self, trace: Trace, heads: list[tuple[int, ...]], losses: Losses) -> None:
        """What attention says with all tokens and with few, after an answer."""
        n_steps = len(trace.generated) - 1  # the first token comes from the prompt's own run
        losses.n_steps += n_steps
        n_prompt, s = len(trace.prompt), self.engine.settings
        for layer, queries in trace.queries.items() if n_steps else ():
            keys, values = self.engine.keys_and_values(layer)
            kept = select_tokens(
                trace.window[layer], keys[:, :n_prompt], heads[layer], ERROR_BUDGET,
                window=s.window, kernel=s.kernel, pooling=s.pooling,
            )  # fmt: skip
            pair = outputs_of_kept(queries[:, 1:], keys, values, kept, n_prompt, softcap=self.engine.softcap)
            losses.pairs.setdefault(layer, []).append(pair)

    def _add_errors(self, losses: Losses) -> None:
        sums = losses.sums(self.engine.facts.n_layer, self.engine.output_projection)
        self.state.errors = np.concatenate([self.state.errors, sums[None]])
        self.state.n_steps += losses.n_steps

    def _measure_curves(self, document: NeedleDocument, heads: Sequence[Sequence[int]]) -> None:
        """Of the document's first question."""
        needle = document.needles[0]
        tokens, other = (self._question(document, each) for each in (needle, dataclasses.replace(needle, question="?")))
        asked = curves.asked(self.engine, tokens, heads)
        later = curves.later(self.engine, tokens, common_prefix(tokens, other))
        self.state.curves = np.concatenate([self.state.curves, np.stack([asked, later])[None]])

    #
    # progress
    #

    def _report(self, phase: str) -> None:
        """After each document, and once before the first: what an earlier run did is no sign of this one's speed."""
        left = range(self._next(), len(self.documents))
        planned = [i for i in left if not self.n_first <= i < self.n_before_errors]
        done, to_do = (sum(map(self._cost, part)) for part in (self.state.read, planned))
        self.report(Progress(done, done + to_do, phase, int(self.result().counted.sum()), len(self.state.recall)))

    def _cost(self, i: int) -> float:
        """Of reading a document and answering, in tokens of a prompt."""
        document = self.documents[i]
        cost = document.n_tokens + len(document.needles) * (QUESTION_TOKENS + DECODE_COST * self.plan.answer_tokens)
        if i < len(self.documents) - self.plan.n_curve_documents:
            return cost
        n_runs = len(list(self.engine.measured_layers())) * len(curves.POINTS)
        return cost + n_runs * (2 * curves.MAX_STEPS + QUESTION_TOKENS)

    def _key(self) -> dict[str, Any]:
        return {
            **{"version": __version__, "model": self.model_hash, "corpus": self.corpus.fingerprint()},
            **{"chat": self.engine.render is not plain, "plan": dataclasses.asdict(self.plan)},
        }

    def _load_state(self) -> State:
        layers, key = self.engine.layers, self._key()
        found = None if self.state_path is None else State.load(self.state_path)
        if found is not None and found.fits(key):
            return found
        return State.empty(
            key,
            len(layers),
            max(x.n_head for x in layers),
            max(x.head_dim_k for x in layers),
            len(curves.POINTS),
        )

    def _save_state(self) -> None:
        if self.state_path is not None:
            self.state.save(self.state_path)
