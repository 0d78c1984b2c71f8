"""Needle in a haystack: one fact of several kinds at a depth of 0 to 100 %, alone or among four of its kind.

Form of the test: arXiv:2407.01437; the paper's own uses books and one needle (arXiv:2508.02401, section 4.3).
"""

from __future__ import annotations

import itertools

from . import haystack
from .hay import HINT, bury
from .sample import Audience, Fit, Sample, SuitePlan, Turn, generator

TASKS: dict[str, Audience] = dict.fromkeys(haystack.KINDS, "any")
DISTRACTORS = (0, 4)


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """`repeats` prompts for each context and depth; kinds and distractors take turns."""
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
    turn = Turn(needle.question, (needle.answer,), task=kind)
    split = {"context": n_context, "depth": depth, "distractors": n_distractors}
    return bury(plan, fit, rng, Sample(name, "", (turn,), hint=HINT, split=split), placed, n_context)
