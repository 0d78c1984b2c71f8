"""Needle in a haystack: one fact of several kinds at a depth of 0 to 100 %, alone or among four of its kind.

Form of the test: arXiv:2407.01437; the paper's own uses books and one needle (arXiv:2508.02401, section 4.3).
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from . import haystack
from .hay import HINT, bury
from .sample import Audience, Fit, Sample, SuitePlan, Turn, generator

TASKS: dict[str, Audience] = dict.fromkeys(haystack.KINDS, "any")
DISTRACTORS = (0, 4)


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """`repeats` prompts for each context and depth; kinds and distractors take turns.

    With plan.questions above 1 as many documents, each asked for all facts in it: one prompt a fact.
    """
    if plan.questions > 1:
        documents = itertools.product(plan.contexts, range(plan.repeats * plan.depths))
        return [sample for n_context, i in documents for sample in _document(plan, fit, n_context, i)]
    kinds = plan.tasks or tuple(TASKS)
    cells = itertools.product(range(plan.repeats), plan.contexts, plan.grid())
    return [
        _sample(plan, fit, n_context, depth, repeat, kinds[i % len(kinds)], DISTRACTORS[i // len(kinds) % 2])
        for i, (repeat, n_context, depth) in enumerate(cells)
    ]


def _sample(
    plan: SuitePlan, fit: Fit, n_context: int, depth: float, repeat: int, kind: str, n_distractors: int
) -> Sample:
    name = f"niah/{n_context}/{depth}/{repeat}/{kind}/{n_distractors}"
    rng = generator(plan, name)
    needle, *others = haystack.draw_facts(rng, [kind] * (n_distractors + 1))
    placed = [(depth, needle.sentence), *((rng.random(), fact.sentence) for fact in others)]
    turn = _turn(needle)
    split = {"context": n_context, "depth": depth, "distractors": n_distractors}
    return bury(plan, fit, rng, Sample(name, "", (turn,), hint=HINT, split=split), placed, n_context)


def _document(plan: SuitePlan, fit: Fit, n_context: int, i: int) -> list[Sample]:
    """Facts at depths as far apart as the grid allows, all of one kind or each of another."""
    group, n = f"niah/{n_context}/document {i}", plan.questions
    rng = generator(plan, group)
    kinds = rng.sample(plan.tasks or tuple(TASKS), 1) * n if i % 2 else _different(rng, plan, n)
    depths = [plan.grid()[(i + j * (plan.depths // n)) % plan.depths] for j in range(n)]
    facts = haystack.draw_facts(rng, kinds)
    splits = [{"context": n_context, "depth": depth, "distractors": n - 1 if i % 2 else 0} for depth in depths]
    samples = [
        Sample(f"{group}/{j}", "", (_turn(fact),), hint=HINT, group=group, split=split)
        for j, (fact, split) in enumerate(zip(facts, splits))
    ]
    longest = min(samples, key=lambda sample: fit.room(sample, n_context))
    placed = [(depth, fact.sentence) for depth, fact in zip(depths, facts)]
    text = bury(plan, fit, rng, longest, placed, n_context).document
    return [replace(sample, document=text) for sample in samples]


def _different(rng: random.Random, plan: SuitePlan, n: int) -> list[str]:
    """n kinds, none twice as long as there are others."""
    kinds = list(plan.tasks or TASKS)
    rng.shuffle(kinds)
    return [kinds[j % len(kinds)] for j in range(n)]


def _turn(fact: haystack.Fact) -> Turn:
    return Turn(fact.question, (fact.answer,), task=fact.kind, marked=(fact.sentence,))
