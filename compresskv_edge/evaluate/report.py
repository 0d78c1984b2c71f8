"""A run's summary as a table: for the terminal (rich) and for documents (Markdown)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

from .grid import FULL

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

Row = Mapping[str, Any]

EXTRAS = ("agreement", "kl", "evidence", "evidence_any")  # measures beside the score, see player.py
_COSTS = ("KV KiB", "prefill ms", "evict ms", "decode ms")


class Shown:
    """Policy x budget, for a terminal; a narrow one gets fewer columns, then shorter intervals as well."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        self._head = f"{title(summary)}, 95 % intervals"
        self._columns, self._lines = cells(summary)
        if "agreement" in self._columns:
            beside: tuple[str, ...] = EXTRAS
        else:  # fidelity's kl belongs to its score, and full agrees with itself
            beside = ("% of full",) if "kl" in self._columns else ()
        usual = [name for name in self._columns if name not in EXTRAS or name not in beside]
        least = [
            name for name in usual if name not in (_difference(summary), "evict ms", *beside)
        ]  # fits 80 characters
        self._widths = (self._columns, usual, least)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for columns in self._widths[:-1]:
            wide = self._table(columns, lambda text: text)
            if console.measure(wide, options=options.update(max_width=1000)).maximum <= options.max_width:
                yield wide
                return
        yield self._table(self._widths[-1], lambda text: text.replace(" to ", "-"))

    def _table(self, columns: Sequence[str], shorten: Callable[[str], str]) -> Table:
        from rich import box
        from rich.table import Table

        shown = Table(title=self._head, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        at = [i for i, name in enumerate(self._columns) if name in columns]
        for i in at:
            name = self._columns[i].replace(" ms", "\nms").replace(" KiB", "\nKiB")
            shown.add_column(name, justify="left" if i == 0 else "right", no_wrap=i > 0)
        for line in self._lines:
            shown.add_row(*(shorten(line[i]) for i in at))
        return shown


def table(summary: Mapping[str, Any]) -> Shown:
    """The table of a run, to be printed by rich."""
    return Shown(summary)


def title(summary: Mapping[str, Any]) -> str:
    """What was run: "multi-turn, model.gguf, 66 prompts"."""
    n = summary["n_prompts"]
    return f"{summary['suite'].replace('_', '-')}, {summary['model']['file']}, {n} prompt{'' if n == 1 else 's'}"


def markdown(summary: Mapping[str, Any]) -> str:
    """The same table as Markdown."""
    return markdown_table(*cells(summary))


def matrix(rows: Sequence[Row]) -> str:
    """Markdown: policies down, budgets across, score with its interval."""
    budgets = sorted({row["budget"] for row in rows if row["policy"] != FULL}, key=float)
    policies = dict.fromkeys(row["policy"] for row in rows)
    by_cell = {(row["policy"], row["budget"]): row for row in rows}
    full = next((row for row in rows if row["policy"] == FULL), None)
    lines = []
    for policy in policies:
        found = [full if policy == FULL else by_cell.get((policy, budget)) for budget in budgets] or [full]
        lines.append([policy, *("" if row is None else score(row) for row in found)])
    return markdown_table(["policy", *(map(percent, budgets) if budgets else ["100 %"])], lines)


def cells(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and lines; a column for each extra measure, such as fidelity's kl."""
    rows = summary["rows"]
    extras = [name for name in EXTRAS if any(name in row for row in rows)]
    columns = ["policy", "budget", "score", "% of full", _difference(summary), *_COSTS, *extras]
    return columns, [[*_line(row), *(f"{row[name]:.4f}" if name in row else "" for name in extras)] for row in rows]


def _difference(summary: Mapping[str, Any]) -> str:
    """Name of the column of differences."""
    return f"- {summary['base']}"


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
        score(row),
        "100" if row["policy"] == FULL else _interval(row["of_full"], 100, ".0f"),
        _interval(row["versus_base"], 1, "+.2f"),
        f"{row['kv_bytes'] / 1024:.0f}",
        f"{row['prefill_ms']:.0f}",
        f"{row['evict_ms']:.1f}",
        "" if row["decode_ms"] is None else f"{row['decode_ms']:.2f}",
    ]


def score(row: Row) -> str:
    """A row's score with its interval."""
    return f"{row['score']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _interval(values: Optional[Sequence[float]], factor: float, form: str) -> str:
    if values is None:
        return ""
    mean, low, high = (format(factor * value, form) for value in values)
    return f"{mean} ({low} to {high})"
