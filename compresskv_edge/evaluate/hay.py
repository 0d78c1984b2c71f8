"""Documents for samples: the generated hay, or any text of the user, with facts in it."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..calibration.corpus import Corpus
from ..errors import EvaluationError
from . import haystack
from .sample import Fit, Sample, SuitePlan

_LEAST = 0.8  # of the tokens asked for that a document must have

HINT = "Answer with the value only."  # known to the demo model, and plain enough for any


def bury(
    plan: SuitePlan, fit: Fit, rng: random.Random, sample: Sample, placed: Sequence[tuple[float, str]], n: int
) -> Sample:
    """The sample with a document of hay and the placed sentences (depth, text), n tokens with everything around it."""
    return replace(sample, document=buried(plan, fit, rng, placed, fit.room(sample, n)))


def buried(plan: SuitePlan, fit: Fit, rng: random.Random, placed: Sequence[tuple[float, str]], n_tokens: int) -> str:
    """Hay of n_tokens with the placed sentences (depth, text) in it. Raises EvaluationError if they do not fit."""
    hay = source(plan, rng)
    try:
        text = haystack.document(rng, placed, n_tokens, fit.count, hay)
    except ValueError as error:
        raise EvaluationError(f"the prompt is too short: {error}") from None
    n_found = fit.count(text)
    if n_found < _LEAST * n_tokens - 60 and plan.haystack is not None:
        raise EvaluationError(
            f"the haystack {plan.haystack.name!r} has {n_found} tokens, a document needs {n_tokens}: add text to it"
        )
    return text


def source(plan: SuitePlan, rng: random.Random) -> Iterator[str]:
    """Sentences of the plan's haystack from a random one on; ours has no end."""
    if plan.haystack is None:
        return haystack.sentences(rng)
    corpus = _corpus(plan.haystack)
    return corpus.hay(rng.randrange(len(corpus.haystacks)), rng)


@functools.lru_cache(maxsize=4)
def _corpus(path: Path) -> Corpus:
    return Corpus.load(text=path)
