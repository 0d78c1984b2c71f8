"""Every policy at every budget on the same prompts, each prompt read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from .journal import Journal
from .outcome import FULL as FULL
from .outcome import Budget
from .player import Player
from .sample import Sample

FULL_BUDGET = 1.0
BASE = "compresskv"  # what the others are compared with

Report = Callable[["Step"], None]


@dataclass(frozen=True)
class Step:
    """How far a run is: cells (sample, policy, budget) done and in all, those of an earlier run included."""

    done: int
    total: int
    sample: str


def cells(names: Sequence[str], budgets: Sequence[Budget]) -> list[tuple[str, Budget]]:
    """Policies and budgets of one prompt: the full cache first and once, it is what the rest is measured against."""
    others = [name for name in dict.fromkeys(names) if name != FULL]
    return [(FULL, FULL_BUDGET), *((name, budget) for name in others for budget in dict.fromkeys(budgets))]


def run(
    player: Player,
    samples: Sequence[Sample],
    names: Sequence[str],
    budgets: Sequence[Budget],
    journal: Journal,
    report: Report = lambda _: None,
) -> None:
    """Fill the journal with what it lacks. Raises whatever a policy or the engine raises; what is done is kept."""
    wanted = cells(names, budgets)
    done = sum((sample.name, *cell) in journal for sample in samples for cell in wanted)
    total = len(samples) * len(wanted)
    report(Step(done, total, ""))
    for sample in samples:
        missing = [cell for cell in wanted if (sample.name, *cell) not in journal]
        if not missing:
            continue
        prefill = player.read(sample, [name for name in dict.fromkeys(cell[0] for cell in missing) if name != FULL])
        if missing[0][0] != FULL and prefill.needs_full:
            player.play(prefill, FULL, FULL_BUDGET)  # the reference again, for a run that goes on
        for policy, budget in missing:
            journal.add(player.play(prefill, policy, budget))
            done += 1
            report(Step(done, total, sample.name))
