"""How far a smaller cache moves the model's predictions: no labels, any text, any model; sees eviction in decoding.

A prompt is read and evicted; the text that follows is fed token by token, whatever the model would have said (teacher
forcing). At each step the predictions are compared with those of the full cache: `agreement`, the share of steps at
which the most likely token is the same (the score), and `kl`, the mean divergence KL(full || policy) in nats.
The first prediction comes from the full prompt in both and is left out.

Our own text is a document with facts, then questions about them and their answers; any other comes with plan.data, a
.txt file or a folder of some.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..calibration.corpus import Corpus
from ..errors import EvaluationError
from . import haystack
from .hay import buried
from .sample import Audience, Fit, Sample, SuitePlan, Turn, generator

TASKS: dict[str, Audience] = {"facts": "any", "text": "any"}

_TOKENS_A_FACT = 40  # of the document


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """`depths * repeats` texts for each context; the turn's answer is the text to feed. Raises EvaluationError."""
    cells = itertools.product(plan.contexts, range(plan.depths * plan.repeats))
    if plan.data is not None:
        return [_text(plan, fit, *cell) for cell in cells]
    if plan.tasks == ("text",):
        raise EvaluationError("task 'text' needs a text: give --data FILE.txt or a folder of .txt files")
    return [_facts(plan, fit, *cell) for cell in cells]


def divergence(full: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> float:
    """KL(softmax(full) || softmax(logits)) in nats. Both are (n_vocab,)."""
    p, q = _log_softmax(full), _log_softmax(logits)
    return float(np.sum(np.exp(p) * (p - q)))


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    out: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return out


def _facts(plan: SuitePlan, fit: Fit, n_context: int, i: int) -> Sample:
    name = f"fidelity/facts/{n_context}/{i}"
    rng = generator(plan, name)
    kinds = [haystack.KINDS[j % len(haystack.KINDS)] for j in range(n_context // _TOKENS_A_FACT)]
    facts = haystack.draw_facts(rng, kinds)
    placed = [(rng.random(), fact.sentence) for fact in facts]
    text = buried(plan, fit, rng, placed, n_context - 1)
    asked = (f"{haystack.question_prompt('', fact.question)} {fact.answer}." for fact in facts)
    return _sample(plan, fit, name, text, asked, n_context)


def _text(plan: SuitePlan, fit: Fit, n_context: int, i: int) -> Sample:
    """Sentences from a random one on: as many as fit the prompt, then those that follow."""
    assert plan.data is not None
    name = f"fidelity/text/{n_context}/{i}"
    rng = generator(plan, name)
    corpus = Corpus.load(text=plan.data)
    hay = (f" {sentence}" for sentence in corpus.hay(i % len(corpus.haystacks), rng))
    text, n = "", 1
    for sentence in hay:
        n += fit.count(sentence)
        if n > n_context:
            return _sample(plan, fit, name, text, itertools.chain([sentence], hay), n_context)
        text += sentence
    raise EvaluationError(f"{plan.data.name!r} is shorter than {n_context} tokens: give more text or shorter contexts")


def _sample(plan: SuitePlan, fit: Fit, name: str, text: str, after: Iterator[str], n_context: int) -> Sample:
    forced = ""
    for part in after:
        forced += part
        if fit.count(forced) > plan.decode_tokens:
            break
    else:
        if plan.data is not None:
            raise EvaluationError(
                f"{plan.data.name!r} ends before {plan.decode_tokens} tokens after a prompt of {n_context}: add text"
            )
    task = name.split("/")[1]
    turn = Turn("", (forced,), metric="agreement", task=task, max_tokens=plan.decode_tokens)
    return Sample(name, text, (turn,), raw=True, split={"context": n_context})
