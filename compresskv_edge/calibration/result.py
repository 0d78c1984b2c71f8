"""From the numbers of a calibration to a profile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import numpy.typing as npt

from ..errors import CalibrationError
from ..model.measurement import Calibration, ErrorCurves, Stability, pack_directions
from ..model.profile import Profile, Provenance, Settings
from ..version import __version__
from .answer import MIN_RECALL
from .corpus import Corpus
from .curves import POINTS
from .layer_error import combine
from .prompts import MIN_COUNTED, NeedleDocument, Plan
from .retrieval_score import rank, rank_correlation, shared
from .state import State

Float64 = npt.NDArray[np.float64]

# layers are compared at this many tokens, window included; section 3.3 of arXiv:2508.02401
ERROR_BUDGET = 32
_DIGITS = 6


@dataclass(frozen=True)
class CalibrationResult:
    """What was measured, on what, for which model: `uncalibrated` is its profile without a measurement."""

    state: State
    documents: Sequence[NeedleDocument]  # that were read
    plan: Plan
    corpus: Corpus
    uncalibrated: Profile
    is_plain: bool  # prompts without a chat template

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """(n_questions,) whether the needle was found."""
        return np.asarray(self.state.recall > MIN_RECALL)

    @property
    def heads_calibrated(self) -> bool:
        return int(self.counted.sum()) >= MIN_COUNTED

    def settings(self) -> Settings:
        """The paper's; where no head could be ranked, all of them score."""
        return Settings() if self.heads_calibrated else self.uncalibrated.settings

    def heads_ranked(self) -> list[tuple[int, ...]]:
        """Heads of each layer by mean semantic score over the prompts that count; in order where nothing is known."""
        scores = self._mean(self.state.semantic)
        return [rank(row[: self.uncalibrated.model.heads_in(layer)]) for layer, row in enumerate(scores)]

    def heads_used(self) -> list[tuple[int, ...]]:
        """The heads that choose the tokens of each layer."""
        return [ranking[: self.settings().n_heads] for ranking in self.heads_ranked()]

    def stability(self) -> Optional[Stability]:
        """Every other needle against the others, and every other document; None where a half says nothing."""
        order = {needle: i for i, needle in enumerate(self.corpus.needles)}
        asked = np.array([order[needle] % 2 for document in self.documents for needle in document.needles])
        halves = [self.state.semantic[self.counted & (asked == which)] for which in (0, 1)]
        errors = [self._errors_of(which) for which in (0, 1)]
        if min(map(len, halves)) < MIN_COUNTED or not all(map(np.any, errors)):
            return None
        first, second = (half.mean(axis=0) for half in halves)
        measured = [layer for layer, rows in enumerate(self._mean(self.state.semantic)) if rows.any()]
        return Stability(
            n_counted=(len(halves[0]), len(halves[1])),
            rank_correlation=round(rank_correlation(first[measured], second[measured]), 3),
            shared_heads=round(shared(first[measured], second[measured], self.settings().n_heads), 3),
            error_difference=round(float(np.abs(errors[0] - errors[1]).max()), _DIGITS),
        )

    def error_curves(self) -> Optional[ErrorCurves]:
        """Mean over the documents, None if there were none."""
        if not len(self.state.curves):
            return None
        asked, later = (
            tuple(tuple(float(f"{value:.{_DIGITS}g}") for value in row) for row in rows)
            for rows in self.state.curves.mean(axis=0)
        )
        return ErrorCurves(tokens=POINTS, asked=asked, later=later)

    def layer_errors(self) -> Float64:
        """(n_layer,) Each haystack is one data set; zero where a layer is not measured."""
        return self._errors_of(0, 1)

    def _errors_of(self, *which: int) -> Float64:
        """Of all documents with errors, or of every other one."""
        sums: dict[str, Float64] = {}
        rows = [row for i, row in enumerate(zip(self._with_errors(), self.state.errors)) if i % 2 in which]
        for document, errors in rows:
            sums[document.haystack] = sums.get(document.haystack, np.zeros_like(errors)) + errors
        return combine(sums) if sums else np.zeros(self.uncalibrated.model.n_layer)

    def _with_errors(self) -> Sequence[NeedleDocument]:
        return self.documents[len(self.documents) - len(self.state.errors) :]

    def profile(self) -> Profile:
        """The profile, rounded. Raises CalibrationError if nothing could be measured."""
        errors = [round(float(error), _DIGITS) for error in self.layer_errors()]
        if not any(errors) and not self.heads_calibrated:
            raise CalibrationError(f"nothing could be measured: {self._reason()}, and no answer had a second token")
        return Profile(
            model=self.uncalibrated.model,
            heads_ranked=tuple(self.heads_ranked()),
            layer_errors=tuple(errors) if any(errors) else self.uncalibrated.layer_errors,
            settings=self.settings(),
            default_budget=self.uncalibrated.default_budget,
            provenance=self._provenance(),
            calibration=self._calibration(),
            error_curves=self.error_curves(),
        )

    def _calibration(self) -> Calibration:
        semantic = self.state.semantic
        spread = semantic[self.counted].std(axis=0, ddof=1) if self.heads_calibrated else np.zeros(semantic.shape[1:])
        return Calibration(
            heads_calibrated=self.heads_calibrated,
            reason="" if self.heads_calibrated else self._reason(),
            n_prompts=len(self.state.recall),
            n_counted=int(self.counted.sum()),
            semantic_scores=self._rows(self._mean(semantic)),
            semantic_spread=self._rows(spread),
            classic_scores=self._rows(self._mean(self.state.classic)),
            tensor_hash=str(self.state.key["model"]),
            query_directions=self._query_directions(),
            stability=self.stability(),
        )

    def _mean(self, scores: Float64) -> Float64:
        mean = scores[self.counted].mean(axis=0) if self.counted.any() else np.zeros(scores.shape[1:])
        return np.asarray(mean, dtype=np.float64)

    def _rows(self, values: Float64) -> tuple[tuple[float, ...], ...]:
        model = self.uncalibrated.model
        return tuple(
            tuple(float(f"{value:.{_DIGITS}g}") for value in row[: model.heads_in(layer)])
            for layer, row in enumerate(values)
        )

    def _query_directions(self) -> tuple[str, ...]:
        model, means = self.uncalibrated.model, self.state.query_sum / max(self.state.n_queries, 1)
        dims = model.head_dim if isinstance(model.head_dim, tuple) else (model.head_dim,) * model.n_layer
        return pack_directions([mean[: model.heads_in(layer), : dims[layer]] for layer, mean in enumerate(means)])

    def _reason(self) -> str:
        return (
            f"the model found the needle in {int(self.counted.sum())} of {len(self.state.recall)} prompts, "
            f"{MIN_COUNTED} are needed to rank its heads: all of them score"
        )

    def _remarks(self) -> Iterator[str]:
        n_found, n_asked = int(self.counted.sum()), len(self.state.recall)
        if self.heads_calibrated and 2 * n_found < n_asked:
            yield (
                f"the model found only {n_found} of {n_asked} needles: its heads are ranked by few answers; needles "
                "that it can answer (--needles) would tell more"
            )
        if not self.state.errors.any():
            yield "layer errors were not measured: all layers are taken to be equal"

    def _how_curves(self) -> str:
        n_prompts = len(self.state.curves)
        return f"; error curves: one layer compressed at a time, {n_prompts} answers" if n_prompts else ""

    def _provenance(self) -> Provenance:
        plan, lengths = self.plan, self.state.lengths
        form = "without a chat template" if self.is_plain else "with the model's chat template"
        n_error_prompts = sum(len(document.needles) for document in self._with_errors())
        answers = f"{int(self.counted.sum())} of {len(lengths)} greedy answers"
        return Provenance(
            how=f"heads: semantic retrieval score over {answers}, {form}; "
            f"layer errors: relative error after the output projection at {ERROR_BUDGET} tokens a layer, "
            f"{self.state.n_steps} steps of {n_error_prompts} prompts, one data set a haystack{self._how_curves()}",
            text=f"{self.corpus.name}; {len(self.documents)} documents, prompts of {min(lengths)} to {max(lengths)} "
            f"tokens, depths 0 to 100 %, seed {plan.seed}; disjoint from all evaluation",
            date="",  # the same calibration gives the same bytes on any day
            version=f"compresskv_edge {__version__}",
            remarks=tuple(self._remarks()),
        )
