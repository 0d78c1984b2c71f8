"""A run's summary as a table: for the terminal (rich) and for documents (Markdown)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from .grid import BASE, FULL

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]

COLUMNS = ("policy", "budget", "score", "% of full", f"- {BASE}", "KV KiB", "prefill ms", "evict ms", "decode ms")


def table(summary: Mapping[str, Any]) -> Table:
    """Policy x budget, for a terminal."""
    from rich.table import Table

    head = f"{summary['suite']}, {summary['model']['file']}, {summary['n_prompts']} prompts, 95 % intervals"
    shown = Table(title=head, title_justify="left")
    columns, rows = cells(summary["rows"])
    for column in columns:
        shown.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def markdown(rows: Sequence[Row]) -> str:
    """The same table as Markdown."""
    columns, lines = cells(rows)
    return markdown_table(columns, lines)


def matrix(rows: Sequence[Row]) -> str:
    """Markdown: policies down, budgets across, score with its interval."""
    budgets = sorted({row["budget"] for row in rows if row["policy"] != FULL}, key=float)
    policies = dict.fromkeys(row["policy"] for row in rows)
    by_cell = {(row["policy"], row["budget"]): row for row in rows}
    full = next((row for row in rows if row["policy"] == FULL), None)
    lines = []
    for policy in policies:
        found = [full if policy == FULL else by_cell.get((policy, budget)) for budget in budgets] or [full]
        lines.append([policy, *("" if row is None else _score(row) for row in found)])
    return markdown_table(["policy", *(map(percent, budgets) if budgets else ["100 %"])], lines)


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns and lines; a column for each extra measure, such as fidelity's kl."""
    extras = [name for name in ("kl",) if any(name in row for row in rows)]
    return [*COLUMNS, *extras], [[*_line(row), *(f"{row[name]:.4f}" for name in extras)] for row in rows]


def markdown_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [list(columns), ["---"] * len(columns), *map(list, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def percent(budget: Any) -> str:
    """A budget for people: 0.007 as "0.7 %", 256 as "256"."""
    return f"{100 * budget:g} %" if isinstance(budget, float) else str(budget)


def _line(row: Row) -> list[str]:
    return [
        row["policy"],
        percent(row["budget"]),
        _score(row),
        _interval(row["of_full"], 100, ".0f"),
        _interval(row["versus_base"], 1, "+.2f"),
        f"{row['kv_bytes'] / 1024:.0f}",
        f"{row['prefill_ms']:.0f}",
        f"{row['evict_ms']:.1f}",
        f"{row['decode_ms']:.2f}",
    ]


def _score(row: Row) -> str:
    return f"{row['score']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _interval(values: Optional[Sequence[float]], factor: float, form: str) -> str:
    if values is None:
        return ""
    mean, low, high = (format(factor * value, form) for value in values)
    return f"{mean} ({low} to {high})"
