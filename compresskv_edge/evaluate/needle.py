"""Needle in a haystack: is one fact of a long document still found when most of the cache is gone?

    python -m compresskv_edge.evaluate.needle --prompts 120 --json docs/results/needle.json

Each prompt is a document with one needle at a depth of 0 to 100 %, alone or among facts of its kind, then a question.
Decoding is greedy; an answer is right if its text up to the full stop equals the expected one. As in the paper, the
prompt is evicted once, after it was read: the first answer token comes from the full prompt's logits, so even a method
that keeps nothing useful is right where one token is the answer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Union

from .. import native
from ..budget import resolve_mean_budget
from ..demo import model_path
from ..llama import Llama, ProfileSource
from ..policies import streaming_llm
from ..profile import Profile
from . import haystack

BUDGETS = (0.25, 0.12, 0.06, 0.03)
CONTEXTS = (512, 1024, 2048, 4000)  # the demo model ends at 4096; the answer needs room
DEPTHS = tuple(i / 10 for i in range(11))
DISTRACTORS = (0, 4)
PROFILE = "tiny-needle2"
SEED = 1

_ANSWER_TOKENS = 16
_STOP = (".", "\n")


@dataclass(frozen=True)
class Prompt:
    """One question over one document. `n_context` is the limit asked for, `n_tokens` what whole sentences made of it."""

    text: str
    answer: str
    sentence: str
    kind: str
    n_context: int
    n_tokens: int
    depth: float
    n_distractors: int


@dataclass(frozen=True)
class Outcome:
    """One prompt under one policy. `budget` is a fraction of the prompt; bytes as in KVStats."""

    policy: str
    budget: float
    n_context: int
    depth: float
    n_distractors: int
    correct: bool
    answer: str
    n_kept: float  # mean over the layers
    kv_bytes: int


#
# prompts
#


def make_prompt(
    seed: int, count: haystack.TokenCounter, *, n_context: int, depth: float, n_distractors: int = 0, kind: str = "code"
) -> Prompt:
    """A prompt of at most `n_context` tokens (start token included), the same for the same arguments.

    count: tokens of a text, without a start token. Raises ValueError if the facts do not fit.
    """
    rng = random.Random(f"{seed}/{n_context}/{depth}/{n_distractors}/{kind}")
    needle, *others = haystack.draw_facts(rng, [kind] * (n_distractors + 1))
    tail = haystack.question_prompt("", needle.question)
    placed = [(depth, needle.sentence), *((rng.random(), fact.sentence) for fact in others)]
    document = haystack.document(rng, placed, n_context - 1 - count(tail), count)
    text = haystack.question_prompt(document, needle.question)
    return Prompt(
        text, needle.answer, needle.sentence, kind, n_context, count(text) + 1, depth, n_distractors
    )


def make_prompts(
    n: int,
    count: haystack.TokenCounter,
    *,
    seed: int = SEED,
    contexts: Sequence[int] = CONTEXTS,
    distractors: Sequence[int] = DISTRACTORS,
) -> list[Prompt]:
    """`n` prompts that walk through contexts, depths, distractors and kinds of facts at once."""
    return [
        make_prompt(
            seed + 1000 * i,
            count,
            n_context=contexts[i % len(contexts)],
            depth=DEPTHS[i % len(DEPTHS)],
            n_distractors=distractors[i // len(contexts) % len(distractors)],
            kind=haystack.KINDS[i % len(haystack.KINDS)],
        )
        for i in range(n)
    ]


def token_counter(llm: Llama) -> haystack.TokenCounter:
    """Tokens of a text by the model's tokenizer, without a start token."""
    return lambda text: len(llm.tokenize(text.encode(), add_bos=False))


#
# answers
#


def _full(llm: Llama, prompt: str) -> str:
    out: Any = llm.create_completion(prompt, max_tokens=_ANSWER_TOKENS, temperature=0.0, stop=list(_STOP))
    return str(out["choices"][0]["text"])


def _streaming_llm(llm: Llama, prompt: str, budget_tokens: int) -> str:
    llm.eval(llm.tokenize(prompt.encode()))
    first_token = llm.sample(temp=0.0)
    kept = streaming_llm.keep(llm.n_tokens, budget_tokens)
    native.keep(llm.ctx, [kept] * llm.kv_stats().n_layer)
    return first_token


def main() -> None: ...
