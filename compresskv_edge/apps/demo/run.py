"""`make demo`: questions about one long document, answered with the full cache and with a compressed one, side by side.

Everything shown is measured while it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Callable

from rich.console import Console
from rich.progress import Progress

from ...engine import logs
from ...files import write_json
from .measure import BUDGET, N_QUESTIONS, measure
from .view import show


def run(
    budget: int | float | None = None,
    *,
    n_questions: int = N_QUESTIONS,
    json_path: Path | None = None,
    console: Console | None = None,
) -> int:
    """Measure and show; returns the exit status.

    budget: as `kv_budget` of Llama, None: BUDGET. Raises BudgetError, EngineError, ValueError.
    """
    if n_questions < 1:
        raise ValueError(f"n_questions is {n_questions}: ask 1 or more")
    console = console or Console()
    with _progress(2 * n_questions + 2, console) as step:
        result = measure(BUDGET if budget is None else budget, n_questions, step)
    show(result, console)
    if json_path is not None:
        write_json(json_path, asdict(result))
    return 0


@contextlib.contextmanager
def _progress(n_steps: int, console: Console) -> Iterator[Callable[[str], None]]:
    """A bar while it runs; nothing where the console is no terminal. Yields what to call after each step."""
    with Progress(console=console, transient=True, disable=not console.is_terminal or logs.is_quiet()) as shown:
        task = shown.add_task("reading a long document", total=n_steps)
        yield lambda phase: shown.update(task, advance=1, description=phase)
