"""Calibration: a GGUF, text and needles in, a profile out (sections 3.2 and 3.3 of arXiv:2508.02401).

Two passes over the documents. The first scores the heads while the model answers. The second compresses every layer to
32 tokens with the best heads, on paper, and measures what that changes after the output projection, for the queries of
the full run. Keys, values and attention are in memory for one layer at a time. A third, if asked for, measures error
curves (curves.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
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
from .corpus import Corpus, PathLike
from .engine import MARGIN, Engine, Trace
from .layer_error import outputs_of_kept, relative_errors
from .progress import DECODE_COST, Progress, Report, ignore
from .prompts import QUICK, NeedleDocument, Plan, make_documents, plain
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
        self.documents = make_documents(corpus, plan, engine.count, engine.overhead())
        self.report = report
        self.state = self._load_state()

    def run(self) -> Profile:
        """All that is left to do, then the profile. The state file is deleted."""
        self.engine.reserve(self.plan.max_tokens + self.plan.answer_tokens + MARGIN)
        self._report("begin")
        for i in range(self._n_scored(), len(self.documents)):
            self._score_heads(self.documents[i])
            self._save_state()
            self._report("heads")
        heads = self.result().heads_used()
        for i in range(len(self.state.errors), self.plan.n_error_documents):
            self._measure_errors(self.documents[i], heads)
            self._save_state()
            self._report("layers")
        for i in range(len(self.state.curves), self.plan.n_curve_documents):
            self._measure_curves(self.documents[i], heads)
            self._save_state()
            self._report("curves")
        profile = self.result().profile()
        if self.state_path is not None:
            self.state_path.unlink(missing_ok=True)
        return profile

    def result(self) -> CalibrationResult:
        """What was measured so far."""
        return CalibrationResult(
            self.state, self.documents, self.plan, self.corpus, self.engine.profile, self.engine.render is plain
        )

    #
    # first pass: heads
    #

    def _score_heads(self, document: NeedleDocument) -> None:
        state, engine = self.state, self.engine
        engine.query_sum, engine.n_queries = {}, 0
        scores = [self._score(trace, span, found) for trace, span, found in self._ask(document)]
        semantic, classic, found = (np.stack([np.asarray(row[i]) for row in scores]) for i in range(3))
        state.semantic = np.concatenate([state.semantic, semantic])
        state.classic = np.concatenate([state.classic, classic])
        state.recall = np.concatenate([state.recall, found])
        state.n_queries += engine.n_queries
        for layer, total in engine.query_sum.items():
            state.query_sum[layer, : total.shape[0], : total.shape[1]] += total

    def _ask(self, document: NeedleDocument) -> Iterator[tuple[Trace, tuple[int, int], float]]:
        """Each needle of a document: the answer as it was made, where the needle is, and how much of it was found."""
        self.engine.restart()
        for needle in document.needles:
            tokens = self.engine.tokens(document.ask(needle, self.engine.render))
            if len(tokens) > self.plan.max_tokens + MARGIN:
                raise CalibrationError(
                    f"a prompt of {len(tokens)} tokens passes max_tokens = {self.plan.max_tokens}: "
                    "use shorter needles, fewer a document, or raise max_tokens"
                )
            span = self.engine.span(tokens, needle.sentence)
            self.engine.read(tokens)
            trace = self.engine.answer(self.plan.answer_tokens)
            yield trace, span, recall(trace.answer, needle.answer)

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

    #
    # second pass: layers
    #

    def _measure_errors(self, document: NeedleDocument, heads: list[tuple[int, ...]]) -> None:
        sums = np.zeros(self.engine.facts.n_layer)
        n_steps = 0
        pairs: dict[int, list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]] = {}
        for trace, _, _ in self._ask(document):
            steps = len(trace.generated) - 1  # the first token comes from the prompt's own run
            n_steps += steps
            for layer in trace.queries if steps else ():
                pairs.setdefault(layer, []).append(self._outputs(layer, trace, heads[layer]))
        for layer, outputs in pairs.items():
            w_o, bias = self.engine.output_projection(layer)
            full, less = (np.concatenate([pair[i] for pair in outputs]) for i in range(2))
            sums[layer] = relative_errors(full, less, w_o, bias).sum()
        self.state.errors = np.concatenate([self.state.errors, sums[None]])
        self.state.n_steps += n_steps

    def _outputs(self, layer: int, trace: Trace, heads: tuple[int, ...]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        keys, values = self.engine.keys_and_values(layer)
        n_prompt, s = len(trace.prompt), self.engine.settings
        kept = select_tokens(
            trace.window[layer], keys[:, :n_prompt], heads, ERROR_BUDGET,
            window=s.window, kernel=s.kernel, pooling=s.pooling,
        )  # fmt: skip
        queries = trace.queries[layer][:, 1:]
        return outputs_of_kept(queries, keys, values, kept, n_prompt, softcap=self.engine.softcap)

    #
    # third pass, if asked for: error curves
    #

    def _measure_curves(self, document: NeedleDocument, heads: Sequence[Sequence[int]]) -> None:
        engine, found = self.engine, []
        for needle in document.needles:
            tokens, other = (
                engine.tokens(document.ask(each, engine.render))
                for each in (needle, dataclasses.replace(needle, question="?"))
            )
            asked = curves.asked(engine, tokens, heads)
            found.append((asked, curves.later(engine, tokens, common_prefix(tokens, other))))
        self.state.curves = np.concatenate([self.state.curves, np.mean(found, axis=0)[None]])

    #
    # progress
    #

    def _n_scored(self) -> int:
        """Documents whose questions are answered."""
        return len(self.state.recall) // len(self.documents[0].needles)

    def _report(self, phase: str) -> None:
        """After each document, and once before the first: what an earlier run did is no sign of this one's speed."""
        errors = self.documents[: self.plan.n_error_documents]
        done = [*self.documents[: self._n_scored()], *errors[: len(self.state.errors)]]
        work, total = (sum(map(self._cost, part)) for part in (done, [*self.documents, *errors]))
        work += sum(map(self._curve_cost, self.documents[: len(self.state.curves)]))
        total += sum(map(self._curve_cost, self.documents[: self.plan.n_curve_documents]))
        self.report(Progress(work, total, phase, int(self.result().counted.sum()), len(self.state.recall)))

    def _cost(self, document: NeedleDocument) -> float:
        return document.n_tokens + len(document.needles) * DECODE_COST * self.plan.answer_tokens

    def _curve_cost(self, document: NeedleDocument) -> float:
        n_runs = len(list(self.engine.measured_layers())) * len(curves.POINTS)
        return 2 * len(document.needles) * (document.n_tokens + n_runs * DECODE_COST * curves.MAX_STEPS)

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
