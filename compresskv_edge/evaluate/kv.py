"""Exact key-value retrieval: a document of nothing but pairs, one of which is asked for. The hardest case for eviction.

Nothing in the document is hay: all pairs look alike, and which one matters is known from the question alone
(form: arXiv:2307.03172). Task `codes` says the pairs as sentences, `uuids` as a JSON object.
"""

from __future__ import annotations

import itertools
import json
import random
import uuid
from dataclasses import replace

from ..errors import EvaluationError
from . import haystack
from .hay import HINT
from .sample import Audience, Fit, Sample, SuitePlan, Turn, generator

TASKS: dict[str, Audience] = {"codes": "any", "uuids": "large"}


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """`repeats` prompts for each task, context and depth of the pair."""
    cells = itertools.product(plan.tasks or TASKS, plan.contexts, plan.grid(), range(plan.repeats))
    return [_sample(plan, fit, *cell) for cell in cells]


def _sample(plan: SuitePlan, fit: Fit, task: str, n_context: int, depth: float, repeat: int) -> Sample:
    name = f"kv/{task}/{n_context}/{depth}/{repeat}"
    rng = generator(plan, name)
    empty = Sample(name, "", (), hint=HINT, split={"context": n_context, "depth": depth})
    return (_codes if task == "codes" else _uuids)(fit, rng, empty, n_context, depth)


def _codes(fit: Fit, rng: random.Random, empty: Sample, n_context: int, depth: float) -> Sample:
    things = haystack.things(rng)
    codes = [f"{code:04d}" for code in rng.sample(range(10_000), len(things))]
    asked = things[0]
    lines = [f" The secret code of the {t} is {c}." for t, c in zip(things, codes)]
    sample = _ask(empty, f"Which code opens the {asked}?", codes[0], "codes", lines[0])
    room = fit.room(sample, n_context)
    return replace(sample, document="".join(_moved(_fill(lines, room, fit), depth)))


def _uuids(fit: Fit, rng: random.Random, empty: Sample, n_context: int, depth: float) -> Sample:
    keys, values = ([str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(n_context // 8)] for _ in range(2))
    question = f'The text is a JSON object. What is the value of the key "{keys[0]}"?'
    pairs = [f"{json.dumps(k)}: {json.dumps(v)},\n" for k, v in zip(keys, values)]
    sample = _ask(empty, question, values[0], "uuids", pairs[0], max_tokens=64)
    lines = _moved(_fill(pairs, fit.room(sample, n_context) - 4, fit), depth)
    return replace(sample, document="{" + "".join(lines).rstrip(",\n") + "}")


def _ask(empty: Sample, question: str, answer: str, task: str, line: str, max_tokens: int = 24) -> Sample:
    turn = Turn(question, (answer,), task=task, max_tokens=max_tokens, marked=(line.strip(" ,\n"),))
    return replace(empty, turns=(turn,))


def _fill(lines: list[str], room: int, fit: Fit) -> list[str]:
    """As many of the lines as fit, the first of them in any case."""
    chosen: list[str] = []
    for line in lines:
        room -= fit.count(line)
        if room < 0:
            break
        chosen.append(line)
    else:
        raise EvaluationError(f"{len(lines)} different pairs do not fill the prompt: lower the context")
    if len(chosen) < 2:
        raise EvaluationError("the prompt is too short for two pairs: raise the context")
    return chosen


def _moved(lines: list[str], depth: float) -> list[str]:
    """The first line goes to its depth."""
    first, *others = lines
    at = round(depth * len(others))
    return [*others[:at], first, *others[at:]]
