"""`compresskv demo`: questions about one long document, answered with the full cache and with a compressed one, side by
side. Everything shown is measured while it runs.
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
from .measure import measure, n_steps
from .scene import N_QUESTIONS, packaged, real
from .view import show

_REAL = "qwen2.5-coder-0.5b-instruct"


def run(
    budget: int | float | None = None,
    *,
    model: str | None = None,
    n_questions: int = N_QUESTIONS,
    json_path: Path | None = None,
    console: Console | None = None,
) -> int:
    """Measure and show; returns the exit status.

    budget: as `kv_budget` of Llama, None: what the model bears. model: a path or a name of the catalogue, None: the one
    that ships with the package. Raises BudgetError, EngineError, ModelError, ValueError.
    """
    if n_questions < 1:
        raise ValueError(f"n_questions is {n_questions}: ask 1 or more")
    console = console or Console()
    scene = packaged(budget, n_questions) if model is None else real(model, budget, n_questions)
    with _progress(n_steps(scene), console) as step:
        result = measure(scene, step)
    show(result, console)
    if model is None:
        more = f"compresskv pull {_REAL} && compresskv demo {_REAL}"
        console.print(f"The same with a real model: {more}\n", soft_wrap=True)
    if json_path is not None:
        write_json(json_path, asdict(result))
    return 0


@contextlib.contextmanager
def _progress(n_steps: int, console: Console) -> Iterator[Callable[[str], None]]:
    """A bar while it runs; nothing where the console is no terminal. Yields what to call after each step."""
    with Progress(console=console, transient=True, disable=not console.is_terminal or logs.is_quiet()) as shown:
        task = shown.add_task("reading a long document", total=n_steps)
        yield lambda phase: shown.update(task, advance=1, description=phase)
