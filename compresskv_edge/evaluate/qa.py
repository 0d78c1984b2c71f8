"""Questions over several documents in one prompt, scored by LongBench's F1; or LongBench's own sets (longbench.py).

Task `single`: one passage answers, three others hold a fact of the same kind. `bridge`: two passages must be put
together, the second is found only through the first (form of HotpotQA, arXiv:1809.09600).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

from . import haystack, longbench
from .hay import HINT, buried
from .sample import Audience, Fit, Sample, SuitePlan, Turn, generator

TASKS: dict[str, Audience] = {"single": "any", "bridge": "large"}

_N_ALIKE = 4  # facts of the kind asked for, or pairs to bridge
_PASSAGE_TOKENS = 150


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """`depths * repeats` prompts for each task and context; with plan.data, all that is there."""
    if plan.data is not None:
        return longbench.make(plan, fit)
    cells = itertools.product(plan.tasks or TASKS, plan.contexts, range(plan.depths * plan.repeats))
    return [_sample(plan, fit, *cell) for cell in cells]


def _sample(plan: SuitePlan, fit: Fit, task: str, n_context: int, i: int) -> Sample:
    name = f"qa/{task}/{n_context}/{i}"
    rng = generator(plan, name)
    kind = haystack.KINDS[i % len(haystack.KINDS)]
    question, answer, lines = _single(rng, kind) if task == "single" else _bridge(rng)
    marked = lines[:1] if task == "single" else [lines[0], lines[_N_ALIKE]]
    turn = Turn(question, (answer,), metric="f1", task=task, marked=tuple(marked))
    sample = Sample(name, "", (turn,), hint=HINT, split={"context": n_context})
    room = fit.room(sample, n_context)
    return replace(sample, document=_passages(plan, fit, rng, lines, room))


def _single(rng: random.Random, kind: str) -> tuple[str, str, list[str]]:
    others = [other for other in haystack.KINDS if other != kind]
    needle, *facts = haystack.draw_facts(rng, [kind] * _N_ALIKE + rng.sample(others, 4))
    return needle.question, needle.answer, [needle.sentence, *(fact.sentence for fact in facts)]


def _bridge(rng: random.Random) -> tuple[str, str, list[str]]:
    keeps = haystack.draw_facts(rng, ["keep"] * _N_ALIKE)
    codes = [str(code) for code in rng.sample(range(1000, 10_000), _N_ALIKE)]
    places = [f"The secret code of {keep.answer} is {code}." for keep, code in zip(keeps, codes)]
    question = f"{keeps[0].question} Which secret code does that place have? Answer with the code."
    return question, codes[0], [*(keep.sentence for keep in keeps), *places]


def _passages(plan: SuitePlan, fit: Fit, rng: random.Random, lines: Sequence[str], room: int) -> str:
    """Numbered documents that fill the room; each line lies in one of them."""
    n = max(room // _PASSAGE_TOKENS, 2)
    heads = [f"\n\nDocument {i + 1}." for i in range(n)]
    size = (room - sum(map(fit.count, heads))) // n
    placed: list[list[tuple[float, str]]] = [[] for _ in range(n)]
    order = rng.sample(range(n), n)
    for i, line in enumerate(lines):
        placed[order[i % n]].append((rng.random(), line))
    texts = (buried(plan, fit, rng, each, size) for each in placed)
    return "".join(head + text for head, text in zip(heads, texts)).lstrip("\n")
