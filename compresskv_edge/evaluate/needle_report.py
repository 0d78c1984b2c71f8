"""What came of needles in a haystack (needle.py): accuracies with their intervals, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from .wilson import shares


@dataclass(frozen=True)
class NeedleOutcome:
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


def summarise(outcomes: Iterable[NeedleOutcome], by: str | None = None) -> list[dict[str, Any]]:
    """Accuracy with its interval for each policy and budget, also split by a field of NeedleOutcome such as "depth"."""
    fields = ("policy", "budget", *([by] if by else []))
    groups: dict[tuple[Any, ...], list[NeedleOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault(tuple(getattr(outcome, field) for field in fields), []).append(outcome)
    return [{**dict(zip(fields, key)), **_score(group)} for key, group in groups.items()]


def _score(group: Sequence[NeedleOutcome]) -> dict[str, Any]:
    n = len(group)
    return {
        **shares(sum(outcome.correct for outcome in group), n),
        "n_kept": round(sum(outcome.n_kept for outcome in group) / n, 1),
        "kv_bytes": round(sum(outcome.kv_bytes for outcome in group) / n),
    }


SPLITS = ("n_distractors", "n_context", "depth")


def report(outcomes: Sequence[NeedleOutcome], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into the JSON file: the settings, all prompts together, and split by each of SPLITS."""
    splits = {f"by_{field}": summarise(outcomes, field) for field in SPLITS}
    return {"settings": dict(settings), "overall": summarise(outcomes), **splits}


def markdown(results: Mapping[str, Any], by: str | None = None) -> str:
    """A table of a report: policies down, budgets across; with `by`, one of SPLITS, policies at each budget down."""
    if by is None:
        return _table("policy", results["overall"], lambda row: row["policy"], lambda row: share(row["budget"]))
    return _table("policy, cache", results[f"by_{by}"], _policy_and_budget, lambda row: str(row[by]))


def _table(
    corner: str,
    cells: Sequence[Mapping[str, Any]],
    row_of: Callable[[Mapping[str, Any]], str],
    column_of: Callable[[Mapping[str, Any]], str],
) -> str:
    text = {(row_of(cell), column_of(cell)): _cell(cell) for cell in cells}
    rows, columns = (list(dict.fromkeys(key[axis] for key in text)) for axis in (0, 1))
    lines = [[corner, *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(text.get((row, column), "") for column in columns)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Mapping[str, Any]) -> str:
    return f"{cell['accuracy']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})"


def _policy_and_budget(row: Mapping[str, Any]) -> str:
    return f"{row['policy']}, {share(row['budget'])}"


def share(fraction: float) -> str:
    """0.25 -> "25%"."""
    return f"{fraction:.0%}"
