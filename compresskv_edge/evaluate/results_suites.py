"""Sections of docs/results.md on runs of `compresskv eval`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional

from . import report
from .grid import FULL
from .report import markdown_table, matrix, percent

Data = Mapping[str, Any]

PARTS = "ablation"  # folder of the runs that compare a policy with itself less one part

_TASKS_SHOWN = ("ruler", "multi_turn")
_LEVELS = (0.97, 0.9)  # of full: the paper's figures for 3 % and for 0.7 %
_MANY = 12  # policies


def suite(name: str, data: Data) -> Iterator[str]:
    settings, profile, model = data["settings"], data["profile"], data["model"]
    many = ", all policies" if len({row["policy"] for row in data["rows"]}) > _MANY else ""
    protected = ", system prompt protected" if settings.get("protect_system") else ""
    yield f"## {data['suite'].replace('_', '-')}: {model['file']}{many}{protected}"
    yield (
        f"[{name}](results/{name}): {data['n_prompts']} prompts of {listed(settings['contexts'])} tokens, tasks "
        f"{listed(settings['tasks'])}, form {settings['form']}, tail {settings['tail']}, seed "
        f"{settings['seed']}; profile "
        f"{'calibrated' if profile['calibrated'] else 'uncalibrated'}, {profile['n_heads']} heads a layer. "
        f"{data['machine']['cpu']}, compresskv_edge {data['machine']['compresskv_edge']}."
    )
    yield matrix(data["rows"])
    yield from _levels(data["rows"])
    differences = _differences(data["rows"])
    if differences:
        yield f"Minus {data['base']} at the same budget, paired by prompt:"
        yield differences
    if data["suite"] in _TASKS_SHOWN:
        yield "By task:"
        yield _by_task(data["by_task"])
    if any("kl" in row for row in data["rows"]):
        yield "Mean KL divergence from the full cache, nats:"
        yield grid(data["rows"], lambda row: f"{row['kl']:.3f}")


def ablation(name: str, data: Data) -> Iterator[str]:
    """What a policy scores, and what is gained or lost by others that differ from it in one part."""
    settings, base = data["settings"], data["base"]
    yield (
        f"[{data['suite'].replace('_', '-')}](results/{PARTS}/{name}), {data['n_prompts']} prompts of "
        f"{listed(settings['contexts'])} tokens, seed {settings['seed']}; {base}, then the others minus {base}, paired "
        "by prompt:"
    )
    scores = grid([row for row in data["rows"] if row["policy"] == base], report.score)
    yield scores + "\n" + "\n".join(_differences(data["rows"]).splitlines()[2:])


def _levels(rows: Sequence[Data]) -> Iterator[str]:
    """From which budget on a policy holds a share of full."""
    policies = dict.fromkeys(row["policy"] for row in rows if row["policy"] != FULL)
    lines = [[policy, *(_holds(rows, policy, level) for level in _LEVELS)] for policy in policies]
    if lines:
        yield "Smallest measured budget from which on the mean score stays at that share of the full cache's:"
        yield markdown_table(["policy", *(percent(level) for level in _LEVELS)], lines)


def _holds(rows: Sequence[Data], policy: str, level: float) -> str:
    mine = sorted((row for row in rows if row["policy"] == policy), key=lambda row: -row["budget"])
    found: Optional[float] = None
    for row in mine:
        if row["of_full"] is None or row["of_full"][0] < level:
            break
        found = row["budget"]
    return "none" if found is None else percent(found)


def _differences(rows: Sequence[Data]) -> str:
    compared = [row for row in rows if row["versus_base"]]
    return grid(compared, lambda row: difference(row["versus_base"])) if compared else ""


def difference(values: Sequence[float]) -> str:
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*values)


def _by_task(rows: Sequence[Data]) -> str:
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    cells = {(row["policy"], row["budget"], row["task"]): f"{row['score']:.2f}" for row in rows}
    keys = dict.fromkeys((policy, budget) for policy, budget, _ in cells)
    lines = [
        [f"{policy}, {percent(budget)}", *(cells.get((policy, budget, t), "") for t in tasks)]
        for policy, budget in keys
    ]
    return markdown_table(["policy, budget", *tasks], lines)


def grid(rows: Sequence[Data], text: Callable[[Data], str]) -> str:
    """A Markdown table: policies down, budgets across."""
    budgets = sorted({row["budget"] for row in rows if row["policy"] != FULL}, key=float)
    cells = {(row["policy"], row["budget"]): text(row) for row in rows}
    policies = dict.fromkeys(row["policy"] for row in rows if row["policy"] != FULL)
    lines = [[policy, *(cells.get((policy, budget), "") for budget in budgets)] for policy in policies]
    return markdown_table(["policy", *map(percent, budgets)], lines)


def listed(values: Any) -> str:
    """Values in a sentence, "-" for none."""
    return ", ".join(map(str, values)) or "-"
