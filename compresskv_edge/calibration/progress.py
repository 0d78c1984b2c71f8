"""How far a calibration is: for programs a callback, for people a bar with the time left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

from ..engine import logs

# what a generated token costs, in tokens of a prompt
DECODE_COST = 3


@dataclass(frozen=True)
class Progress:
    """Work done and in all, in prompt tokens; what is going on; needles found and asked for."""

    done: float
    total: float
    phase: str
    n_found: int
    n_asked: int


Report = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """No report."""


@contextlib.contextmanager
def bar(title: str) -> Iterator[Report]:
    """A progress bar with an estimate of the time left, on stderr; silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    silent = not console.is_terminal or logs.is_quiet()
    with Bar(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=silent, speed_estimate_period=600.0
    ) as shown:
        task = shown.add_task(title, total=None)

        def report(progress: Progress) -> None:
            found = f"{progress.n_found}/{progress.n_asked} found"
            shown.update(
                task, completed=progress.done, total=progress.total, description=f"{title}, {progress.phase}, {found}"
            )

        yield report
